"""How well a model of the language could have written the sample: minus its bits per byte under the scorer.

Range: (−∞, 0], higher is more fluent; −1 says that a byte of it costs the scorer one bit. Cost: none, the scores are in the lake.
Cannot see: content, and whatever the scorer does badly itself. Name the scorer: `scorer: student` (the initial student, whose
Faroese is to be kept) or one of the recipe's `scorers`; without a name it is the teacher. The scorer reads the prompt first, so
copying the prompt is fluent, and so is repeating oneself: combine with `repetition`. The end token's surprise counts, its bytes
do not. Bits per byte compare across tokenizers, log-probabilities a token do not."""

from __future__ import annotations

import math
from dataclasses import dataclass

from factory.rewards import Batch, Reward

VERSION = 1
NEEDS = frozenset({"scores"})
RANGE = (float("-inf"), 0.0)


@dataclass(frozen=True)
class Settings:
    """How bad a text may be told to be."""

    floor: float | None = None
    """Least value, such as −4: one impossible word then does not drown the other differences."""

    def __post_init__(self) -> None:
        if self.floor is not None and self.floor > 0:
            raise ValueError(f"floor is {self.floor}, minus bits per byte is at most 0")


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample; missing where there is no score or no text."""
    return [_one(total, text, settings) for total, text in zip(batch.scorer_totals, batch.texts, strict=True)]


def _one(total: float | None, text: str, settings: Settings) -> Reward:
    """total / (ln 2 · bytes): nats to bits, UTF-8 bytes as the scorer read them."""
    if total is None:
        return Reward.missing("not scored")
    if not text:
        return Reward.missing("no text to divide by")
    value = total / (math.log(2) * len(text.encode()))
    return Reward(value if settings.floor is None else max(value, settings.floor))
