"""Advantages that depend on what else is in the step: rewards centred by group, divided by the spread over the step.

Reads the rewards that groups carry. The same function that normalises a whole pool is handed one step's rows (MATH §3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from data.advantages import advantages
from trainer.config import Replay
from trainer.replay import Group


def normalised(groups: Sequence[Group], settings: Replay) -> list[Group]:
    """The groups with the step's advantages in place of the pool's."""
    rewards = np.concatenate([_known(group.rewards) for group in groups])
    sizes = [len(_known(group.rewards)) for group in groups]
    starts = np.cumsum([0, *sizes[:-1]])
    found = advantages(
        rewards,
        ~np.isnan(rewards),
        starts,
        settings.advantage,
        min_spread=settings.min_spread,
        zero_variance=settings.zero_variance,
        truncated=np.concatenate([_known(group.cut) for group in groups]),
        on_truncated=settings.truncated,
        penalty=settings.penalty,
        joined=np.array([np.nan if group.joined is None else group.joined for group in groups]),
    )
    return [
        replace(group, advantages=found.vector[start + _known(group.rows)])
        for group, start in zip(groups, starts, strict=True)
    ]


def _known(values: np.ndarray | None) -> np.ndarray:
    if values is None:
        raise ValueError("these groups were read without their rewards")
    return values
