"""The sample translated back into the teacher's language, compared there with what the teacher said itself.

Range: [0, 1]. Cost: one translation a sample, greedy, and a third of a millisecond (chrf). Cannot see: the sample's language
(an answer left in the teacher's language compares best of all: combine with `language`), a right answer in other
words, and what the translator gets wrong or quietly repairs. The translator is `by:` (a name of the recipe's `models`).
Without a translation there is no value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from factory.rewards import Batch, Question, Reward
from factory.rewards._prompting import TRANSLATE
from factory.rewards._translating import check, translation, translations
from factory.rewards.similarity import METRICS
from factory.rewards.text import nfc, squash

VERSION = 1
NEEDS = frozenset({"replies", "languages", "answers", "references"})
BY = "translator"
RANGE = (0.0, 1.0)


@dataclass(frozen=True)
class Settings:
    """How the sample is translated, what the translation is compared with, and how."""

    language: str = "en"
    """The teacher's language: a code such as en, or its name."""
    wording: str = TRANSLATE
    """The question to the translator, with the places {text}, {source} and {target}; "{text}" for a model that only translates."""
    max_tokens: int = 512
    """Longest translation; one that is cut is none."""
    metric: Literal["chrf", "bleu", "rouge_l", "edit", "exact"] = "chrf"
    """As in `similarity`."""
    to: Literal["answers", "references"] = "answers"
    """The teacher's answers in its own words, or the prompt's references, where those are in the teacher's language."""
    over: Literal["best", "mean"] = "best"
    """With several of them: the best value, or the mean."""
    casefold: bool = True
    """Whether capitals and small letters are the same: languages differ in them."""

    def __post_init__(self) -> None:
        check(self.wording, self.max_tokens)


def needs(settings: Settings) -> frozenset[str]:
    """The translation, its source language, and the one list compared with."""
    return frozenset({"replies", "languages", settings.to})


def questions(batch: Batch, settings: Settings) -> list[list[Question]]:
    """The sample's translation."""
    return translations(batch, settings.language, settings.wording, settings.max_tokens)


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample, the translation as its detail; missing where there is none, or nothing to compare with."""
    return [_one(batch, sample, settings) for sample in range(len(batch))]


def _one(batch: Batch, sample: int, settings: Settings) -> Reward:
    targets = [_plain(text, settings) for text in batch.targets(sample, settings.to)]
    if not targets:
        return Reward.missing(f"no {settings.to}")
    reply, why = translation(batch, sample)
    if reply is None:
        return Reward.missing(why)
    back = _plain(reply.text or "", settings)
    values = [METRICS[settings.metric](back, target) for target in targets]
    return Reward(max(values) if settings.over == "best" else sum(values) / len(values), detail=nfc(reply.text or ""))


def _plain(text: str, settings: Settings) -> str:
    return nfc(squash(text).casefold()) if settings.casefold else squash(text)
