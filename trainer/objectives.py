"""Objectives: the coefficient c of log π for each sampled token, one function and one line of `OBJECTIVES` a method.

Reads a `StepView` (detached tensors of whole groups). Gives coefficients, and metrics as (sum, count) pairs that add
over micro-batches and processes. Does not aggregate, weigh or differentiate (losses.py does), and knows no disk and
no configuration.

Axis suffixes: b sample in the batch, t token. Log-probabilities in nats. For a token, ρ = π/μ with μ the behaviour;
for a sample, w = Π_t ρ_t over its unmasked tokens. Coefficients are zero outside the mask; a sample without an
unmasked token takes part in nothing. Every objective logs `surrogate`: the sum of a function whose derivative by log
π_t is exactly c_t (the value of the loss is not that)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from data.refusal import Refusal, nearest
from trainer.objective_config import ObjectiveSettings
from trainer.view import StepView, first_of_group, group_extreme, group_sum, masked, mean_metric, sample_sum

# exp(20) is finite in float32 with room for a product; a larger ratio means a broken record (see drift.py)
MAX_LOG_RATIO = 20.0

Scope = Literal["token", "sample", "group", "step"]
Aggregation = Literal["token", "sample", "sequence", "constant", "prompt"]
Metrics = dict[str, tuple[Tensor, Tensor]]  # (sum, count); a division happens once, over the step
_NEXT = "python -m trainer recipe=demo"


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
    """What the lake must hold beyond samples and rewards."""
    coefficient: Callable[[StepView, ObjectiveSettings], Coefficients]


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


def mismatch(view: StepView, settings: ObjectiveSettings) -> tuple[Tensor, Tensor, Metrics]:
    """(m, log ρ', metrics) of every clipped objective: m = min(π_old/μ, C_m), ρ' = π/π_old; without π_old, m = 1 and
    ρ' = π/μ.

    Source: MATH §4; Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"."""
    if view.old_bt is None:
        return torch.ones_like(view.logprobs_bt), view.logprobs_bt - view.behaviour_bt, {}
    raw_bt = ratio(view.old_bt - view.behaviour_bt)
    correction_bt = truncate(raw_bt, settings.mismatch_cap)
    metrics = {
        "mismatch": mean_metric(raw_bt, view.mask_bt),
        "mismatch_capped": mean_metric(correction_bt < raw_bt, view.mask_bt),
    }
    return correction_bt, view.logprobs_bt - view.old_bt, metrics


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


def naive(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = A: REINFORCE with a baseline that forgets where the samples came from. The control; π ≠ μ biases it.

    Source: Williams 1992, eq. 11 (REINFORCE); off-policy use without weights is the mistake it stands for."""
    c_bt = masked(view.advantage_b[:, None].expand_as(view.logprobs_bt), view.mask_bt)
    return Coefficients(c_bt, {"surrogate": mean_metric(c_bt * masked(view.logprobs_bt, view.mask_bt), view.mask_bt)})


def grpo(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = m·ρ'·A inside the clip region, 0 where the clipped surrogate is flat; m and ρ' from `mismatch`.

    Source: arXiv 2402.03300 eq. 3 (without its KL, which is a term of its own); asymmetric bounds arXiv 2503.14476
    §3.1; dual clip arXiv 1912.09729. Differs from the paper: the sample's length enters by the aggregation; the
    ratio's anchor is the engine's μ where π_old was not rescored. `dr_grpo` is this coefficient under another
    aggregation (arXiv 2503.20783 §3.2), A normalised by `mean`."""
    correction_bt, log_ratio_bt, metrics = mismatch(view, settings)
    ratio_bt, a_b1 = ratio(log_ratio_bt), view.advantage_b[:, None]
    flat_bt = flat_region(ratio_bt, a_b1, settings)
    c_bt = masked(torch.where(flat_bt, 0.0, correction_bt * ratio_bt * a_b1), view.mask_bt)
    bound_low = 0.0 if settings.clip_low is None else max(0.0, 1 - settings.clip_low)
    bound_high = math.inf if settings.clip_high is None else 1 + settings.clip_high
    held_bt = torch.where(
        a_b1 > 0, ratio_bt.clamp(max=bound_high), ratio_bt.clamp(bound_low, settings.dual_clip or math.inf)
    )
    metrics |= {
        "ratio": mean_metric(ratio_bt, view.mask_bt),
        "clipped": mean_metric(flat_bt, view.mask_bt),
        "surrogate": mean_metric(correction_bt * held_bt * a_b1, view.mask_bt),
    }
    return Coefficients(c_bt, metrics)


def tis(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = min(ρ, C)·A: each token weighed by itself, a first-order surrogate of `seq_tis`. C = ∞ is `grpo` without
    clip.

    Source: Ionides 2008, "Truncated importance sampling"; a token's truncated weight as in arXiv 1802.01561
    (V-trace's ρ̄)."""
    log_ratio_bt, a_b1 = view.logprobs_bt - view.behaviour_bt, view.advantage_b[:, None]
    ratio_bt = ratio(log_ratio_bt)
    weight_bt = truncate(ratio_bt, settings.cap)
    metrics = {
        "ratio": mean_metric(ratio_bt, view.mask_bt),
        "capped": mean_metric(weight_bt < ratio_bt, view.mask_bt),
        "surrogate": mean_metric(truncated_primitive(log_ratio_bt, settings.cap) * a_b1, view.mask_bt),
    }
    return Coefficients(masked(weight_bt * a_b1, view.mask_bt), metrics)


def seq_tis(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = min(w, C)·A, w = Π_t ρ_t: the exact importance weight of the whole sample, unbiased up to C.

    Source: Ionides 2008. Differs from a product of truncated token weights: one truncation, after the product."""
    log_weight_b, live_b = sample_sum(view.logprobs_bt - view.behaviour_bt, view.mask_bt), view.live_b
    raw_b = ratio(log_weight_b)
    weight_b = truncate(raw_b, settings.cap)
    c_b = torch.where(live_b, weight_b * view.advantage_b, 0.0)
    metrics = {
        "ratio": mean_metric(raw_b, live_b),
        "capped": mean_metric(weight_b < raw_b, live_b),
        "surrogate": mean_metric(truncated_primitive(log_weight_b, settings.cap) * view.advantage_b, live_b),
    }
    return Coefficients(masked(c_b[:, None].expand_as(view.logprobs_bt), view.mask_bt), metrics)


TOPR_CAP = 1.0  # the taper of a negative sample's weight, [0, 1]: the method's definition, not a setting


def topr(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = A where A ≥ 0 (no weight), min(w, 1)·A where A < 0: good samples pull in full, bad ones fade once π has
    left them.

    Source: arXiv 2503.14286, the canonical TOPR gradient of §3 (a⁺ = b⁺ = 1, a⁻ = 0, b⁻ = 1), A in place of R."""
    log_weight_b, live_b = sample_sum(view.logprobs_bt - view.behaviour_bt, view.mask_bt), view.live_b
    good_b, raw_b = view.advantage_b >= 0, ratio(log_weight_b)
    tapered_b = truncate(raw_b, TOPR_CAP)
    c_b = torch.where(live_b, torch.where(good_b, 1.0, tapered_b) * view.advantage_b, 0.0)
    value_b = torch.where(good_b, log_weight_b, truncated_primitive(log_weight_b, TOPR_CAP)) * view.advantage_b
    metrics = {
        "ratio": mean_metric(raw_b, live_b),
        "capped": mean_metric(tapered_b < raw_b, live_b & ~good_b),
        "surrogate": mean_metric(value_b, live_b),
    }
    return Coefficients(masked(c_b[:, None].expand_as(view.logprobs_bt), view.mask_bt), metrics)


def group_softmax(score_b: Tensor, live_b: Tensor, group_b: Tensor) -> Tensor:
    """s (b): softmax of the scores over the live samples of each group; 0 for the others."""
    score_b = torch.where(live_b, score_b, -math.inf)
    top_b = group_extreme(score_b, group_b, "amax")
    power_b = torch.where(live_b, (score_b - top_b).exp(), 0.0)
    return torch.where(live_b, power_b / group_sum(power_b, group_b), 0.0)


def seed_softmax(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = s_j·(A_j − Σ_k s_k A_k)·∂z_j/∂log π_t, s the softmax over the group of z_j = mean_t (or Σ_t) log π.

    The gradient of Σ_j s_j A_j, exactly; ∂z/∂log π_t = 1/T_j for the mean, 1 for the sum. T_j counts the unmasked
    tokens, the ones z sees. Source: step 7 of the project's source, differentiated (MATH §4). Differs from it by the
    default mean: raw sums give one long group's weight to a single sample, and the gradient dies."""
    live_b = view.live_b
    tokens_b = view.mask_bt.sum(1).clamp(min=1).to(view.logprobs_bt)
    slope_b = 1.0 / tokens_b if settings.softmax_score == "mean" else torch.ones_like(tokens_b)
    s_b = group_softmax(sample_sum(view.logprobs_bt, view.mask_bt) * slope_b, live_b, view.group_b)
    weighted_b = torch.where(live_b, s_b * view.advantage_b, 0.0)
    c_b = (weighted_b - s_b * group_sum(weighted_b, view.group_b)) * slope_b
    first_b = first_of_group(view.group_b)
    metrics = {
        "largest_share": mean_metric(group_extreme(s_b, view.group_b, "amax"), first_b),
        "surrogate": mean_metric(group_sum(weighted_b, view.group_b), first_b),
    }
    return Coefficients(masked(c_b[:, None].expand_as(view.logprobs_bt), view.mask_bt), metrics)


def best_of_group(view: StepView) -> Tensor:
    """Bool (b): the live sample with the highest advantage of each group, the first of equals."""
    order_b = torch.arange(len(view.group_b), device=view.group_b.device)
    advantage_b = torch.where(view.live_b, view.advantage_b, -math.inf)
    best_b = view.live_b & (advantage_b == group_extreme(advantage_b, view.group_b, "amax"))
    rank_b = torch.where(best_b, order_b, len(order_b))
    return best_b & (rank_b == group_extreme(rank_b, view.group_b, "amin"))


def raft(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = 1 on the chosen samples, 0 elsewhere: imitation of the student's own best. A control.

    Source: arXiv 2304.06767, algorithm 1 (best of K, then fine-tuning on it)."""
    chosen_b = best_of_group(view) if view.chosen_b is None else view.chosen_b
    kept_bt = chosen_b[:, None] & view.mask_bt
    metrics = {
        "chosen": mean_metric(chosen_b, view.live_b),
        "surrogate": mean_metric(masked(view.logprobs_bt, kept_bt), view.mask_bt),
    }
    return Coefficients(kept_bt.to(view.logprobs_bt.dtype), metrics)


_BEHAVIOUR, _NOTHING = frozenset({"behaviour"}), frozenset[str]()

OBJECTIVES: dict[str, Objective] = {
    "naive": Objective("naive", "sample", "sample", _NOTHING, naive),
    "grpo": Objective("grpo", "token", "sample", _BEHAVIOUR, grpo),
    "dr_grpo": Objective("dr_grpo", "token", "constant", _BEHAVIOUR, grpo),
    "tis": Objective("tis", "token", "token", _BEHAVIOUR, tis),
    "seq_tis": Objective("seq_tis", "sample", "sequence", _BEHAVIOUR, seq_tis),
    "topr": Objective("topr", "sample", "sequence", _BEHAVIOUR, topr),
    "seed_softmax": Objective("seed_softmax", "group", "prompt", _NOTHING, seed_softmax),
    "raft": Objective("raft", "group", "token", _NOTHING, raft),
}


def parse_objective(value: str | Mapping[str, float]) -> dict[str, float]:
    """Objective names with their weights; raises Refusal for an unknown name (with the nearest) and for a weight that
    is no weight.

    >>> parse_objective("grpo")
    {'grpo': 1.0}
    """
    weights = {value: 1.0} if isinstance(value, str) else dict(value or {})
    next_command = f"{_NEXT} objective=seq_tis"
    if not weights:
        raise Refusal("objective names nothing to optimise", next_command)
    for name, weight in weights.items():
        if name not in OBJECTIVES:
            raise Refusal(f"objective {name!r} does not exist: {nearest(str(name), OBJECTIVES)}", next_command)
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            raise Refusal(
                f"objective {name!r} has weight {weight!r}, a number of at least 0 is asked for", next_command
            )
    return {name: float(weight) for name, weight in weights.items()}
