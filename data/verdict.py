"""From figures to words: whether the pool may be replayed further, or is spent.

Pure: reads figures by the names that `metrics` has behind `drift/`; the trainer asks of a run's weights, the report of its curves.
Bounds are rules of thumb, each with its reason; none is a test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

TOKEN_ESS = 0.5  # below it, half of what a step reads carries no information
TOKEN_KL = (
    0.1  # nats: a token's odds have moved by a tenth on average; replay with more is where training is seen to collapse
)
K_HAT = 0.7  # above it no feasible number of draws gives a stable mean of weights (arXiv 1507.02646 §3.2.4)
CLIPPED = 0.3  # a third of the tokens no longer move the policy
BROKEN = 1e-3  # ratios above e^20 come from wrong records, not from training


@dataclass(frozen=True)
class Verdict:
    """Whether to replay on, and what speaks against it."""

    replay: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    """What is worth knowing without deciding."""

    @property
    def words(self) -> str:
        """The verdict as a sentence."""
        if self.replay:
            return "replay on: the pool still fits the policy"
        return f"the pool is spent: lower the learning rate or go on with a new round ({'; '.join(self.reasons)})"


WEIGHTED = frozenset({"seq_tis", "topr"})  # objectives whose coefficient holds w of a whole sample


def verdict(figures: Mapping[str, float], *, sample_weights: bool, samples: int) -> Verdict:
    """The verdict on a pool with so many samples a group.

    `sample_weights`: whether the run weighs whole samples by w (seq_tis, topr). A token's figures decide for every run; those
    of whole samples fall with a sample's length however small the step, so they decide only where they are used, and are a note
    elsewhere. A figure that is not there, or is NaN, does not pass."""
    least = 1 / samples
    broken = not figures.get("broken", math.nan) <= BROKEN
    tokens = [
        (not figures.get("token_ess", math.nan) >= TOKEN_ESS, f"token ESS/n is below {TOKEN_ESS:g}"),
        (not figures.get("token_kl", math.nan) <= TOKEN_KL, f"KL(μ‖π) is above {TOKEN_KL:g} nats a token"),
        (not figures.get("clipped", math.nan) <= CLIPPED, f"more than {CLIPPED:.0%} of the tokens are clipped"),
        (broken, "ratios are broken: is this μ the policy's?"),
    ]
    whole = [
        (not figures.get("sequence_ess", math.nan) >= least, f"sequence ESS/n is below 1/{samples}"),
        (figures.get("sequence_k_hat", -math.inf) > K_HAT, f"k-hat of whole samples is above {K_HAT:g}"),
    ]
    spent, noted = (tokens + whole, []) if sample_weights else (tokens, whole)
    reasons = tuple(text for holds, text in spent if holds)
    notes = tuple(f"{text}: objectives with weights of whole samples are spent" for holds, text in noted if holds)
    return Verdict(not reasons, reasons, notes)
