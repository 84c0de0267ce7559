"""Whether the sample is running text at all: share of its words that are lower-case and were not there just before.

Range: [0, 1]; 1 from `high` on, 0 up to `low`: one word repeated, names only, numbers only and silence have none. Never missing:
that a text has no words is what it judges, so nothing escapes by being unreadable to `language` or `spelling`. Cost: two
microseconds a word. Cannot see: which language it is (`language`, `spelling`), sentences that come again after `window` words
(`repetition`), and grammar: a list of words in any order is prose to it (`fluency`). Texts all in capitals have none; an alphabet
without capitals has none either."""

from __future__ import annotations

from dataclasses import dataclass

from factory.rewards import Batch, Reward
from factory.rewards.text import words

VERSION = 1
NEEDS: frozenset[str] = frozenset()
RANGE = (0.0, 1.0)


@dataclass(frozen=True)
class Settings:
    """What share is none, what share is enough."""

    low: float = 0.25
    """Up to this share of different lower-case words the value is 0: "eg eg eg eg" has a quarter."""
    high: float = 0.5
    """From this share on it is 1: nineteen of twenty Faroese sentences have more than four tenths, half of them three quarters."""
    window: int = 25
    """Words within which a word counts once; longer texts are averaged over all windows, or length would lower the share."""

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"low is {self.low}, high is {self.high}: 0 ≤ low < high ≤ 1")
        if self.window < 1:
            raise ValueError("window is at least 1 word")


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample, never missing: without words it is 0."""
    return [_one(text, settings) for text in batch.texts]


def _one(text: str, settings: Settings) -> Reward:
    found = words(text, casefold=False)
    if not found:
        return Reward(0.0, detail="no words")
    share = _share([word if word.islower() else "" for word in found], settings.window)
    return Reward(min(1.0, max(0.0, (share - settings.low) / (settings.high - settings.low))))


def _share(found: list[str], window: int) -> float:
    """Mean over windows of (different words but "") / words, a window starting at each word that has a whole one behind it."""
    size = min(window, len(found))
    held: dict[str, int] = {}
    different = total = 0
    for at, word in enumerate(found):
        if word:
            held[word] = held.get(word, 0) + 1
            different += held[word] == 1
        gone = found[at - size] if at >= size else ""
        if gone:
            held[gone] -= 1
            different -= held[gone] == 0
        if at >= size - 1:
            total += different
    return total / size / (len(found) - size + 1)
