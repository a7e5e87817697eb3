"""A generator in a thread: same items, same errors, nothing left behind."""

import threading
import time
from collections.abc import Generator

import pytest

from sae.cache.prefetch import prefetched


def threads() -> int:
    return sum(thread.name.startswith("sparsecode") for thread in threading.enumerate())


def numbers(stop: int, made: list[int], closed: list[bool]) -> Generator[int, None, None]:
    try:
        for number in range(stop):
            made.append(number)
            yield number
    finally:
        closed.append(True)


def test_items_come_in_order_and_the_thread_ends() -> None:
    made, closed = [], []
    assert list(prefetched(numbers(100, made, closed), 3)) == list(range(100))
    assert closed == [True]
    assert threads() == 0


def test_no_more_items_are_made_than_asked_for() -> None:
    made, closed = [], []
    stream = prefetched(numbers(100, made, closed), 2)
    assert made == []  # nothing runs before the first item is asked for
    for number in stream:
        time.sleep(0.01)
        assert len(made) <= number + 3
        if number == 10:
            break
    stream.close()
    assert len(made) <= 13
    assert closed == [True]
    assert threads() == 0


def test_an_abandoned_stream_ends_its_thread() -> None:
    closed = []
    stream = prefetched(numbers(10**9, [], closed), 2)
    assert next(stream) == 0
    del stream
    assert closed == [True]
    assert threads() == 0


@pytest.mark.parametrize("error", [ValueError("bad block"), KeyboardInterrupt()])
def test_errors_reach_the_consumer(error: BaseException) -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        raise error

    stream = prefetched(failing(), 2)
    assert next(stream) == 1
    with pytest.raises(type(error)) as caught:
        next(stream)
    assert caught.value is error
    assert threads() == 0
