"""Objectives that compare the samples of a group: the softmax of the source's step 7, and imitation of the best.

Axis suffixes: b sample in the batch, t token. Log-probabilities in nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.objective_config import ObjectiveSettings
from trainer.objectives.ratios import Coefficients
from trainer.view import StepView, first_of_group, group_extreme, group_sum, masked, mean_metric, sample_sum


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
