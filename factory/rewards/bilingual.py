"""The sample translated into the teacher's language, and there scored by the teacher: its opinion of the content alone.

Range: (−∞, 0]; with `floor`, no less. Cost: one translation a sample, greedy, and one scored text. Cannot see: the sample's own
language and style, which are the translator's by then (combine with `language`, `spelling`, `fluency`), and what the
translator gets wrong or quietly repairs. The translator is `by:` (a name of the recipe's `models`), the scorer is `scorer:`
(default: the teacher), which reads `teacher_messages` where prompts have them. Without a translation there is no value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from factory.rewards import Batch, Question, Reward
from factory.rewards._prompting import TRANSLATE
from factory.rewards._translating import check, translation, translations
from factory.rewards.text import nfc

VERSION = 1
NEEDS = frozenset({"replies", "reply_scores", "prompts", "languages"})
BY = "translator"
RANGE = (float("-inf"), 0.0)


@dataclass(frozen=True)
class Settings:
    """How the sample is translated, and the translation's log-likelihood normalised."""

    language: str = "en"
    """The teacher's language: a code such as en, or its name."""
    wording: str = TRANSLATE
    """The question to the translator, with the places {text}, {source} and {target}; "{text}" for a model that only translates."""
    max_tokens: int = 512
    """Longest translation; one that is cut is none."""
    form: Literal["sum", "token", "byte"] = "token"
    """Total; per token of the scorer; per UTF-8 byte of the translation."""
    floor: float | None = None
    """Least mean log p of a scorer token (−8, say): one impossible word then does not drown the other differences."""

    def __post_init__(self) -> None:
        check(self.wording, self.max_tokens)
        if self.floor is not None and self.floor > 0:
            raise ValueError(f"floor is {self.floor}, a log-probability is at most 0")


def questions(batch: Batch, settings: Settings) -> list[list[Question]]:
    """The sample's translation."""
    return translations(batch, settings.language, settings.wording, settings.max_tokens)


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample, the translation as its detail; missing where there is none, or no score of it."""
    return [_one(batch, sample, settings) for sample in range(len(batch))]


def _one(batch: Batch, sample: int, settings: Settings) -> Reward:
    reply, why = translation(batch, sample)
    if reply is None:
        return Reward.missing(why)
    if reply.total is None or not reply.n_tokens:
        return Reward.missing("the translation was not scored")
    total = reply.total if settings.floor is None else max(reply.total, settings.floor * reply.n_tokens)
    divisor = {"sum": 1, "token": reply.n_tokens, "byte": len((reply.text or "").encode())}[settings.form]
    return Reward(total / divisor, detail=nfc(reply.text or ""))
