"""Reading ahead: a thread takes items from an iterator while the step before them is computed.

Changes neither the items nor their order. What the iterator raises is raised where its item would have come. The thread ends with
the reader, or when nobody holds the result any more."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")

_END: Any = object()


def ahead(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """The items in order, up to `depth` of them read before they are asked for.

    Nothing is read before the first is asked for, so that a reader that is never used opens no file.

    >>> list(ahead(iter([3, 1, 2]), 2))
    [3, 1, 2]
    """
    reader = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        waiting = deque(reader.submit(next, items, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(reader.submit(next, items, _END))
            yield item
    finally:
        reader.shutdown(cancel_futures=True)
