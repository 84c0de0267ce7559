"""One look at all completions of an imported pool: whether they can be taken, and what names their shards.

Reads them a shard at a time, holds none. Refuses log-probabilities of some but not all, what is no number, and only zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from data.keys import digest
from data.refusal import Refusal
from factory.stages.imported_rows import Completions, Imported

OwnShard = dict[int, list[Imported]]


@dataclass
class Survey:
    """What the look has told so far."""

    name: str
    contents: list[str] = field(default_factory=list)
    """A digest of each shard."""
    rewards: dict[str, list[str]] = field(default_factory=dict)
    """Reward column → a digest of each shard's values."""
    rows: int = 0
    without: int = 0
    first: str = ""
    """Where the first completion without log-probabilities is."""
    largest: float = -math.inf
    told: bool = False
    """Whether any log-probability is other than 0."""

    @property
    def rescored(self) -> bool:
        """Whether no completion has log-probabilities: the policy's own will stand in."""
        return self.without == self.rows

    def see(self, row: Imported) -> None:
        """Count a completion."""
        self.rows += 1
        if row.logprobs is None:
            self.without += 1
            self.first = self.first or row.where
            return
        if any(value is None or not math.isfinite(value) for value in row.logprobs):
            raise Refusal(
                f"imports.{self.name}: log-probabilities hold null or NaN, or are infinite",
                "leave the column out: the policy rescores",
            )
        self.told = self.told or any(row.logprobs)
        self.largest = max(self.largest, max(row.logprobs, default=self.largest))

    def check(self) -> None:
        """Refuse some with and some without, and log-probabilities that no model gives."""
        if self.rescored:
            return
        if self.without:
            raise Refusal(
                f"imports.{self.name}: {self.without:,} of {self.rows:,} completions have no log-probabilities, first {self.first}",
                "complete the column, or leave it out: the policy then rescores all of them",
            )
        if not self.told:
            raise Refusal(
                f"imports.{self.name}: every log-probability is 0; a ratio to such a μ would be nothing but π",
                "leave the column out: the policy then rescores the completions",
            )
        if self.largest > 1e-3:
            raise Refusal(
                f"imports.{self.name}: a log-probability is {self.largest:g}; none can be above 0", "correct the column"
            )


def survey(name: str, completions: Completions, rewards: Sequence[str]) -> Survey:
    """Look at every shard. name: the import's, for refusals; rewards: the columns that become components."""
    seen = Survey(name, rewards={column: [] for column in rewards})
    for shard in completions.shards():
        for row in (row for rows in shard.values() for row in rows):
            seen.see(row)
            _refuse_rewards(row)
        seen.contents.append(digest([[prompt, list(map(content, rows))] for prompt, rows in shard.items()]))
        for column, digests in seen.rewards.items():
            digests.append(digest(column_of(shard, column)))
    seen.check()
    return seen


def content(row: Imported) -> list[Any]:
    """What a sample is made from, as keys hold it."""
    return [row.text, row.token_ids, row.logprobs, row.finish_reason]


def column_of(shard: OwnShard, column: str) -> list[float | None]:
    """A reward column of every completion of a shard, in order."""
    return [row.rewards[column] for rows in shard.values() for row in rows]


def _refuse_rewards(row: Imported) -> None:
    for column, value in row.rewards.items():
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise Refusal(
                f"{row.where}: reward column {column!r} holds {value!r}, which is no number",
                "correct the column; null is not scored",
            )
