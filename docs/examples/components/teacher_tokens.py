"""The scorer's log-probability of each token of the sample, none below a floor, and their mean.

Range: [floor, 0], nats a token. Cost: none, the scores are in the lake. Cannot see: whether the content is right. Needs a scorer
with the student's tokenizer: with another one a run's total lies evenly over its bytes."""

from __future__ import annotations

from dataclasses import dataclass

from factory.rewards import Batch, Reward

VERSION = 1
NEEDS = frozenset({"scores"})
RANGE = (float("-inf"), 0.0)


@dataclass(frozen=True)
class Settings:
    """How bad one token may be told to be."""

    floor: float = -4.0
    """Least value of a token, nats."""


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample, with a value a token; missing where a token was not scored."""
    return [_one(logprobs, settings) for logprobs in batch.scorer_logprobs]


def _one(logprobs: list[float] | None, settings: Settings) -> Reward:
    if not logprobs or None in logprobs:
        return Reward.missing("not every token is scored")
    values = [max(value, settings.floor) for value in logprobs]
    return Reward(sum(values) / len(values), values=values)
