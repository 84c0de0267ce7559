"""Limits a minute, waits between attempts, and what Retry-After says. Reads a clock, writes nothing."""

from __future__ import annotations

import asyncio
import random
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

BURSTS = 7  # a minute's limit is one burst and six refills of it, every ten seconds
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds: the range that the first wait is drawn from, and what it grows to


class Transient(Exception):
    """An attempt that may succeed when it is made again. `billed`: whether the server may have counted it."""

    def __init__(self, what: str, retry_after: float | None = None, billed: bool = False):
        super().__init__(what, retry_after, billed)
        self.what, self.retry_after, self.billed = what, retry_after, billed


def limiter(per_minute: float) -> AsyncLimiter:
    """A leaky bucket that lets at most `per_minute` through in *any* minute.

    A bucket of capacity C that refills in P seconds lets C + 60·C/P through in the worst minute; that sum is the limit here."""
    from aiolimiter import AsyncLimiter

    capacity = max(per_minute / BURSTS, 1.0)
    return AsyncLimiter(capacity, 60 * capacity / (per_minute - capacity))


class Pace:
    """When requests to one server may leave: limits of requests and tokens a minute, and the pause that it asked for."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None):
        self._requests = limiter(requests_per_minute) if requests_per_minute else None
        self._tokens = limiter(tokens_per_minute) if tokens_per_minute else None
        self._resume = 0.0

    async def wait(self, tokens: int) -> None:
        """Return when a request of so many tokens may leave. One larger than the bucket waits for a full one."""
        if self._tokens is not None:
            await self._tokens.acquire(min(tokens, self._tokens.max_rate))
        if self._requests is not None:
            await self._requests.acquire()
        while (left := self._resume - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def pause(self, seconds: float) -> None:
        """Hold every request back: a server that says Retry-After to one of them means all."""
        self._resume = max(self._resume, time.monotonic() + seconds)


def waiting(attempt: int) -> float:
    """Seconds before the next attempt: drawn from 0 to a bound that doubles, so that many clients do not return at once.

    Full jitter: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015."""
    return random.uniform(0, min(FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT))


def retry_after(header: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or an HTTP date (RFC 9110 §10.2.3). None where it says nothing.

    >>> retry_after("1.5", 0.0), retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 20.0), retry_after("soon", 0.0)
    (1.5, 40.0, None)
    """
    if header is None:
        return None
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(header).timestamp() - now, 0.0)
    except ValueError:
        return None
