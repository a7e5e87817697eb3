"""What a call of `write` asks for, checked; and whether two calls ask for the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sae.cache.format import stored_dtype
from sae.cache.texts import UNITS
from sparsecode._checks import check_choice, check_float, check_int

OUTLIER_MULTIPLE = 10.0


@dataclass(frozen=True, kw_only=True)
class WriteSettings:
    """The arguments of `write` that decide what is written; see there."""

    dtype: str = "float16"
    """Stored dtype."""
    context_length: int | None = None
    """Most tokens that the model sees together."""
    batch_size: int = 32
    """Full contexts in a forward pass."""
    text_column: str = "text"
    """Key of the text in data sets and JSONL files."""
    text_unit: str = "paragraph"
    """What is one document in a text file."""
    max_tokens: int | None = None
    """Most rows that the call adds."""
    drop_special_tokens: bool = True
    """Whether rows of special tokens are left out."""
    drop_outliers: bool | float = False
    """Multiple of the median norm above which rows are left out."""
    shard_rows: int | None = None
    """Most rows of a shard; at least the context length."""

    def __post_init__(self) -> None:
        """Check and normalise every field."""
        put = object.__setattr__
        put(self, "dtype", stored_dtype(self.dtype))
        check_int("batch_size", self.batch_size, low=1)
        check_choice("text_unit", self.text_unit, UNITS)
        if not isinstance(self.text_column, str):
            raise TypeError(f"`text_column` must be a name; got {self.text_column!r}.")
        for name in ("context_length", "max_tokens", "shard_rows"):
            if getattr(self, name) is not None:
                put(self, name, check_int(name, getattr(self, name), low=1))
        multiple = OUTLIER_MULTIPLE if self.drop_outliers is True else self.drop_outliers
        if multiple is not False:
            multiple = check_float("drop_outliers", multiple, low=1, open_low=True)
        put(self, "drop_outliers", multiple)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return ``key=old instead of new`` for each entry in which two nested mappings differ."""
    found = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}={old!r} instead of {new!r}")
    return found
