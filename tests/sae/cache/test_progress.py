"""The progress bar of a write."""

import re
from collections.abc import Callable

import pytest

from sae.cache import Cache
from sae.cache.progress import Progress


def test_the_progress_bar_shows_tokens_a_second(
    write: Callable[..., Cache], capsys: pytest.CaptureFixture[str]
) -> None:
    n = write(progress=True).n_rows
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(rf"caching: 100%.* {n}/{n} .*tok/s", last)


def test_the_total_follows_the_share_of_the_texts() -> None:
    with Progress(100, None, True) as progress:
        assert progress._bar.n == 100
        progress.estimate(500, 0.25)
        assert progress._bar.total == 2000
        progress.add(400)
    assert progress._bar.total == progress._bar.n == 500
    with Progress(0, 77, True) as progress:
        progress.estimate(500, 0.25)
        assert progress._bar.total == 77
