"""Streams: every kept item once an epoch, in an order that seed, epoch and position name."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from data.refusal import Refusal
from trainer.stream import WINDOW, Source, Stream

SIZES = [5, 0, 3, 7, 1, 4, 6, 2, 9]


def source(read: list[int] | None = None, kept: list[np.ndarray] | None = None) -> Source[tuple[int, int]]:
    def blocks(order: Iterable[int]) -> Iterator[list[tuple[int, int]]]:
        for block in order:
            if read is not None:
                read.append(block)
            yield [(block, item) for item in range(SIZES[block])]

    return Source("made", kept or [np.arange(size) for size in SIZES], blocks)


def test_an_epoch_gives_every_kept_item_once() -> None:
    kept = [np.arange(0, size, 2) for size in SIZES]
    stream = Stream(source(kept=kept), seed=1)
    wanted = sorted((block, int(item)) for block, items in enumerate(kept) for item in items)
    for _ in range(2):
        assert sorted(stream.take(len(wanted))) == wanted


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    one, two = Stream(source(), seed=1), Stream(source(), seed=2)
    first, second = one.take(37), one.take(37)
    assert first != second and sorted(first) == sorted(second)
    assert first != two.take(37)
    assert first == Stream(source(), seed=1).take(37)


def test_items_of_different_blocks_are_mixed() -> None:
    blocks = [block for block, _ in Stream(source(), seed=0).take(37)]
    changes = sum(a != b for a, b in itertools.pairwise(blocks))
    assert changes > 12  # nine blocks one after another would change eight times


@pytest.mark.parametrize("taken", [0, 1, 10, 36, 37, 38, 100])
def test_a_stream_goes_on_from_its_state(taken: int) -> None:
    whole = Stream(source(), seed=4)
    whole.take(taken)
    again = Stream(source(), seed=4, **whole.state)
    assert again.take(50) == whole.take(50)


def test_windows_before_the_position_are_not_read() -> None:
    read: list[int] = []
    Stream(source(), seed=0).take(1)
    stream = Stream(source(read), seed=0, epoch=0, position=36)
    next(stream)
    assert 0 < len(read) <= WINDOW


def test_a_source_without_items_is_refused() -> None:
    with pytest.raises(Refusal, match="nothing to train on"):
        Stream(source(kept=[np.arange(0) for _ in SIZES]), seed=0)


@pytest.mark.parametrize("taken", [0, 10, 38])
def test_reading_ahead_changes_neither_items_nor_state(taken: int) -> None:
    plain, ahead = Stream(source(), seed=4), Stream(source(), seed=4, prefetch=2)
    assert ahead.take(taken) == plain.take(taken) and ahead.state == plain.state
    again = Stream(source(), seed=4, **ahead.state, prefetch=3)
    assert again.take(50) == plain.take(50)
