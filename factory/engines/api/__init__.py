"""Answers by models behind an HTTP endpoint: the teacher of a recipe, a judge, a translator. Any OpenAI-compatible server.

Reads and writes the lake's `ledger` (ledger.py), so that an answer is paid for once; keeps to the recipe's budget (budget.py).
Refuses models without an endpoint. Imports openai only when a first endpoint is opened."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from data.config import ModelSettings
from data.lake import Lake
from data.refusal import Refusal, nearest
from factory.endpoints import Endpoint, Limit, check_bill
from factory.engines import Answer, ChatRequest
from factory.engines.api.budget import Budget
from factory.engines.api.client import Client
from factory.engines.api.ledger import SECONDS, Ledger, ledger_key
from factory.engines.api.stop import Stop, Stopped

T = TypeVar("T")
PATIENCE = 3.0  # seconds until somebody who waits is told for what
SEED_RANGE = 2**31  # servers read a seed as a signed integer, some of 32 bits


class Apis:
    """Every endpoint of one call of the factory: one event loop in a thread of its own, one ledger, one budget."""

    def __init__(self, lake: Lake, recipe: str, endpoints: Mapping[str, Endpoint], limit: Limit):
        self.recipe, self.endpoints = recipe, endpoints
        self.ledger = Ledger(lake)
        self.budget = Budget(limit, self.ledger.spent(recipe))
        self.asking: dict[str, asyncio.Future[None]] = {}
        self.bought = self.found = 0
        self._clients: dict[str, Client] = {}
        self._begun: dict[Future[Any], Stop] = {}
        """What is being asked for, by any thread, and what stops it."""
        self._beginning, self._closed = threading.Lock(), False
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="apis", daemon=True)
        self._thread.start()
        self.loop.call_soon_threadsafe(self._sending)

    def send(self) -> None:
        """Before a shard is published: what its answers cost stands in the lake (for one on object storage: not here alone)."""
        self.run(self._send())

    async def _send(self) -> None:
        self.ledger.send()

    def _sending(self) -> None:
        """What was paid for goes to the lake even while nothing new comes. Where it fails, the next write or `close` says so."""
        with contextlib.suppress(Refusal):
            self.ledger.send()
        self.loop.call_later(SECONDS, self._sending)

    def engine(self, model: ModelSettings, stage: str) -> ApiEngine:
        """The engine that answers for a model; `stage` is what its costs are booked under."""
        name = model.endpoint or ""
        if name not in self.endpoints:
            raise Refusal(
                f"no endpoint named {name!r}: {nearest(name, self.endpoints)}",
                f"factory.endpoints.{name}.base_url=URL",
            )
        check_bill(self.endpoints[name], name, model.path, self.budget.limit)
        client = self.begin(self._client(name), Stop()).result()
        return ApiEngine(self, client, model, stage)

    async def _client(self, name: str) -> Client:
        """One client an endpoint, whoever asks for it: its bounds hold for all of them together. Only ever run on the loop."""
        if name not in self._clients:
            self._clients[name] = Client(name, self.endpoints[name])
        return self._clients[name]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def begin(self, work: Coroutine[Any, Any, T], stop: Stop) -> Future[T]:
        """Start a coroutine on the loop; `close` sets its `stop` and waits for it. Raises Stopped once closed."""
        with self._beginning:
            if self._closed:
                work.close()
                raise Stopped
            begun = asyncio.run_coroutine_threadsafe(work, self.loop)
            self._begun[begun] = stop
        begun.add_done_callback(self._begun.pop)
        return begun

    def fail(self, error: BaseException) -> None:
        """A failure ends the call, so nobody goes on buying: every asker stops, and says this error. Only ever run on the loop."""
        for stop in tuple(self._begun.values()):
            stop.fail(error)

    def finish(self, begun: Mapping[Future[Any], Stop]) -> None:
        """Nothing more is asked for; wait for what is in flight, since it is paid for. An interrupt meanwhile gives it up."""
        for stop in begun.values():
            self.loop.call_soon_threadsafe(stop.set)
        try:
            if wait(begun, PATIENCE).not_done:
                here = threading.current_thread() is threading.main_thread()  # where an interrupt arrives
                how = "; Ctrl-C gives them up" if here else ""
                print(f"waiting for answers in flight, which are paid for{how}", file=sys.stderr, flush=True)
                wait(begun)
        except KeyboardInterrupt:
            for work in begun:
                work.cancel()
            raise

    def bill(self) -> str:
        """What this call bought, and what the recipe has spent so far."""
        money, tokens = self.ledger.spent(self.recipe)
        spent = f"{tokens:,} tokens" + (f", ${money:,.4f}" if money else "")
        return f"{self.bought:,} answers bought, {self.found:,} found in the ledger; recipe {self.recipe} has spent {spent}"

    def close(self) -> None:
        """Wait for what is in flight, close connections, fold the ledger and let it go, the latter whatever else fails.

        A shard may still be asked for here, in a thread of its own, while another one's refusal ends the call."""
        try:
            with self._beginning:
                self._closed, begun = True, dict(self._begun)
            with contextlib.suppress(KeyboardInterrupt):  # what ended the call is told, not who would not wait
                self.finish(begun)
            self.run(self._shut())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()
            self.ledger.close()  # last: nobody may write a line while it is folded

    async def _shut(self) -> None:
        """Close the connections, once what was cancelled has ended."""
        if ended := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(ended, timeout=PATIENCE)
        for client in self._clients.values():
            await client.close()


class ApiEngine:
    """A `TextEngine`: one model behind one endpoint. Answers come as they arrive; those in the ledger cost nothing."""

    device = "api"

    def __init__(self, apis: Apis, client: Client, model: ModelSettings, stage: str):
        self._apis, self._client, self._model, self._stage = apis, client, model, stage
        self._price = client.endpoint.prices.get(model.path)

    def answer(self, requests: Iterable[ChatRequest]) -> Iterator[Answer]:
        """One `Answer` a seed, in any order; text is None where the model refused or a filter cut it.

        A reader that stops early waits for what is in flight: it is paid for, so it goes into the ledger."""
        found: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        stop = Stop()
        work = self._apis.begin(self._all(requests, found, stop), stop)
        try:
            while (answer := found.get()) is not None:
                yield answer
        finally:
            if not work.done():
                self._apis.finish({work: stop})
        work.result()

    async def _all(self, requests: Iterable[ChatRequest], found: queue.SimpleQueue[Answer | None], stop: Stop) -> None:
        """As many workers as may be in flight take from one iterator; the first that fails stops them all, gently."""
        waiting = ((request, candidate) for request in requests for candidate in range(len(request.seeds)))

        async def worker() -> None:
            try:
                for request, candidate in waiting:
                    if stop.is_set():
                        return
                    found.put(await self._one(request, candidate, stop))
            except BaseException as error:  # a cancelled worker too: the others must not go on buying
                if not stop.is_set():  # what fails later, or only waits for room, tells nobody anything new
                    stop.fail(error)
                    self._apis.fail(error)
                found.put(None)  # the reader waits for what is in flight, and says so
                raise

        stopped = True
        try:
            await asyncio.gather(*(worker() for _ in range(self._client.endpoint.concurrency)), return_exceptions=True)
            stopped = stop.is_set()  # later is too late: all of them were answered
        finally:
            found.put(None)
        if stopped:
            raise stop.cause or Stopped

    async def _one(self, request: ChatRequest, candidate: int, stop: Stop) -> Answer:
        """From the ledger, or bought; a twin of a request in flight waits for it."""
        ledger, asking = self._apis.ledger, self._apis.asking
        keys = [ledger_key(name, self._model.request, request, candidate) for name in ledger.names(self._model.path)]
        while (row := next((r for r in map(ledger.get, keys) if r is not None), None)) is None:
            if (twin := asking.get(keys[0])) is not None:
                await asyncio.wait([twin])
                continue
            asking[keys[0]] = self._apis.loop.create_future()
            try:
                bought = await self._bought(keys[0], request, candidate, stop)
            finally:
                asking.pop(keys[0]).set_result(None)
            self._apis.bought += 1
            return _answer(request, candidate, bought)
        self._apis.found += 1
        return _answer(request, candidate, row)

    async def _bought(self, key: str, request: ChatRequest, candidate: int, stop: Stop) -> dict[str, Any]:
        """Ask, and put the answer on disk before anybody sees it. What it may cost is set aside meanwhile."""
        budget = self._apis.budget
        worst = budget.worst(request, self._price)
        await budget.reserve(worst)
        price: float | None = 0.0
        tokens: int | None = 0
        try:
            async with self._client.slots:  # until the ledger has it: a kill loses no more than this many
                reply = await self._client.ask(
                    self._body(request, candidate), worst.tokens, stop, lambda: budget.lose(worst)
                )
                price = tokens = None
                budget.learn(request, reply.prompt_tokens)
                if reply.prompt_tokens is not None and reply.answer_tokens is not None:
                    tokens = reply.prompt_tokens + reply.answer_tokens
                    price = self._price.of(reply.prompt_tokens, reply.answer_tokens) if self._price else None
                row = vars(reply) | {"key": key, "model": self._model.path, "price": price}
                row |= {"stage": self._stage, "recipe": self._apis.recipe}
                self._kept(row, request, candidate)
                return row
        finally:
            await budget.settle(worst, price, tokens)

    def _kept(self, row: dict[str, Any], request: ChatRequest, candidate: int) -> None:
        """Write the answer, then refuse what must not go on: another snapshot of the model, a bill that cannot be read."""
        ledger, served, model = self._apis.ledger, row["served_by"], self._model.path
        first = ledger.snapshot(model)
        other = served is not None and first is not None and served != first
        if other:  # paid for all the same: it is found once the recipe names that snapshot
            row |= {"model": served, "key": ledger_key(served, self._model.request, request, candidate)}
        ledger.write(row)
        if other:
            raise Refusal(
                f"{model} was answered by {first} until now, and by {served} from now on: two teachers in one table",
                f"name the one you mean, e.g. teacher.path={first}",
            )
        limit = self._apis.budget.limit
        if served is not None and None in (row["prompt_tokens"], row["answer_tokens"]) and limit != Limit():
            raise Refusal(
                f"endpoint {self._client.name} does not say how many tokens it bills: no budget can be kept",
                "budget=null",
            )

    def _body(self, request: ChatRequest, candidate: int) -> dict[str, Any]:
        """The request as the server reads it: every sampling field that is not off, and the model's own further fields."""
        sampling, endpoint = request.sampling, self._client.endpoint
        body: dict[str, Any] = {
            "model": self._model.path,
            "messages": [{"role": m["role"], "content": m["content"]} for m in request.messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            endpoint.limit_field: sampling.max_tokens,
        }
        if endpoint.seeds:
            body["seed"] = request.seeds[candidate] % SEED_RANGE
        if endpoint.logprobs:
            body["logprobs"] = True
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        if sampling.repetition_penalty != 1:
            body["repetition_penalty"] = sampling.repetition_penalty
        return body | dict(self._model.request)


def _answer(request: ChatRequest, candidate: int, row: Mapping[str, Any]) -> Answer:
    known = row["prompt_tokens"] is not None and row["answer_tokens"] is not None
    return Answer(
        request.request_id,
        candidate,
        row["text"],
        row["prompt_tokens"],
        row["token_ids"],
        row["logprobs"],
        row["finish_reason"],
        tokens_billed=row["prompt_tokens"] + row["answer_tokens"] if known else None,
        price=row["price"],
    )
