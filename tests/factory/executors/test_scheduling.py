"""Which worker computes which shard, where workers end at every point of a shard: each shard comes once, and progress adds up."""

from __future__ import annotations

import time
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
BEHIND, SILENT = ITEMS, ITEMS + 1  # ends: behind the rows, and a stream that stops without them


class Mortal:
    """A worker that ends at a point of its next shard: before a report, BEHIND its rows, SILENT in their place; or never."""

    def __init__(self, ends: Iterator[int | None]):
        self.ends, self.closed = ends, False

    def messages(self, order: Order, slot: int) -> Iterator[Message]:
        end = next(self.ends, None)
        for said in range(ITEMS):
            if end == said:
                raise Lost("by SIGKILL")
            yield Counted(1)
        if end == SILENT:
            return
        table = pa.table({"shard": [order.index]})
        yield Rows.of(table, Tally(items=ITEMS))
        if end == BEHIND:
            raise Lost("by SIGKILL")

    def close(self) -> None:
        self.closed = True


class Starter:
    """Starts such workers, which draw their ends from one list."""

    def __init__(self, count: int, ends: list[int | None], slowly: float = 0):
        self.count, self.ends, self.started, self.slowly = count, iter(ends), list[Mortal](), slowly

    def start(self, number: int, stopped: Callable[[], bool]) -> Mortal:
        if self.started:
            time.sleep(self.slowly)
        self.started.append(Mortal(self.ends))
        return self.started[-1]

    def close(self) -> None:
        pass


def computed(starter: Starter, shards: int, at_once: int = 1) -> tuple[list[int], int, Tally]:
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
    at_once=st.integers(1, 2),
    ends=st.lists(st.sampled_from([None, *range(SILENT + 1)]), max_size=TRIES - 1),
)
def test_each_shard_comes_once_wherever_workers_end(workers, shards, at_once, ends):
    starter = Starter(workers, ends)
    came, moved, tally = computed(starter, shards, at_once)
    assert sorted(came) == list(range(shards))
    assert moved == tally.items == ITEMS * shards
    assert all(worker.closed for worker in starter.started)


def test_a_worker_that_ends_behind_its_rows_has_made_its_shard():
    """The stream of a killed actor breaks where its end should come: its rows are here, and nobody makes them again."""
    came, moved, _ = computed(Starter(1, [BEHIND] * 9), 3)
    assert came == [0, 1, 2] and moved == 3 * ITEMS


def test_a_worker_in_the_starting_is_ended_too():
    """The last shard's worker is lost behind its rows, another one starts, and nothing is left for it to do."""
    starter = Starter(1, [BEHIND], slowly=0.2)
    computed(starter, 1)
    assert all(worker.closed for worker in starter.started)


def test_a_shard_that_ends_every_worker_is_refused():
    with pytest.raises(Refusal, match=rf"shard 0: {TRIES} workers died over it, the last one by SIGKILL"):
        computed(Starter(1, [0] * TRIES), 2)
