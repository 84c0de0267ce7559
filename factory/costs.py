"""What a stage's call worked through, booked as one row of the journal `costs`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from data.contract import COSTS
from data.lake import Lake


@dataclass
class Tally:
    """Rows made, tokens read, tokens written or scored; the model and device that did it."""

    items: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    model: str | None = None
    device: str | None = None

    def add(self, items: int = 0, tokens_in: int = 0, tokens_out: int = 0) -> None:
        """Count what one more batch was."""
        self.items += items
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out


@dataclass
class Work:
    """What a stage's function gets beside its shard: where to count, and how to move the bar."""

    tally: Tally
    advance: Callable[[int], None]

    def done(self, items: int, tokens_in: int = 0, tokens_out: int = 0) -> None:
        """Count a batch."""
        self.tally.add(items, tokens_in, tokens_out)
        self.advance(items)


def book(lake: Lake, stage: str, recipe: str, produced: str, tally: Tally, seconds: float) -> None:
    """Append one row: what this call made, with what, in which time."""
    import pyarrow as pa

    counted = tally.device != "api"  # what an endpoint counted stands in the ledger's own rows, once
    now = datetime.now(UTC)
    row = {
        "stage": stage,
        "recipe": recipe,
        "produced": produced,
        "model": tally.model,
        "items": tally.items,
        "tokens_in": tally.tokens_in if counted else None,
        "tokens_out": tally.tokens_out if counted else None,
        "seconds": seconds,
        "device": tally.device,
        "money": None,
        "created_at": now,
    }
    name = re.sub(r"[^A-Za-z0-9-]+", "-", f"{now.isoformat()}-{produced}")
    lake.append("costs", pa.Table.from_pylist([row], schema=COSTS.schema), name)
