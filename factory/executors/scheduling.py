"""Which worker computes which shard: each takes the next one, and what a dead worker held goes to another.

Knows of workers only how to start them and what they say. Publishes nothing: rows go to whoever asked. Refuses a shard after
`TRIES` workers died over it, and raises a worker's refusal as its own."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from threading import Condition, Lock, Thread
from typing import Any, Protocol

import pyarrow as pa

from data.lake import Shard
from data.refusal import Refusal
from factory.costs import Tally, Work
from factory.executors.messages import Counted, Failed, Lost, Message, NoRoom, Order, Rows

TRIES = 3  # workers that may die over one shard, and starts of one worker in a row


class Member(Protocol):
    """A worker as its driver holds it."""

    def messages(self, order: Order, slot: int) -> Iterator[Message]:
        """What the worker says of a shard. Raises `Lost` when it is gone. A slot has one order at a time."""

    def close(self) -> None:
        """End the worker now; it holds nothing that could be lost."""


class Starter(Protocol):
    """Where workers come from: processes here, or Ray."""

    count: int
    """How many workers there are to be."""

    def start(self, number: int, stopped: Callable[[], bool]) -> Member:
        """Start a worker. Raises `Lost` where it ended at once, `NoRoom` where it must be done without; gives up once stopped."""

    def close(self) -> None:
        """Let everything go that is not a worker."""


class _Task:
    """The pending shards of one slice: taken, given back, and counted until all are there."""

    def __init__(self, stage: str, slice_: str, parents: tuple[str, ...], shards: Sequence[Shard]):
        self.stage, self.slice, self.parents = stage, slice_, parents
        self.said: SimpleQueue[Any] = SimpleQueue()
        self._waiting, self._turn = deque(shards), Condition()
        self._deaths: Counter[int] = Counter()
        self._over = False

    def over(self) -> bool:
        """Whether nobody asks for rows any more."""
        return self._over

    def end(self) -> None:
        """Nothing more is taken."""
        with self._turn:
            self._over = True
            self._turn.notify_all()

    def take(self) -> Shard | None:
        """The next shard, waited for while another worker may give one back; None when all is done."""
        with self._turn:
            self._turn.wait_for(lambda: self._over or self._waiting)
            return None if self._over else self._waiting.popleft()

    def give_back(self, shard: Shard, why: Lost) -> None:
        """A worker died over this shard: it comes next, or it is refused."""
        with self._turn:
            self._deaths[shard.index] += 1
            if self._deaths[shard.index] < TRIES:
                self._waiting.appendleft(shard)
                self._turn.notify()
                return
        self.said.put(
            Refusal(
                f"{self.slice} shard {shard.index}: {TRIES} workers died over it, the last one {why}",
                "the same command with executor=in_process, where what ends it can be seen",
            )
        )


class Workers:
    """The workers of one call, started when first needed and kept to its end."""

    def __init__(self, starter: Starter):
        self.starter = starter
        self._members: dict[int, Member] = {}
        self._locks = [Lock() for _ in range(starter.count)]
        self._task: _Task | None = None
        self._threads: list[Thread] = []

    def computed(
        self,
        stage: str,
        slice_: str,
        parents: tuple[str, ...],
        shards: Sequence[Shard],
        at_once: int,
        work: Work,
    ) -> Iterator[tuple[Shard, pa.Table]]:
        """Each shard with its rows, as they come; `at_once` a worker. `work` counts what finished shards took."""
        task = self._task = _Task(stage, slice_, parents, shards)
        places = [(number, slot) for slot in range(at_once) for number in range(self.starter.count)][: len(shards)]
        self._threads = [Thread(target=self._slot, args=(task, *place), daemon=True) for place in places]
        for thread in self._threads:
            thread.start()
        missing, idle = len(shards), 0
        try:
            while missing:
                said = task.said.get()
                if isinstance(said, Counted):
                    work.advance(said.items)
                elif isinstance(said, tuple):
                    shard, rows = said
                    _add(work.tally, rows.tally)
                    missing -= 1
                    yield shard, rows.table
                elif isinstance(said, NoRoom):
                    idle += 1
                    if idle == len(places):
                        raise Refusal(str(said), "executor.workers=N and resources that there are, or executor=local")
                else:
                    raise said
        finally:
            task.end()

    def close(self) -> None:
        """End every worker."""
        if self._task is not None:
            self._task.end()
        for number, lock in enumerate(self._locks):
            with lock:  # a start in the making ends first
                if member := self._members.pop(number, None):
                    member.close()
        for thread in self._threads:
            thread.join(timeout=5)
        self.starter.close()

    def _slot(self, task: _Task, number: int, slot: int) -> None:
        """Shard after shard by one worker, restarted where it dies."""
        try:
            while not task.over():
                member = self._started(task, number)
                shard = task.take()
                if shard is None or member is None:
                    return
                counted, answered = 0, False
                try:
                    for message in member.messages(Order(task.stage, task.slice, shard.index, task.parents), slot):
                        counted += message.items if isinstance(message, Counted) else 0
                        answered = answered or not isinstance(message, Counted)
                        task.said.put(_told(shard, message))
                    if not answered:
                        raise Lost("before its answer")
                except Lost as lost:
                    self._bury(number, member)
                    if not answered:  # a stream may break behind its last message, whose shard is not to be made twice
                        task.said.put(Counted(-counted))
                        task.give_back(shard, lost)
        except BaseException as error:  # whatever it is, the thread that waits for rows has to know
            task.said.put(error)

    def _started(self, task: _Task, number: int) -> Member | None:
        """The worker of this number, living as far as is known."""
        for attempt in range(1, TRIES + 1):
            with self._locks[number]:
                if task.over():
                    return None
                try:
                    if number not in self._members:
                        self._members[number] = self.starter.start(number, task.over)
                    return self._members[number]
                except Lost as lost:
                    if attempt == TRIES:
                        raise NoRoom(f"worker {number} does not start: {lost}") from lost
        return None

    def _bury(self, number: int, member: Member) -> None:
        with self._locks[number]:
            if self._members.get(number) is member:  # its other slot may have been here first
                del self._members[number]
        with contextlib.suppress(OSError):
            member.close()


def _told(shard: Shard, message: Message) -> Any:
    """What the thread that waits for rows is told."""
    if isinstance(message, Rows):
        return shard, message
    if isinstance(message, Failed):
        return Refusal(*message.refusal) if message.refusal else RuntimeError(f"a worker failed:\n{message.text}")
    return message


def _add(tally: Tally, more: Tally) -> None:
    tally.add(more.items, more.tokens_in, more.tokens_out)
    tally.device, tally.model = more.device or tally.device, tally.model or more.model
