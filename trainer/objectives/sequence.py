"""Objectives whose coefficient depends on the whole sample, or on its group: sequence weights, offsets, squared residuals.

Axis suffixes: b sample in the batch, t token. Log-probabilities in nats; w = Π_t ρ_t over a sample's unmasked tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.objective_config import ObjectiveSettings
from trainer.objectives.ratios import Coefficients, ratio, truncate, truncated_primitive, wanted
from trainer.view import StepView, group_extreme, group_sum, masked, mean_metric, sample_mean, sample_sum


def seq_tis(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = min(w, C)·A, w = Π_t ρ_t: the exact importance weight of the whole sample, unbiased up to C.

    Source: Ionides 2008. Differs from a product of truncated token weights: one truncation, after the product."""
    log_weight_b, live_b = sample_sum(view.logprobs_bt - view.behaviour_bt, view.mask_bt), view.live_b
    raw_b = ratio(log_weight_b)
    weight_b = truncate(raw_b, settings.cap)
    metrics = {
        "ratio": mean_metric(raw_b, live_b),
        "capped": mean_metric(weight_b < raw_b, live_b),
        "surrogate": mean_metric(truncated_primitive(log_weight_b, settings.cap) * view.advantage_b, live_b),
    }
    return Coefficients(masked(weight_b[:, None] * view.advantage_bt, view.mask_bt), metrics)


TOPR_CAP = 1.0  # the taper of a negative sample's weight, [0, 1]: the method's definition, not a setting


def topr(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = A where A ≥ 0 (no weight), min(w, 1)·A where A < 0: good samples pull in full, bad ones fade once π has
    left them.

    Source: arXiv 2503.14286, the canonical TOPR gradient of §3 (a⁺ = b⁺ = 1, a⁻ = 0, b⁻ = 1), A in place of R."""
    log_weight_b, live_b = sample_sum(view.logprobs_bt - view.behaviour_bt, view.mask_bt), view.live_b
    good_b, raw_b = view.advantage_b >= 0, ratio(log_weight_b)
    tapered_b = truncate(raw_b, TOPR_CAP)
    weight_b = torch.where(good_b, 1.0, tapered_b)
    value_b = torch.where(good_b, log_weight_b, truncated_primitive(log_weight_b, TOPR_CAP)) * view.advantage_b
    metrics = {
        "ratio": mean_metric(raw_b, live_b),
        "capped": mean_metric(tapered_b < raw_b, live_b & ~good_b),
        "surrogate": mean_metric(value_b, live_b),
    }
    return Coefficients(masked(weight_b[:, None] * view.advantage_bt, view.mask_bt), metrics)


def gspo(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = m·s·A inside the clip region of s = exp(mean_t log ρ'), 0 where the clipped surrogate is flat.

    ∂s/∂log π_t = s/T_j: the 1/T_j is the aggregation's (`sample`). m = min(exp(mean_t log π_old/μ), C_m).
    Source: arXiv 2507.18071 eq. 5-7; its clip is far narrower than a token's (`clip.gspo`)."""
    anchor_bt = view.behaviour_bt if view.old_bt is None else view.old_bt
    log_s_b = sample_mean(view.logprobs_bt - anchor_bt, view.mask_bt)
    correction_b = truncate(ratio(sample_mean(anchor_bt - view.behaviour_bt, view.mask_bt)), settings.mismatch_cap)
    s_b, a_b, live_b = ratio(log_s_b), view.advantage_b, view.live_b
    low, high = settings.gspo.low, settings.gspo.high
    flat_b = torch.zeros_like(live_b)
    if high is not None:
        flat_b = flat_b | ((a_b > 0) & (s_b > 1 + high))
    if low is not None:
        flat_b = flat_b | ((a_b < 0) & (s_b < 1 - low))
    weight_b = torch.where(flat_b, 0.0, correction_b * s_b)
    held_b = torch.where(a_b > 0, s_b.clamp(max=math.inf if high is None else 1 + high), s_b)
    held_b = torch.where(a_b < 0, held_b.clamp(min=0.0 if low is None else 1 - low), held_b)
    metrics = {
        "ratio": mean_metric(s_b, live_b),
        "clipped": mean_metric(flat_b, live_b),
        "surrogate": mean_metric(view.mask_bt.sum(1) * correction_b * held_b * a_b, live_b),
    }
    return Coefficients(masked(weight_b[:, None] * view.advantage_bt, view.mask_bt), metrics)


def asymre(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = r − (r̄ − δ): no ratio, no std; a baseline below the mean lets good samples weigh more than bad ones.

    Source: arXiv 2506.20520 §4 (baseline V = the behaviour's mean reward − δ)."""
    c_b = wanted(view.reward_b, "raw reward") - (wanted(view.baseline_b, "baseline") - settings.delta)
    c_bt = masked(c_b[:, None].expand_as(view.logprobs_bt), view.mask_bt)
    return Coefficients(c_bt, {"surrogate": mean_metric(c_bt * masked(view.logprobs_bt, view.mask_bt), view.mask_bt)})


def kimi(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = (r − r̄) − τ·ℓ, ℓ = log π(y)/π_ref(y): the gradient of −(r − r̄ − τℓ)²/(2τ), r̄ in place of τ·log Z.

    Source: arXiv 2501.12599 eq. 3."""
    return _squared(view, settings, wanted(view.reward_b, "raw reward") - wanted(view.baseline_b, "baseline"))


def tb_vargrad(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = u − ū, u = r − τ·ℓ, ū over the group's samples in the loss: trajectory balance with log Z estimated by the group.

    Source: arXiv 2503.18929 eq. 5-6 (TBA with VarGrad), whose squared residual is τ⁻²·(u − ū)²."""
    u_b = wanted(view.reward_b, "raw reward") - settings.tau * _log_ratio_b(view)
    mean_b = _group_mean(u_b, view)
    return _squared(view, settings, wanted(view.reward_b, "raw reward") - mean_b)


def astar_po(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = r − τ·ℓ − V*, V* = τ·log mean exp(r/τ) over the group's samples in the loss.

    Source: arXiv 2505.20686 eq. 4-5 (A*-PO). Differs: V* comes from the pool's group, which need not be the reference's."""
    reward_b = wanted(view.reward_b, "raw reward")
    scaled_b = torch.where(view.live_b, reward_b / settings.tau, -math.inf)
    top_b = group_extreme(scaled_b, view.group_b, "amax")
    power_b = torch.where(view.live_b, (scaled_b - top_b).exp(), 0.0)
    value_b = settings.tau * (top_b + _group_mean(power_b, view).log())
    return _squared(view, settings, reward_b - value_b)


def _squared(view: StepView, settings: ObjectiveSettings, aim_b: Tensor) -> Coefficients:
    """c = aim − τ·ℓ for each token of a sample: the gradient of −(aim − τℓ)²/(2τ)."""
    log_ratio_b, live_b = _log_ratio_b(view), view.live_b
    residual_b = torch.where(live_b, aim_b - settings.tau * log_ratio_b, 0.0)
    metrics = {
        "log_ratio": mean_metric(log_ratio_b, live_b),
        "surrogate": mean_metric(-residual_b.square() / (2 * settings.tau), live_b),
    }
    return Coefficients(masked(residual_b[:, None].expand_as(view.logprobs_bt), view.mask_bt), metrics)


def _log_ratio_b(view: StepView) -> Tensor:
    """ℓ (b): log π(y)/π_ref(y) over a sample's unmasked tokens."""
    return sample_sum(view.logprobs_bt - wanted(view.reference_bt, "reference"), view.mask_bt)


def _group_mean(values_b: Tensor, view: StepView) -> Tensor:
    """(b): the mean over the group's samples in the loss."""
    live_b = view.live_b
    count_b = group_sum(live_b.to(values_b), view.group_b).clamp(min=1)
    return group_sum(torch.where(live_b, values_b, 0.0), view.group_b) / count_b
