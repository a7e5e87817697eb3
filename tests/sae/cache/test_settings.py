"""Arguments of `write` are checked before anything is done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae.cache import Cache
from sae.cache.settings import WriteSettings, differences


@pytest.mark.parametrize(
    ("option", "error", "fact"),
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be an int in"),
        ({"max_tokens": 0}, ValueError, "`max_tokens` must be an int in"),
        ({"shard_rows": 1.5}, TypeError, "`shard_rows` must be an int in"),
        ({"drop_outliers": 0.5}, ValueError, "`drop_outliers` must be a finite number in"),
        ({"dtype": "float64"}, ValueError, "`dtype` must be one of"),
        ({"context_length": 33}, ValueError, "`context_length` must be an int in .*=32"),
        ({"hookpoints": "encoder.layer.9"}, ValueError, "matches none. Did you mean"),
        ({"texts": None}, TypeError, "`texts` must be a list of strings"),
    ],
)
def test_bad_arguments_are_refused_and_leave_nothing(
    write: Callable[..., Cache],
    option: dict[str, Any],
    error: type[Exception],
    fact: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=fact):
        write(**option)
    assert not any((tmp_path / "acts").rglob("*"))


def test_settings_are_normalised() -> None:
    assert WriteSettings(dtype="torch.bfloat16").dtype == "bfloat16"
    assert WriteSettings(drop_outliers=True).drop_outliers == 10.0
    assert WriteSettings(drop_outliers=5).drop_outliers == 5.0
    assert WriteSettings().drop_outliers is False


def test_differences_name_the_entry() -> None:
    before = {"a": 1, "b": {"c": [1], "d": 2}, "gone": None}
    assert differences(before, before) == []
    assert differences(before, {"a": 1, "b": {"c": [2], "d": 2}, "new": 3}) == [
        "b.c=[1] instead of [2]",
        "new=None instead of 3",
    ]
