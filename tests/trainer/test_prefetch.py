"""Reading ahead changes when items are read, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from trainer.prefetch import ahead


def threads() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [1, 2, 50])
def test_items_and_their_order_stay(depth: int) -> None:
    assert list(ahead(iter(range(20)), depth)) == list(range(20))
    assert list(ahead(iter([]), depth)) == [] and threads() == 0


def test_as_many_are_read_before_they_are_asked_for_and_no_more() -> None:
    read: list[int] = []

    def source() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    reader = ahead(source(), 3)
    assert not read  # nothing is opened before the first is asked for
    assert next(reader) == 0
    deadline = time.monotonic() + 5
    while len(read) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(read) == 4  # one given out, three ahead of it
    reader.close()
    assert threads() == 0 and len(read) <= 7


def test_an_error_comes_where_its_item_would_have_come_with_its_traceback() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("a damaged block")

    reader = ahead(source(), 2)
    assert next(reader) == 1
    with pytest.raises(ValueError, match="damaged") as caught:
        next(reader)
    assert "source" in [entry.name for entry in caught.traceback]
    assert threads() == 0


def test_a_reader_that_is_dropped_ends_its_thread() -> None:
    reader = ahead(iter(range(1000)), 2)
    next(reader)
    assert threads() == 1
    del reader
    assert threads() == 0
