"""Which worker computes which shard, where workers end at every point of a shard: each shard comes once, and progress adds up."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.publisher import Shard
from data.refusal import Refusal
from factory.costs import Tally, Work
from factory.executors.messages import Counted, Lost, Message, Order, Rows
from factory.executors.scheduling import TRIES, Workers

ITEMS = 4  # of a shard


class Mortal:
    """A worker that ends at a point of its next shard: before it, after `ITEMS` reports at most, or behind its rows; or never."""

    def __init__(self, ends: Iterator[int | None]):
        self.ends, self.closed = ends, False

    def messages(self, order: Order, slot: int) -> Iterator[Message]:
        end = next(self.ends, None)
        for said in range(ITEMS):
            if end == said:
                raise Lost("by SIGKILL")
            yield Counted(1)
        table = pa.table({"shard": [order.index]})
        yield Rows.of(table, Tally(items=ITEMS))
        if end == ITEMS:
            raise Lost("by SIGKILL")

    def close(self) -> None:
        self.closed = True


class Starter:
    """Starts such workers, which draw their ends from one list."""

    def __init__(self, count: int, ends: list[int | None]):
        self.count, self.ends, self.started = count, iter(ends), list[Mortal]()

    def start(self, number: int, stopped: Callable[[], bool]) -> Mortal:
        self.started.append(Mortal(self.ends))
        return self.started[-1]

    def close(self) -> None:
        pass


def computed(starter: Starter, shards: int) -> tuple[list[int], int, Tally]:
    """Shards in the order in which they came, what the bar was moved by, and what was counted."""
    moved: list[int] = []
    workers, work = Workers(starter), Work(Tally(), moved.append)
    todo = [Shard(index, f"key-{index}") for index in range(shards)]
    try:
        rows = [
            (s.index, t["shard"].to_pylist()) for s, t in workers.computed("samples", "samples/x", (), todo, 1, work)
        ]
    finally:
        workers.close()
    assert all(told == [index] for index, told in rows)
    return [index for index, _ in rows], sum(moved), work.tally


@settings(deadline=None, max_examples=60)
@given(
    workers=st.integers(1, 3),
    shards=st.integers(1, 7),
    ends=st.lists(st.sampled_from([None, *range(ITEMS + 1)]), max_size=TRIES - 1),
)
def test_each_shard_comes_once_wherever_workers_end(workers, shards, ends):
    starter = Starter(workers, ends)
    came, moved, tally = computed(starter, shards)
    assert sorted(came) == list(range(shards))
    assert moved == tally.items == ITEMS * shards
    assert all(worker.closed for worker in starter.started)


def test_a_worker_that_ends_behind_its_rows_has_made_its_shard():
    """The stream of a killed actor breaks where its end should come: its rows are here, and nobody makes them again."""
    starter = Starter(1, [ITEMS] * 9)
    came, moved, _ = computed(starter, 3)
    assert came == [0, 1, 2] and moved == 3 * ITEMS


def test_a_shard_that_ends_every_worker_is_refused():
    with pytest.raises(Refusal, match=rf"shard 0: {TRIES} workers died over it, the last one by SIGKILL"):
        computed(Starter(1, [0] * TRIES), 2)
