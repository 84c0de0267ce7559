"""What ends asking: a failure, a reader that wants no more, or the end of the call. Belongs to one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable


class Stopped(Exception):
    """Nothing more is asked for: the call ends, or its reader does. No fault of anybody's."""


class Stop(asyncio.Event):
    """Set for good, by whoever ends asking first."""

    cause: BaseException | None = None
    """The failure that did, if one did."""

    def fail(self, error: BaseException) -> None:
        """Set, unless it is; the first failure in time is the one that is told."""
        if not self.is_set():
            self.cause = error
            self.set()

    async def unless(self, wait: Awaitable[None]) -> None:
        """Wait, but no longer than until this is set: Stopped is raised then."""
        waited, stopped = asyncio.ensure_future(wait), asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait((waited, stopped), return_when=asyncio.FIRST_COMPLETED)
            if self.is_set():
                raise Stopped
            await waited
        finally:
            waited.cancel()
            stopped.cancel()
