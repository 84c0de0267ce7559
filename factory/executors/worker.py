"""A worker: runs the recipe's stages as the driver does, and at the make that the driver stands at it computes shards for it.

A stage's function cannot be sent to another process, so a worker runs the stage itself, with a context whose `make` serves in place
of publishing. Reads the lake and models. Writes nothing to the lake, prints nothing, asks no endpoint: that is the driver's.
Engines stay loaded over shards, slices and stages."""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Condition, Event, Lock, Thread
from typing import Any

import pyarrow as pa

from data.config import ModelSettings
from data.lake import Key, Lake, Shard
from data.manifest import Slice
from data.refusal import Refusal
from factory.config import FactoryRecipe
from factory.context import Context
from factory.costs import Tally, Work
from factory.engines import TextEngine
from factory.executors.messages import Counted, Failed, Message, Order, Rows

EVERY = 0.25  # seconds between two reports of a shard in the making
SEEN_WITHIN = 10.0  # seconds until a shared folder shows what another machine has written (NFS keeps listings for some)


class Read(Lake):
    """The lake as a worker has it: what is newest is the driver's to say."""

    def renew(self, slice_: Slice) -> Slice:
        """The slice as it is; the driver has renewed it, or will."""
        return slice_


class _Left(BaseException):
    """Ends a stage that the driver has left. No error: nothing may catch it."""


@dataclass(frozen=True)
class _Stand:
    """Where a stage waits: a slice in the making, and how its shards are computed."""

    slice: str
    shards: Sequence[Shard]
    compute: Callable[[Shard, Work], pa.Table]


class Serving(Context):
    """The context of a worker's stages. One thread runs the stage and waits at a make; callers compute that make's shards."""

    stand: _Stand | None = None
    wanted: str | None = None
    _ended: BaseException | None = None
    _thread: Thread | None = None

    @cached_property
    def _turn(self) -> Condition:
        return Condition()

    @cached_property
    def _moving(self) -> Lock:
        return Lock()

    def say(self, line: str) -> None:
        """Nothing: the driver has said it, or will."""

    def _published(self, model: ModelSettings) -> dict[str, Any]:
        return self._identified(model)[0]

    def text_engine(self, role: str | ModelSettings, stage: str) -> TextEngine:
        """The engine that answers here. Endpoints are asked by the driver alone, whose ledger says what is paid for."""
        if self.model(role).endpoint is not None:
            raise RuntimeError(f"{stage}: a worker was given a shard that asks an endpoint")
        return super().text_engine(role, stage)

    def make(self, stage: str, table: str, key: Key, label: str, compute: Any, **_: Any) -> Slice:
        """The slice, which is there; the one that the driver makes now is waited for, while its shards are computed."""
        made = self.lake.publish(table, key, label=label)  # not entered: it knows the slice's name and shards
        path = f"{table}/{made.name}"
        with self._turn:
            if self.wanted == path:
                self.stand = _Stand(path, made.shards, compute)
                self._turn.notify_all()
                self._turn.wait_for(lambda: self.wanted != path)
                self.stand = None
            if self.wanted is None:
                raise _Left
        found = self.lake.find(table, key, label=label)
        if found is None:
            raise _unseen(path, self.lake)
        return found

    def at(self, order: Order) -> _Stand:
        """Bring the stage to the order's slice. Raises what the stage raised on its way."""
        with self._moving, self._turn:
            if self.stage != order.stage or self._thread is None or self._ended is not None:
                self._begin(order)
        with self._turn:
            self.wanted = order.slice
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._ended is not None or (self.stand and self.stand.slice == order.slice))
            if self._ended is not None:
                raise self._ended
            assert self.stand is not None
            return self.stand

    def _begin(self, order: Order) -> None:
        """Run the order's stage in a thread of its own; the one before is left where it stands."""
        self.wanted = None
        self._turn.notify_all()
        self._turn.wait_for(lambda: self._thread is None or self._ended is not None)
        self.stage, self._ended = order.stage, None
        self._thread = Thread(target=self._stage, args=(order,), daemon=True)
        self.wanted = order.slice
        self._thread.start()

    def _stage(self, order: Order) -> None:
        from factory.stages import MODULES

        ended: BaseException = RuntimeError(f"stage {order.stage} did not come to {order.slice}")
        try:
            importlib.import_module(MODULES[order.stage]).run(self)
        except BaseException as error:  # whatever it is, the thread that waits for the stage raises it
            ended = error
        with self._turn:
            self._ended = ended
            self._turn.notify_all()


class Worker:
    """What an executor starts: `serve` may be called by several threads at once, for shards of one slice."""

    def __init__(self, recipe: FactoryRecipe, folder: str):
        self.recipe = recipe
        with contextlib.suppress(OSError):  # another machine may lack it: the lake then tells
            os.chdir(folder)  # paths of the recipe are relative to where the command was called

    @cached_property
    def context(self) -> Serving:
        """Opened at the first order, so that whatever is refused reaches the driver."""
        from factory.stages import go_offline

        go_offline(self.recipe)
        return Serving(self.recipe, Read.open(self.recipe.lake))

    def serve(self, order: Order) -> Iterator[Message]:
        """How far the shard is, now and then; last its rows, or why there are none."""
        found: list[Message] = []
        ended, counted = Event(), [0]

        def advance(items: int) -> None:
            counted[0] += items

        def run() -> None:
            try:
                found.append(self._computed(order, advance))
            except Refusal as refusal:
                found.append(Failed((refusal.args[0], refusal.args[1]), ""))
            except BaseException:  # whatever it is, it goes to the other process as text
                found.append(Failed(None, traceback.format_exc()))
            ended.set()

        Thread(target=run, daemon=True).start()
        told = 0
        while not ended.wait(EVERY):
            if (now := counted[0]) > told:
                yield Counted(now - told)
                told = now
        if counted[0] > told:
            yield Counted(counted[0] - told)
        yield found[0]

    def _computed(self, order: Order, advance: Callable[[int], None]) -> Rows:
        for parent in order.parents:
            _see(parent, self.context.lake)
        stand, tally = self.context.at(order), Tally()
        return Rows.of(stand.compute(stand.shards[order.index], Work(tally, advance)), tally)


def _see(path: str, lake: Lake) -> None:
    """Refuse a lake that is not the driver's."""
    until = time.monotonic() + SEEN_WITHIN
    while not lake.has(path):
        if time.monotonic() > until:
            raise _unseen(path, lake)
        time.sleep(0.2)


def _unseen(path: str, lake: Lake) -> Refusal:
    return Refusal(
        f"a worker on {socket.gethostname()} sees no {path} in {lake.uri}: every machine needs the same lake",
        "lake=s3://BUCKET/PREFIX, or lake=FOLDER on storage that all machines share",
    )
