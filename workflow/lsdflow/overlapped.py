"""Reading ahead and writing behind in threads, such that neither disk nor processor waits for the other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


def read_ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """Yield ``items``, which a thread makes up to ``depth`` ahead.

    What making them raises is raised here, after the items before it.  The thread ends when the iterator is closed.
    """
    made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=depth)
    is_closed = threading.Event()

    def put(entry: tuple[Any, BaseException | None]) -> None:
        while not is_closed.is_set():
            try:
                return made.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put((item, None))
                if is_closed.is_set():
                    return
            put((_END, None))
        except BaseException as error:  # all of them belong to who asked for the items
            put((_END, error))

    thread = threading.Thread(target=make, name="read ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        is_closed.set()
        thread.join()


class WriteBehind:
    """Hands items to ``write`` in a thread, in order; use it as a context manager, which ends when all is written.

    Parameters
    ----------
    write : called with one item at a time.
    depth : items that may wait; `put` blocks beyond that.
    """

    def __init__(self, write: Callable[[Any], object], depth: int) -> None:
        self._write, self._waiting = write, queue.Queue(maxsize=depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="write behind", daemon=True)

    def put(self, item: Any) -> None:
        """Have ``item`` written; raises what an earlier one raised, and then writes no more."""
        self._raise()
        self._waiting.put(item)

    def __enter__(self) -> WriteBehind:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What was computed before an error elsewhere is good: it is still written.
        self._waiting.put(_END)
        self._thread.join()
        if kind is None:
            self._raise()

    def _work(self) -> None:
        while (item := self._waiting.get()) is not _END:
            if self._error is None:
                try:
                    self._write(item)
                except BaseException as error:  # raised in the thread that put the item
                    self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
