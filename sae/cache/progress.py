"""The progress bar of a write: rows, tokens per second, time left."""

from types import TracebackType
from typing import Any


class Progress:
    """A tqdm bar that counts cached tokens; its total is an estimate that follows the texts.

    Parameters
    ----------
    start : int
        Rows that an interrupted call had written.
    total : int or None
        Rows at which writing stops, if known.
    show : bool or None
        None shows the bar in a terminal only.
    """

    def __init__(self, start: int, total: int | None, show: bool | None) -> None:
        self._start = start
        self._total = total
        self._show = show

    def __enter__(self) -> "Progress":
        from tqdm import tqdm

        self._bar: Any = tqdm(
            total=self._total,
            initial=self._start,
            unit="tok",
            unit_scale=True,
            desc="caching",
            dynamic_ncols=True,
            disable=None if self._show is None else not self._show,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._bar.total = self._bar.n  # an estimate until here
        self._bar.close()

    def add(self, tokens: int) -> None:
        """Count tokens that went through the model and were kept."""
        self._bar.update(tokens)

    def estimate(self, rows: int, share: float) -> None:
        """Say that `rows` rows come from a `share` of the texts, to show the time left."""
        if self._total is None and share > 0:
            self._bar.total = int(rows / share)
