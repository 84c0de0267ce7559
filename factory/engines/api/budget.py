"""What may still be spent: before a request leaves, the most that it can cost is set aside.

Reads the ledger's sums, writes nothing. Refuses the request that could go
beyond the limit, once nothing in flight is left that may come cheaper."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from data.refusal import Refusal
from factory.endpoints import Limit, Price
from factory.engines import ChatRequest

OVERHEAD = 64  # tokens of a chat template around a conversation, at first: learnt from what servers count
PER_MESSAGE = 8  # tokens of a chat template around a message


@dataclass(frozen=True)
class Worst:
    """The most that one answer can be billed as; money is None where no price is known."""

    tokens: int
    money: float | None


class Budget:
    """Spent so far (all calls of a recipe), and set aside for what is in flight. For one event loop."""

    def __init__(self, limit: Limit, spent: tuple[float, int]):
        self.limit = limit
        self.money, self.tokens = spent
        self._aside = Worst(0, 0.0)
        self._in_flight = 0
        self._overhead = OVERHEAD
        self._changed = asyncio.Condition()

    def worst(self, request: ChatRequest, price: Price | None) -> Worst:
        """No tokenizer makes more tokens of a text than it has bytes; an answer is at most `max_tokens` long."""
        read = _bytes(request) + self._overhead
        written = request.sampling.max_tokens
        return Worst(read + written, None if price is None else price.of(read, written))

    def learn(self, request: ChatRequest, prompt_tokens: int | None) -> None:
        """A server whose template is longer than thought: the next request's worst case knows it."""
        self._overhead = max(self._overhead, (prompt_tokens or 0) - _bytes(request))

    async def reserve(self, worst: Worst) -> None:
        """Set aside the worst case, waiting for answers in flight where they may leave room. Refuses where they cannot."""
        async with self._changed:
            while not self._fits(worst):
                if not self._in_flight:
                    raise self._refusal(worst)
                await self._changed.wait()
            self._move(worst, 1)

    async def settle(self, worst: Worst, money: float | None, tokens: int | None) -> None:
        """What was set aside became this bill; a bill that is not known counts as the worst case."""
        async with self._changed:
            self._move(worst, -1)
            self.money += (worst.money or 0.0) if money is None else money
            self.tokens += worst.tokens if tokens is None else tokens
            self._changed.notify_all()

    async def release(self, worst: Worst) -> None:
        """Nothing was billed."""
        await self.settle(worst, 0.0, 0)

    def lose(self, worst: Worst) -> None:
        """An attempt whose answer never came may have been billed all the same: it counts, for the limit only."""
        self.money += worst.money or 0.0
        self.tokens += worst.tokens

    def _move(self, worst: Worst, sign: int) -> None:
        self._in_flight += sign
        money = (self._aside.money or 0.0) + sign * (worst.money or 0.0)
        self._aside = Worst(self._aside.tokens + sign * worst.tokens, money if self._in_flight else 0.0)

    def _fits(self, worst: Worst) -> bool:
        money, tokens = self.limit.money, self.limit.tokens
        within = money is None or self.money + (self._aside.money or 0.0) + (worst.money or 0.0) <= money
        return within and (tokens is None or self.tokens + self._aside.tokens + worst.tokens <= tokens)

    def _refusal(self, worst: Worst) -> Refusal:
        by_money = self.limit.money is not None and self.money + (worst.money or 0.0) > self.limit.money
        if by_money:
            told = f"${self.limit.money:,.4f}: ${self.money:,.4f} are spent, the next answer may cost ${worst.money or 0.0:,.4f}"
            more = f"budget={2 * (self.limit.money or 0.0) + (worst.money or 0.0):.2g}"
        else:
            told = f"{self.limit.tokens:,} tokens: {self.tokens:,} are spent, the next answer may cost {worst.tokens:,}"
            more = f"'budget={{tokens: {2 * (self.limit.tokens or 0) + worst.tokens}}}'"
        return Refusal(
            f"the budget ends here, {told}; what was answered is kept", f"the same command with {more} goes on"
        )


def _bytes(request: ChatRequest) -> int:
    return sum(len(m["content"].encode("utf-8", "replace")) + PER_MESSAGE for m in request.messages)
