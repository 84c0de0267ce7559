"""Length of the sample, or a penalty outside a band of lengths.

Range: [0, ∞) for `value`; [−1, 0] for `band`: 0 inside [low, high], then falling to −1 over `margin` units (as the soft
overlong punishment of DAPO, arXiv 2503.14476 eq. 13, on both sides). Cost: none. Cannot see: what the words say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from factory.rewards import Batch, Reward
from factory.rewards.text import nfc, words

VERSION = 1
NEEDS = frozenset({"n_tokens"})
RANGE = (-1.0, float("inf"))


@dataclass(frozen=True)
class Settings:
    """The unit and the band."""

    unit: Literal["words", "tokens", "chars"] = "words"
    """Words; tokens of the sample, its end included; characters in NFC."""
    form: Literal["value", "band"] = "value"
    """The length itself; or the penalty outside the band."""
    low: int = 0
    """Shortest length without penalty."""
    high: int | None = None
    """Longest length without penalty; none: no upper end."""
    margin: int = 0
    """Units over which the penalty grows from 0 to −1; 0: −1 at once."""

    def __post_init__(self) -> None:
        band = self.low != 0 or self.high is not None
        if (self.form == "band") != band or (self.margin and not band):
            raise ValueError("low, high and margin belong to `form: band`, which needs `low` or `high`")
        if self.low < 0 or self.margin < 0 or (self.high is not None and self.high < self.low):
            raise ValueError(f"there is no band from {self.low} to {self.high} with margin {self.margin}")


def needs(settings: Settings) -> frozenset[str]:
    """The token counts, where tokens are the unit."""
    return NEEDS if settings.unit == "tokens" else frozenset()


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample; missing where tokens are asked for and not counted."""
    return [_one(text, n_tokens, settings) for text, n_tokens in zip(batch.texts, batch.n_tokens, strict=True)]


def _one(text: str, n_tokens: int | None, settings: Settings) -> Reward:
    if settings.unit == "tokens":
        if n_tokens is None:
            return Reward.missing("tokens not counted")
        size = n_tokens
    else:
        size = len(words(text)) if settings.unit == "words" else len(nfc(text))
    return Reward(float(size) if settings.form == "value" else _penalty(size, settings))


def _penalty(size: int, settings: Settings) -> float:
    over = size - settings.high if settings.high is not None else 0
    outside = max(settings.low - size, over, 0)
    if outside == 0:
        return 0.0
    return -min(1.0, outside / settings.margin) if settings.margin else -1.0
