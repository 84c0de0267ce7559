"""Objectives that follow the teacher on the student's own tokens: reverse KL, of single tokens and of whole continuations.

Axis suffixes: b sample in the batch, t token. Log-probabilities in nats; p the teacher, ρ = π/μ."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.objective_config import ObjectiveSettings
from trainer.objectives.ratios import Coefficients, ratio, truncate, truncated_primitive, wanted
from trainer.view import StepView, masked, mean_metric


def opd(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = min(ρ, C)·(log p − log π) of each token: the single-step reverse KL to the teacher from the observed token.

    Unbiased for −∇KL(π_t‖p_t) at the pool's contexts while C is infinity: the constant that differentiating leaves behind has
    expectation 0. `clip.teacher`: special tokens left out, `horizon` first tokens, token t weighed by decay^t.
    Source: MATH §4, §5; arXiv 2306.13649 (GKD, on-policy reverse KL)."""
    teacher_bt, rules = wanted(view.teacher_bt, "teacher"), settings.teacher
    kept_bt, place_bt = view.mask_bt, view.places_bt
    if rules.mask_special:
        kept_bt = kept_bt & ~wanted(view.special_bt, "marks of special tokens")
    if rules.horizon is not None:
        kept_bt = kept_bt & (place_bt < rules.horizon)
    decay_bt = torch.full_like(view.logprobs_bt, rules.decay).pow(place_bt)
    weight_bt = decay_bt * truncate(ratio(view.logprobs_bt - view.behaviour_bt), rules.cap)
    gap_bt = teacher_bt - view.logprobs_bt
    metrics = {
        "teacher_gap": mean_metric(gap_bt, kept_bt),
        "kept": mean_metric(kept_bt, view.mask_bt),
        "surrogate": mean_metric(masked(decay_bt * _primitive(view, teacher_bt, rules.cap), kept_bt), view.mask_bt),
    }
    return Coefficients(masked(weight_bt * gap_bt, kept_bt), metrics)


def minillm(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = min(ρ, C)·[(log p − log π) + R]: reverse KL to the teacher, the token's own and that of what follows it.

    paper: R_{t+1} = 1/(T−t)·Σ_{u>t} γ^{u−t−1}·(log p_u − log π_u), 0 at the last token. lmops: R from t on, of roll-out-time
    log-probabilities (π_old, or μ), whitened over the step's tokens; the view is then the whole step's. The token's own part,
    log p − log π, is here only where `single` is observed; the others' is a KL over several ids (pool_soft.py, `single_weight`).
    Source: arXiv 2306.08543 eq. 3-7, MATH §5. Differs: weights by single-token ρ as there, length normalisation over the
    remaining tokens."""
    teacher_bt, rules = wanted(view.teacher_bt, "teacher"), settings.teacher
    log_ratio_bt = view.logprobs_bt - view.behaviour_bt
    weight_bt, gap_bt = truncate(ratio(log_ratio_bt), rules.cap), teacher_bt - view.logprobs_bt
    if rules.variant == "lmops":
        drawn_bt = view.behaviour_bt if view.old_bt is None else view.old_bt
        long_bt = whitened(to_go(teacher_bt - drawn_bt, view.mask_bt, rules.gamma, first=0), view.mask_bt)
    else:
        long_bt = to_go(gap_bt, view.mask_bt, rules.gamma, first=1)
    observed = rules.single == "observed"
    own_bt = gap_bt if observed else torch.zeros_like(gap_bt)
    surrogate_bt = truncated_primitive(log_ratio_bt, rules.cap) * long_bt
    if observed:
        surrogate_bt = surrogate_bt + _primitive(view, teacher_bt, rules.cap)
    metrics = {
        "teacher_gap": mean_metric(gap_bt, view.mask_bt),
        "to_go": mean_metric(long_bt, view.mask_bt),
        "surrogate": mean_metric(surrogate_bt, view.mask_bt),
    }
    return Coefficients(masked(weight_bt * (own_bt + long_bt), view.mask_bt), metrics)


def single_weight(view: StepView, settings: ObjectiveSettings) -> Tensor:
    """min(ρ, C) of each token: what minillm's own reverse KL of a token, over several ids, is weighed by. Source: MATH §5."""
    weight_bt = truncate(ratio(view.logprobs_bt - view.behaviour_bt), settings.teacher.cap)
    return masked(weight_bt, view.mask_bt)


def to_go(reward_bt: Tensor, mask_bt: Tensor, gamma: float, first: int) -> Tensor:
    """(b, t): mean over the remaining tokens u ≥ t + first of γ^{u−t−first}·reward_u; 0 where none remains.

    >>> to_go(torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3, dtype=torch.bool), 0.5, first=1)
    tensor([[2., 4., 0.]])
    """
    reward_bt = masked(reward_bt, mask_bt)
    total_bt, sum_b = torch.zeros_like(reward_bt), reward_bt.new_zeros(len(reward_bt))
    for t in range(reward_bt.shape[1] - 1, -1, -1):
        if first:
            total_bt[:, t], sum_b = sum_b, reward_bt[:, t] + gamma * sum_b
        else:
            sum_b = reward_bt[:, t] + gamma * sum_b
            total_bt[:, t] = sum_b
    after_bt = mask_bt.flip(1).cumsum(1).flip(1) - first * mask_bt.long()
    return masked(total_bt / after_bt.clamp(min=1), mask_bt)


def whitened(values_bt: Tensor, mask_bt: Tensor) -> Tensor:
    """(values − mean)/std over all unmasked tokens of the view, population variance + 1e-8."""
    values_n = values_bt[mask_bt].double()
    mean, variance = values_n.mean(), values_n.var(unbiased=False)
    return masked(((values_bt - mean) * torch.rsqrt(variance + 1e-8)).to(values_bt), mask_bt)


def _primitive(view: StepView, teacher_bt: Tensor, cap: float | None) -> Tensor:
    """F with dF/d(log π) = min(ρ, C)·(log p − log π): ρ·(log p − log π + 1) up to C, a parabola after it."""
    log_pi_bt = view.logprobs_bt
    if cap is None:
        return ratio(log_pi_bt - view.behaviour_bt) * (teacher_bt - log_pi_bt + 1)
    edge_bt = view.behaviour_bt + math.log(cap)
    inside_bt = torch.minimum(log_pi_bt, edge_bt)
    base_bt = ratio(inside_bt - view.behaviour_bt) * (teacher_bt - inside_bt + 1)
    beyond_bt = cap * (teacher_bt * (log_pi_bt - edge_bt) - (log_pi_bt.square() - edge_bt.square()) / 2)
    return base_bt + torch.where(log_pi_bt > edge_bt, beyond_bt, 0.0)
