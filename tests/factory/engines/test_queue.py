"""The queue of one engine: every caller gets its own outputs, the engine stays full, and nobody waits for an engine that failed."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field

import pytest

from factory.engines.queue import Queue


@dataclass
class Output:
    request_id: str
    prompt: str
    finished: bool


@dataclass
class Steps:
    """An engine of two places: a request takes as many steps as its parameters say."""

    waiting: deque = field(default_factory=deque)
    running: list = field(default_factory=list)
    busy: list[int] = field(default_factory=list)
    fails_at: int | None = None
    seconds: float = 0.0

    def add_request(self, request_id, prompt, params):
        self.waiting.append([request_id, prompt, params])

    def step(self):
        if self.fails_at is not None and len(self.busy) >= self.fails_at:
            raise ValueError("no more")
        time.sleep(self.seconds)
        while self.waiting and len(self.running) < 2:
            self.running.append(self.waiting.popleft())
        self.busy.append(len(self.running))
        for request in self.running:
            request[2] -= 1
        done = [Output(name, prompt, left == 0) for name, prompt, left in self.running]
        self.running = [request for request in self.running if request[2]]
        return done


def test_every_request_is_answered_once_and_no_more_are_taken_than_have_room():
    taken = []

    def source():
        for i in range(7):
            taken.append(i)
            yield i, f"p{i}", 1 + i % 3

    steps = Steps()
    answers = Queue(steps, 3).run(source())
    first = next(answers)
    assert first[0] == 0 and len(taken) == 3  # the rest stays in the iterator
    assert sorted([(key, output.prompt) for key, output in [first, *answers]]) == [(i, f"p{i}") for i in range(7)]
    assert list(Queue(steps, 3).run([])) == []


def test_two_callers_keep_the_engine_full_where_one_would_let_it_run_dry():
    """Each caller ends with one long request: alone, the engine is half empty while that runs."""
    both = [[("a", "a", 1)] * 4 + [("long", "a", 30)], [("b", "b", 1)] * 4 + [("long", "b", 30)]]
    alone = Steps()
    queue = Queue(alone, 8)
    for requests in both:
        list(queue.run(requests))
    together = Steps(seconds=0.02)
    queue, found = Queue(together, 8), {}
    inside = threading.Barrier(2)

    def late(requests):
        inside.wait(10)
        yield from requests

    def call(name, requests):
        found[name] = [output.prompt for _, output in queue.run(late(requests))]

    threads = [threading.Thread(target=call, args=(n, r)) for n, r in zip("ab", both, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == {"a": ["a"] * 5, "b": ["b"] * 5}
    assert sum(together.busy) == sum(alone.busy) == 2 * (4 + 30)
    assert len(alone.busy) > 60 and len(together.busy) < 45


def test_a_failed_step_ends_every_wait():
    queue, seen = Queue(Steps(fails_at=3), 8), []

    def call():
        try:
            list(queue.run([("x", "x", 10)]))
        except (ValueError, RuntimeError) as error:
            seen.append(str(error))

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(seen) == ["no more", "the engine was closed while requests were waiting"]


def test_a_closed_queue_is_not_stepped():
    steps = Steps()
    queue = Queue(steps, 8)
    waiting = queue.run([("x", "x", 1), ("y", "y", 9)])
    assert next(waiting)[0] == "x"
    queue.close()
    before = len(steps.busy)
    with pytest.raises(RuntimeError, match="closed"):
        next(waiting)
    assert len(steps.busy) == before
