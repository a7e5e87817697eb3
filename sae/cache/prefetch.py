"""Iterating in a thread, a bounded number of items ahead."""

from collections.abc import Generator
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


def prefetched(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """Yield the items of a generator that runs in a thread of its own.

    At most `depth` items, the one being made included, exist that were not yielded. An exception in
    the generator is raised here. Closing this generator, or losing the last reference to it, stops
    the thread and closes `items`.

    Parameters
    ----------
    items : generator
    depth : int
    """
    ready: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    slots, stop = Semaphore(depth), Event()

    def work() -> None:
        try:
            while True:
                slots.acquire()
                if stop.is_set():
                    break
                ready.put((next(items), None))
        except StopIteration:
            ready.put((_END, None))
        except BaseException as error:  # handed to the consumer, whatever it is
            ready.put((_END, error))
        finally:
            items.close()

    thread = Thread(target=work, name="sparsecode-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            slots.release()
            yield item
            del item  # the consumer's is the only reference while the next one is awaited
    finally:
        stop.set()
        slots.release()
        thread.join()
