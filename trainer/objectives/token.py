"""Objectives whose coefficient is a token's own: clipped, truncated or masked ratios.

Axis suffixes: b sample in the batch, t token. Log-probabilities in nats; ρ = π/μ."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.objective_config import ObjectiveSettings
from trainer.objectives.ratios import (
    Coefficients,
    Metrics,
    flat_region,
    mismatch,
    ratio,
    truncate,
    truncated_primitive,
    wanted,
)
from trainer.view import StepView, masked, mean_metric, sample_mean


def naive(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = A: REINFORCE with a baseline that forgets where the samples came from. The control; π ≠ μ biases it.

    Source: Williams 1992, eq. 11 (REINFORCE); off-policy use without weights is the mistake it stands for."""
    c_bt = masked(view.advantage_bt, view.mask_bt)
    return Coefficients(c_bt, {"surrogate": mean_metric(c_bt * masked(view.logprobs_bt, view.mask_bt), view.mask_bt)})


def grpo(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = m·ρ'·A inside the clip region, 0 where the clipped surrogate is flat; m and ρ' from `mismatch`.

    Source: arXiv 2402.03300 eq. 3 (without its KL, which is a term of its own); asymmetric bounds arXiv 2503.14476
    §3.1; dual clip arXiv 1912.09729. Differs from the paper: the sample's length enters by the aggregation; the
    ratio's anchor is the engine's μ where π_old was not rescored. `dr_grpo` is this coefficient under another
    aggregation (arXiv 2503.20783 §3.2), A normalised by `mean`; so is `dapo` (arXiv 2503.14476 eq. 8), whose
    recipe sets clip_high above clip_low."""
    return _clipped(view, settings, *mismatch(view, settings))


def decoupled(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = min(π_prox/μ, C_m)·ρ'·A inside the clip region of ρ' = π/π_prox, π_prox the policy at the start of the block of
    steps: on a stale pool a clip centred on μ stalls. With π_prox = μ it is `grpo`.

    Source: arXiv 2110.00641 §3 (decoupled PPO objective); as used off-policy in arXiv 2505.24298 §5.2. Differs: the weight
    π_prox/μ is truncated at C_m."""
    return _clipped(view, settings, *mismatch(view, settings, wanted(view.prox_bt, "prox")))


def _clipped(
    view: StepView, settings: ObjectiveSettings, correction_bt: Tensor, log_ratio_bt: Tensor, metrics: Metrics
) -> Coefficients:
    ratio_bt, a_bt = ratio(log_ratio_bt), view.advantage_bt
    flat_bt = flat_region(ratio_bt, a_bt, settings)
    c_bt = masked(torch.where(flat_bt, 0.0, correction_bt * ratio_bt * a_bt), view.mask_bt)
    bound_low = 0.0 if settings.clip_low is None else max(0.0, 1 - settings.clip_low)
    bound_high = math.inf if settings.clip_high is None else 1 + settings.clip_high
    held_bt = torch.where(
        a_bt > 0, ratio_bt.clamp(max=bound_high), ratio_bt.clamp(bound_low, settings.dual_clip or math.inf)
    )
    metrics |= {
        "ratio": mean_metric(ratio_bt, view.mask_bt),
        "clipped": mean_metric(flat_bt, view.mask_bt),
        "surrogate": mean_metric(correction_bt * held_bt * a_bt, view.mask_bt),
    }
    return Coefficients(c_bt, metrics)


def tis(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = min(ρ, C)·A: each token weighed by itself, a first-order surrogate of `seq_tis`. C = ∞ is `grpo` without
    clip.

    Source: Ionides 2008, "Truncated importance sampling"; a token's truncated weight as in arXiv 1802.01561
    (V-trace's ρ̄)."""
    log_ratio_bt, a_bt = view.logprobs_bt - view.behaviour_bt, view.advantage_bt
    ratio_bt = ratio(log_ratio_bt)
    weight_bt = truncate(ratio_bt, settings.cap)
    metrics = {
        "ratio": mean_metric(ratio_bt, view.mask_bt),
        "capped": mean_metric(weight_bt < ratio_bt, view.mask_bt),
        "surrogate": mean_metric(truncated_primitive(log_ratio_bt, settings.cap) * a_bt, view.mask_bt),
    }
    return Coefficients(masked(weight_bt * a_bt, view.mask_bt), metrics)


def cispo(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = m·min(ρ', 1 + ε_h)·A: a truncated weight in place of a clip, so that no token loses its gradient.

    Source: arXiv 2506.13585 eq. 4-5, without a lower bound, as there."""
    correction_bt, log_ratio_bt, metrics = mismatch(view, settings)
    cap = None if settings.clip_high is None else 1 + settings.clip_high
    ratio_bt, a_bt = ratio(log_ratio_bt), view.advantage_bt
    weight_bt = truncate(ratio_bt, cap)
    metrics |= {
        "ratio": mean_metric(ratio_bt, view.mask_bt),
        "capped": mean_metric(weight_bt < ratio_bt, view.mask_bt),
        "surrogate": mean_metric(correction_bt * truncated_primitive(log_ratio_bt, cap) * a_bt, view.mask_bt),
    }
    return Coefficients(masked(correction_bt * weight_bt * a_bt, view.mask_bt), metrics)


def mis(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = ρ·A where the ratio lies in the band, else 0; masked tokens stay in the denominator. The ratio is ρ of the token,
    or s = exp(mean_t log ρ) for all tokens of a sample.

    Source: masked importance sampling between engine and trainer (Liu et al. 2025, "When speed kills stability"), MATH §4."""
    log_ratio_bt, band = view.logprobs_bt - view.behaviour_bt, settings.mis
    ratio_bt = gate_bt = ratio(log_ratio_bt)
    if band.unit == "sample":
        gate_bt = ratio(sample_mean(log_ratio_bt, view.mask_bt))[:, None].expand_as(ratio_bt)
    kept_bt = (gate_bt >= band.low) & (gate_bt <= band.high)
    c_bt = masked(torch.where(kept_bt, ratio_bt, 0.0) * view.advantage_bt, view.mask_bt)
    metrics = {
        "ratio": mean_metric(ratio_bt, view.mask_bt),
        "masked": mean_metric(~kept_bt, view.mask_bt),
        "surrogate": mean_metric(c_bt, view.mask_bt),
    }
    return Coefficients(c_bt, metrics)


def m2po(view: StepView, settings: ObjectiveSettings) -> Coefficients:
    """c = ρ·A without the tokens of the largest (log ρ)²: as few as leave a mean of at most `m2_limit` over the others.

    The view is the whole step's. Tokens of equal (log ρ)² go together, so that their order decides nothing.
    Source: arXiv 2510.01161 §4. Differs: every token may be masked, whatever its advantage's sign."""
    log_ratio_bt = view.logprobs_bt - view.behaviour_bt
    kept_bt = view.mask_bt & (log_ratio_bt.square() <= _square_limit(log_ratio_bt[view.mask_bt], settings.m2_limit))
    c_bt = masked(ratio(log_ratio_bt) * view.advantage_bt, kept_bt)
    metrics = {
        "ratio": mean_metric(ratio(log_ratio_bt), view.mask_bt),
        "masked": mean_metric(~kept_bt, view.mask_bt),
        "m2": mean_metric(log_ratio_bt.square(), kept_bt),
        "surrogate": mean_metric(c_bt, view.mask_bt),
    }
    return Coefficients(c_bt, metrics)


def _square_limit(log_ratio_n: Tensor, limit: float) -> Tensor:
    """Largest (log ρ)² such that the mean of all that are no larger is at most `limit`; −1 where none is."""
    values_n, count_n = log_ratio_n.square().double().unique(return_counts=True)
    mean_n = (values_n * count_n).cumsum(0) / count_n.cumsum(0)
    fitting_n = values_n[mean_n <= limit]
    return fitting_n[-1].to(log_ratio_n) if len(fitting_n) else log_ratio_n.new_tensor(-1.0)
