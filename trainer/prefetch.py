"""Reading ahead: a thread takes items from an iterator while the step before them is computed.

Changes neither the items nor their order. What the iterator raises is raised where its item would have come. The thread ends with
the reader, or when nobody holds the result any more."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")

_END = object()


def ahead(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """The items in order, up to `depth` of them read before they are asked for.

    Nothing is read before the first is asked for, so that a reader that is never used opens no file.

    >>> list(ahead(iter([3, 1, 2]), 2))
    [3, 1, 2]
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=depth)
    left = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, waiting, left), name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        left.set()
        while thread.is_alive():  # a full queue holds the thread: make room until it has seen that nobody is left
            _drain(waiting)
            thread.join(timeout=0.05)


def _fill(items: Iterator[Any], waiting: queue.Queue[tuple[Any, BaseException | None]], left: threading.Event) -> None:
    error: BaseException | None = None
    try:
        for item in items:
            waiting.put((item, None))
            if left.is_set():
                return
    except BaseException as raised:  # handed to the reader, whatever it is: nothing is swallowed here
        error = raised
    waiting.put((_END, error))


def _drain(waiting: queue.Queue[Any]) -> None:
    try:
        while True:
            waiting.get_nowait()
    except queue.Empty:
        return
