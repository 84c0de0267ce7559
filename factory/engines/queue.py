"""One engine's queue, shared by whoever has requests for it: two shards at once keep it full over the border between them.

Knows of an engine only `add_request` and `step`, and imports none. One caller steps the engine for all; the others wait. Once it is
closed, or a step has failed, whoever still waits is told so."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

Request = tuple[Any, Any, Any]  # key, prompt, parameters


class Stepped(Protocol):
    """What is asked of an engine; vLLM's LLMEngine has it."""

    def add_request(self, request_id: str, prompt: Any, params: Any) -> Any:
        """Take a request."""

    def step(self) -> list[Any]:
        """One forward pass; outputs with `request_id` and `finished`."""


@dataclass
class _Caller:
    source: Iterator[Request]
    ready: list[tuple[Any, Any]] = field(default_factory=list)
    pending: int = 0


class Queue:
    """Each caller has at most `most` requests in the engine; the rest stay in the iterator that they come from."""

    def __init__(self, engine: Stepped, most: int):
        self.engine, self.most = engine, most
        self._turn, self._names = threading.Condition(), itertools.count()
        self._incoming: list[tuple[str, Any, Any]] = []
        self._owners: dict[str, tuple[_Caller, Any]] = {}
        self._stepping = self._closed = False

    def run(self, requests: Iterable[Request]) -> Iterator[tuple[Any, Any]]:
        """(key, output) of each (key, prompt, parameters), as they finish. Several threads may call it at once."""
        caller = _Caller(iter(requests))
        while done := self._next(caller):
            yield from done

    def close(self) -> None:
        """End every wait; the engine is not stepped again, and no step is under way on return."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
            self._turn.wait_for(lambda: not self._stepping)

    def _next(self, caller: _Caller) -> list[tuple[Any, Any]]:
        """The caller's next outputs; none once all of its requests are answered."""
        asked = list(itertools.islice(caller.source, self.most - caller.pending))  # may take long: not under the lock
        with self._turn:
            for key, prompt, parameters in asked:
                name = str(next(self._names))
                self._incoming.append((name, prompt, parameters))
                self._owners[name] = (caller, key)
                caller.pending += 1
            while caller.pending and not caller.ready:
                if self._closed:
                    raise RuntimeError("the engine was closed while requests were waiting")
                if self._stepping:
                    self._turn.wait()
                else:
                    self._step()
            done, caller.ready = caller.ready, []
            return done

    def _step(self) -> None:
        """Advance everybody's requests. The lock is open meanwhile, so that other callers can hand in theirs."""
        incoming, self._incoming = self._incoming, []
        self._stepping = True
        self._turn.release()
        try:
            for request in incoming:
                self.engine.add_request(*request)
            outputs = self.engine.step()
        except BaseException:  # an interrupt too: what the engine holds is unknown, so nobody may wait for it
            self._closed = True
            raise
        finally:
            self._turn.acquire()
            self._stepping = False
            self._turn.notify_all()
        for output in outputs:
            if output.finished:
                caller, key = self._owners.pop(output.request_id)
                caller.ready.append((key, output))
                caller.pending -= 1
