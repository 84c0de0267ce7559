"""How many effective samples whole-sample weights will leave, before a step is taken, from the cache alone.

Reads a few row groups of `samples` and of the policy's rescored `scores`. Writes nothing, refuses nothing."""

from __future__ import annotations

import math

import numpy as np

from data.manifest import Slice
from data.zip import row_groups, zip_groups
from trainer.replay import lists

SEQUENCE_WEIGHTS = frozenset({"seq_tis", "topr"})
BLOCKS = 4  # row groups looked at, evenly over the pool: some ten thousand tokens tell a deviation well enough


def expected_ess(tokens: float, deviation: float) -> float:
    """ESS/n ≈ exp(−T·σ²) of w = Π ρ_t with independent log-ratios of standard deviation σ nats (MATH §4).

    >>> round(expected_ess(512, 0.05), 2), round(expected_ess(512, 0.1), 3)
    (0.28, 0.006)
    """
    return math.exp(-tokens * deviation**2)


def forecast(samples: Slice, rescored: Slice, tokens: float) -> tuple[float, float]:
    """(σ of log π_old − log μ over tokens in nats, expected ESS/n at so many tokens a sample)."""
    blocks = row_groups(samples)
    count = len(blocks)
    order = sorted({int(place) for place in np.linspace(0, count - 1, min(BLOCKS, count))})
    differences = [np.zeros(0)]
    beside = {"rescored": (rescored, ["logprobs"])}
    for table in zip_groups(samples, beside, columns=["behaviour_logprobs"], order=order, groups=blocks):
        pairs = zip(lists(table["rescored.logprobs"]), lists(table["behaviour_logprobs"]), strict=True)
        differences += [old.astype(np.float64) - behaviour for old, behaviour in pairs if len(old) == len(behaviour)]
    everything = np.concatenate(differences)
    deviation = float(everything.std()) if len(everything) else 0.0
    return deviation, expected_ess(tokens, deviation)
