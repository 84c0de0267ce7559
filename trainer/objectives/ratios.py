"""Ratios between policies, how they are cut, and the shape of a row of `OBJECTIVES`.

Axis suffixes: b sample in the batch, t token. Log-probabilities in nats."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainer.objective_config import ObjectiveSettings
from trainer.view import StepView, mean_metric

# exp(20) is finite in float32 with room for a product; a larger ratio means a broken record (see drift/sums.py)
MAX_LOG_RATIO = 20.0

Scope = Literal["token", "sample", "group", "step"]
Aggregation = Literal["token", "sample", "sequence", "constant", "prompt"]
Metrics = dict[str, tuple[Tensor, Tensor]]  # (sum, count); a division happens once, over the step


@dataclass(frozen=True, eq=False)
class Coefficients:
    """c (b, t), zero outside the mask, and metrics as (sum, count)."""

    c_bt: Tensor
    metrics: Metrics


@dataclass(frozen=True)
class Objective:
    """A row of `OBJECTIVES`: all that the loop needs to know of a method."""

    name: str
    scope: Scope
    """What must be known of log π before the first coefficient: the token, the sample, the group or the whole step."""
    aggregate: Aggregation
    """The default aggregation (losses.py); a recipe may override it."""
    needs: frozenset[str]
    """What it looks at: behaviour, reward (advantages), raw_reward, teacher, reference, prox, special."""
    coefficient: Callable[[StepView, ObjectiveSettings], Coefficients]
    support: Callable[[StepView, ObjectiveSettings], Tensor] | None = None
    """Coefficient (b, t) of its KL at several ids of a token (pool_soft.py), where its settings ask for one."""


def ratio(log_ratio: Tensor) -> Tensor:
    """exp of a log-ratio in nats, clamped above at MAX_LOG_RATIO; NaN stays NaN."""
    return log_ratio.clamp(max=MAX_LOG_RATIO).exp()


def truncate(weight: Tensor, cap: float | None) -> Tensor:
    """min(weight, C); C None is infinity."""
    return weight if cap is None else weight.clamp(max=cap)


def truncated_primitive(log_weight: Tensor, cap: float | None) -> Tensor:
    """F with dF/d(log w) = min(w, C): w up to C, then C·(1 + log w − log C). The surrogate of a truncated weight."""
    weight = truncate(ratio(log_weight), cap)
    return weight if cap is None else weight + cap * (log_weight - math.log(cap)).clamp(min=0)


def mismatch(
    view: StepView, settings: ObjectiveSettings, anchor_bt: Tensor | None = None
) -> tuple[Tensor, Tensor, Metrics]:
    """(m, log ρ', metrics) of every clipped objective: m = min(π_old/μ, C_m), ρ' = π/π_old; without π_old, m = 1 and
    ρ' = π/μ. `anchor_bt` (log π_prox of `decoupled`) takes π_old's place.

    Source: MATH §4; Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"."""
    anchor_bt = view.old_bt if anchor_bt is None else anchor_bt
    if anchor_bt is None:
        return torch.ones_like(view.logprobs_bt), view.logprobs_bt - view.behaviour_bt, {}
    raw_bt = ratio(anchor_bt - view.behaviour_bt)
    correction_bt = truncate(raw_bt, settings.mismatch_cap)
    metrics = {
        "mismatch": mean_metric(raw_bt, view.mask_bt),
        "mismatch_capped": mean_metric(correction_bt < raw_bt, view.mask_bt),
    }
    return correction_bt, view.logprobs_bt - anchor_bt, metrics


def flat_region(ratio_bt: Tensor, a_b1: Tensor, settings: ObjectiveSettings) -> Tensor:
    """Bool (b, t): where the clipped surrogate does not move with ρ. An advantage of 0 is nowhere clipped."""
    low, high = settings.clip_low, settings.clip_high
    flat_bt = torch.zeros_like(ratio_bt, dtype=torch.bool)
    if high is not None:
        flat_bt = flat_bt | ((a_b1 > 0) & (ratio_bt > 1 + high))
    if low is not None:
        flat_bt = flat_bt | ((a_b1 < 0) & (ratio_bt < 1 - low))
    if settings.dual_clip is not None:
        flat_bt = flat_bt | ((a_b1 < 0) & (ratio_bt > settings.dual_clip))
    return flat_bt


def wanted(tensor: Tensor | None, name: str) -> Tensor:
    """The tensor of a view that an objective needs. Raises ValueError where the view was made without it."""
    if tensor is None:
        raise ValueError(f"the view holds no {name}, which this objective needs")
    return tensor
