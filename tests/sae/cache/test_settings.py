"""Arguments of `write` are checked before anything is done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sae.cache
from sae.cache import Cache
from sae.cache.settings import WriteSettings, differences


@pytest.mark.parametrize(
    ("option", "error", "fact"),
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be an int in"),
        ({"max_tokens": 0}, ValueError, "`max_tokens` must be an int in"),
        ({"shard_rows": 1.5}, TypeError, "`shard_rows` must be an int in"),
        ({"shard_rows": 7}, ValueError, "`shard_rows` must be at least the context length 8, .* 7"),
        ({"text_column": None}, TypeError, "`text_column` must be a name; got None"),
        ({"tokenizer": 3}, TypeError, "`tokenizer` must be a transformers tokenizer, .* got int"),
        ({"tokenizer": "no/where/x"}, ValueError, "`tokenizer` must be on .*'no/where/x' could"),
        ({"device": "gpu"}, ValueError, "`device` must be one that torch can use here, .*'gpu'"),
        ({"device": "hpu"}, ValueError, "`device` must be one that torch can use here, .*'hpu'"),
        ({"out": ""}, TypeError, "`out` must be the path of a folder; got ''"),
        ({"out": None}, TypeError, "`out` must be the path of a folder; got None"),
        ({"hookpoints": "encoder.layer.[9"}, ValueError, "matches none. Did you mean"),
        ({"hookpoints": "encoder.layer.[9-0]"}, ValueError, "bad character range 9-0"),
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
    assert not any(tmp_path.iterdir())


def test_the_folders_above_are_not_left_either(write: Callable[..., Cache], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="matches none"):
        write(out=tmp_path / "a" / "b", hookpoints="decoder")
    assert not any(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="must hold at least one token"):
        write([""], out=tmp_path / "mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_a_model_that_cannot_be_loaded_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`model` must be a transformers model"):
        sae.cache.write(tmp_path / "model", ["a"], "encoder", tmp_path / "acts")
    assert not any(tmp_path.iterdir())


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
