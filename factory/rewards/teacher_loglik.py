"""Log-likelihood of the sample under the scorer (a teacher), nats.

Range: (−∞, 0]; with `floor`, no less than floor × scorer tokens (`sum`), floor (`token`) or the former per byte.
Cost: none, the scores are in the lake. Cannot see: whether the content is right (fluent nonsense scores well), length
(`sum` prefers short samples, `token` long fluent ones), anything the scorer does badly itself, its Faroese say, and letters that
another tokenizer changes before its model reads them ([UNK], lower case: `scores.unaligned_share`).
Divides by the scorer's tokens or by bytes, never by the student's tokens: those differ between tokenizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from factory.rewards import Batch, Reward

VERSION = 1
NEEDS = frozenset({"scores"})
RANGE = (float("-inf"), 0.0)


@dataclass(frozen=True)
class Settings:
    """How the total is normalised."""

    form: Literal["sum", "token", "byte"] = "sum"
    """Total of the sample; per token of the scorer; per UTF-8 byte of the text."""
    floor: float | None = None
    """Least mean log p of a scorer token (−8, say): one impossible word then does not drown the other differences."""

    def __post_init__(self) -> None:
        if self.floor is not None and self.floor > 0:
            raise ValueError(f"floor is {self.floor}, a log-probability is at most 0")


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample; missing where there is no score, no scorer token or, per byte, no text."""
    return [_one(batch, sample, settings) for sample in range(len(batch))]


def _one(batch: Batch, sample: int, settings: Settings) -> Reward:
    total, n_tokens = _total(batch, sample), batch.n_scorer_tokens[sample]
    if total is None:
        return Reward.missing("not scored")
    if not n_tokens and (settings.form == "token" or settings.floor is not None):
        return Reward.missing("no count of scorer tokens")
    if settings.floor is not None and n_tokens:
        total = max(total, settings.floor * n_tokens)
    if settings.form == "sum":
        return Reward(total)
    divisor = n_tokens if settings.form == "token" else len(batch.texts[sample].encode())
    return Reward(total / divisor) if divisor else Reward.missing("no text to divide by")


def _total(batch: Batch, sample: int) -> float | None:
    total, logprobs = batch.scorer_totals[sample], batch.scorer_logprobs[sample]
    if total is not None or logprobs is None or None in logprobs:
        return total
    return sum(logprobs)
