"""Similarity of the sample to the references or to the teacher's answers.

Range: [0, 1]. Cost: microseconds (exact, positional, edit, rouge_l), a tenth of a millisecond (bleu, chrf).
Cannot see: a right answer in other words, or in another language than the text compared with; a wrong digit in a long
sentence costs next to nothing (see `agreement`, `verifier`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from factory.rewards import Batch, Reward, _chrf
from factory.rewards.text import nfc, part_of, squash, words

VERSION = 1
NEEDS = frozenset({"references", "answers", "answer_patterns"})
RANGE = (0.0, 1.0)


@dataclass(frozen=True)
class Settings:
    """What is compared, with what, and how."""

    metric: Literal["bleu", "chrf", "rouge_l", "edit", "exact", "positional"] = "chrf"
    """Sentence BLEU; chrF; F1 of the words' longest common subsequence; 1 − edit distance; equality; same word in place."""
    to: Literal["references", "answers"] = "references"
    """The prompt's references, or the teacher's answers."""
    over: Literal["best", "mean"] = "best"
    """With several of them: the best value, or the mean."""
    casefold: bool = False
    """Whether capitals and small letters are the same."""
    part: Literal["text", "answer"] = "text"
    """The whole text, or its answer span (after thinking, in <answer> tags, by the prompt's pattern)."""


def needs(settings: Settings) -> frozenset[str]:
    """The one list compared with, and the patterns where an answer is looked for."""
    return frozenset({settings.to} | ({"answer_patterns"} if settings.part == "answer" else set()))


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample; missing where there is nothing to compare with, 0 for an empty sample."""
    return [_one(batch, sample, settings) for sample in range(len(batch))]


def _one(batch: Batch, sample: int, settings: Settings) -> Reward:
    pattern = batch.answer_patterns[sample]
    # A reference may be the bare answer already: then the pattern does not find it.
    targets = [
        _prepare(t, pattern, settings) or _prepare(t, None, settings) for t in batch.targets(sample, settings.to)
    ]
    targets = list(filter(None, targets))
    if not targets:
        return Reward.missing(f"no {settings.to}")
    text = _prepare(batch.texts[sample], pattern, settings)
    if not text:
        return Reward(0.0, detail=f"no {settings.part}")
    values = [METRICS[settings.metric](text, target) for target in targets]
    return Reward(max(values) if settings.over == "best" else sum(values) / len(values))


def _prepare(text: str, pattern: str | None, settings: Settings) -> str:
    part = squash(part_of(text, settings.part, pattern) or "")
    return nfc(part.casefold()) if settings.casefold else part


@functools.cache
def _sacrebleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)


def bleu(text: str, target: str) -> float:
    """Sentence BLEU in [0, 1]: up to 4-grams (fewer in a short text), 13a tokens, exponential smoothing.

    Source: Papineni et al. 2002, eq. 1–3, as in sacrebleu (Post 2018)."""
    return min(1.0, _sacrebleu().sentence_score(text, [target]).score / 100)


def chrf(text: str, target: str) -> float:
    """chrF in [0, 1]: F2 of character 1- to 6-grams without spaces. Source: Popović 2015, eq. 1, as in sacrebleu."""
    return min(1.0, _chrf.score(text, target))


def rouge_l(text: str, target: str) -> float:
    """F1 of the longest common subsequence of words, 2·LCS/(m+n). Source: Lin 2004, eq. 2–4 with β = 1."""
    from rapidfuzz.distance import LCSseq

    ours, theirs = words(text, casefold=False), words(target, casefold=False)
    return 2 * LCSseq.similarity(ours, theirs) / (len(ours) + len(theirs)) if ours and theirs else 0.0


def edit(text: str, target: str) -> float:
    """1 − Levenshtein distance / length of the longer text, in characters of NFC."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.normalized_similarity(text, target)


def exact(text: str, target: str) -> float:
    """1 where both are equal after NFC and white space."""
    return float(text == target)


def positional(text: str, target: str) -> float:
    """Share of the longer text's word positions at which both have the same word."""
    ours, theirs = words(text, casefold=False), words(target, casefold=False)
    longer = max(len(ours), len(theirs))
    return sum(a == b for a, b in zip(ours, theirs, strict=False)) / longer if longer else 0.0


METRICS: dict[str, Callable[[str, str], float]] = {
    "bleu": bleu,
    "chrf": chrf,
    "rouge_l": rouge_l,
    "edit": edit,
    "exact": exact,
    "positional": positional,
}
