"""Share of the sample's n-grams that were there before: 1 − different n-grams / n-grams. 0 is no repetition.

Range: [0, 1). Cost: a microsecond a word. Cannot see: the same thought in other words, or n-grams shorter than `n`;
a text shorter than n repeats nothing, so 0. Used with a negative weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from factory.rewards import Batch, Reward
from factory.rewards.text import nfc, squash, words

VERSION = 1
NEEDS: frozenset[str] = frozenset()
RANGE = (0.0, 1.0)


@dataclass(frozen=True)
class Settings:
    """The n-grams."""

    n: int = 3
    """Words (or characters) in a row."""
    unit: Literal["words", "chars"] = "words"
    """Casefolded words, or casefolded characters with single spaces."""

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n is {self.n}, an n-gram has at least one entry")


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample, never missing."""
    return [_one(text, settings) for text in batch.texts]


def _one(text: str, settings: Settings) -> Reward:
    units: list[str] | str = words(text) if settings.unit == "words" else nfc(squash(text).casefold())
    grams = [tuple(units[at : at + settings.n]) for at in range(len(units) - settings.n + 1)]
    return Reward(1 - len(set(grams)) / len(grams) if grams else 0.0)
