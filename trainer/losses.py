"""The one kernel: L = −Σ_t sg(weight_t)·log π_t, weight_t = Σ_k λ_k·a_k,t·c_k,t over the terms of a step.

Reads coefficients (objectives.py, and the ones of KL and imitation here) and the counts planned for the whole step.
Gives one scalar with a gradient. Does not count tokens itself: a denominator counted inside a micro-batch would make
its size change the gradient. Gradients of micro-batches and processes are therefore summed, never averaged. Refuses
an unknown aggregation.

Axis suffixes: b sample in the batch, t token. Log-probabilities in nats. Source: MATH §2, §6, §7."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from data.refusal import Refusal, nearest
from trainer.objectives import OBJECTIVES, Coefficients, Metrics, ObjectiveSettings, ratio, truncate
from trainer.view import StepView, masked, mean_metric


@dataclass(frozen=True)
class StepCounts:
    """What one step holds over all its micro-batches and processes, planned before the forward pass and any
    objective's mask."""

    tokens: int
    """ΣT over the samples of the step."""
    samples: int
    """N_s; groups that were dropped are not among them."""
    prompts: int
    """N_p."""
    max_tokens: int
    """L_max: the longest sample that the pool's sampling allowed, not the longest one seen."""


AGGREGATIONS: dict[str, Callable[[Tensor, StepCounts], Tensor]] = {
    # T_j of a sample without tokens counts as 1: its mask is empty, and 1/0 would still poison a product
    "token": lambda lengths_b, counts: torch.ones_like(lengths_b) / counts.tokens,
    "sample": lambda lengths_b, counts: 1.0 / (counts.samples * lengths_b.clamp(min=1)),
    "sequence": lambda lengths_b, counts: torch.ones_like(lengths_b) / counts.samples,
    "constant": lambda lengths_b, counts: torch.ones_like(lengths_b) / (counts.samples * counts.max_tokens),
    "prompt": lambda lengths_b, counts: torch.ones_like(lengths_b) / counts.prompts,
}


def aggregation_bt(kind: str, mask_bt: Tensor, lengths_b: Tensor, counts: StepCounts) -> Tensor:
    """a (b, t) of one term, 0 outside the mask, float32.

    token 1/ΣT (arXiv 2503.14476 eq. 8) · sample 1/(N_s·T_j) (arXiv 2402.03300 eq. 3) · sequence 1/N_s · constant
    1/(N_s·L_max) (arXiv 2503.20783 §3.2) · prompt 1/N_p. lengths_b: T_j before any objective's mask. Raises Refusal
    for another kind, ValueError where the step's counts cannot hold these samples."""
    if kind not in AGGREGATIONS:
        raise Refusal(
            f"aggregation {kind!r} does not exist: {nearest(kind, AGGREGATIONS)}",
            "python -m trainer recipe=demo losses.aggregation=token",
        )
    tokens, planned = int(lengths_b.sum()), min(counts.tokens, counts.prompts, counts.max_tokens)
    if counts.samples < len(lengths_b) or counts.tokens < tokens or planned < 1:
        raise ValueError(f"{len(lengths_b)} samples of {tokens} tokens are not within the planned step {counts}")
    return masked(AGGREGATIONS[kind](lengths_b.to(torch.float32), counts)[:, None].expand(mask_bt.shape), mask_bt)


@dataclass(frozen=True, eq=False)
class Term:
    """λ·a·c of one term of the loss: +λ for what raises log π, −β for the KL."""

    weight: float
    a_bt: Tensor
    c_bt: Tensor


def mix(terms: Iterable[Term]) -> Tensor:
    """weight (b, t) = Σ_k λ_k·a_k·c_k of terms over the same tokens. Raises ValueError without a term, or for shapes
    that differ."""
    parts = [term.weight * (term.a_bt * term.c_bt) for term in terms]
    if not parts:
        raise ValueError("a weight of log π needs at least one term")
    if len({part.shape for part in parts}) > 1:
        raise ValueError(f"terms of one weight have different shapes: {[tuple(part.shape) for part in parts]}")
    return torch.stack(parts).sum(0)


def kernel_loss(weight_bt: Tensor, logprobs_bt: Tensor, mask_bt: Tensor) -> Tensor:
    """−Σ sg(weight)·log π over the mask, already divided by the step's counts: add it up, do not average it.

    Its value is no objective; log the surrogates. A number outside the mask, even NaN, reaches neither value nor
    gradient."""
    if not weight_bt.shape == logprobs_bt.shape == mask_bt.shape:
        shapes = tuple(weight_bt.shape), tuple(logprobs_bt.shape), tuple(mask_bt.shape)
        raise ValueError("weight has shape {}, log-probabilities {}, mask {}; all are (sample, token)".format(*shapes))
    return -(masked(weight_bt, mask_bt).detach() * masked(logprobs_bt, mask_bt)).sum()


def aggregations(view: StepView, counts: StepCounts) -> Callable[[str], Tensor]:
    """a (b, t) of a view's samples by the aggregation's name."""
    return lambda kind: aggregation_bt(kind, view.mask_bt, view.lengths_b, counts)


def objective_terms(
    objective: Mapping[str, float],
    view: StepView,
    aggregation: Callable[[str], Tensor],
    settings: ObjectiveSettings,
    aggregate: str | None = None,
) -> tuple[list[Term], Metrics]:
    """The terms of a weighted sum of objectives, and their metrics as `objective/metric`.

    objective: from `parse_objective`. aggregate: overrides the default aggregation of every objective in the sum."""
    terms: list[Term] = []
    metrics: Metrics = {}
    for name, weight in objective.items():
        row = OBJECTIVES[name]
        coefficients = row.coefficient(view, settings)
        terms.append(Term(weight, aggregation(aggregate or row.aggregate), coefficients.c_bt))
        metrics |= {f"{name}/{metric}": pair for metric, pair in coefficients.metrics.items()}
    return terms, metrics


def imitation_term(
    weight: float, mask_bt: Tensor, tokens: int, weighting: str | None = None, logprobs_bt: Tensor | None = None
) -> Term:
    """BC on teacher answers, or L_PT on corpus tokens: c = 1, a = 1/tokens, with its own count of the whole step.

    tokens: the planned targets of this term over all processes. BC alone at weight 1 is plain cross-entropy (MATH §7).
    weighting chord_phi: c = sg(π(1 − π)) from logprobs_bt, which spares tokens that are known and tokens that are alien
    (arXiv 2508.11408 eq. 8)."""
    if tokens < 1:
        raise ValueError(f"imitation of {int(mask_bt.sum())} tokens was planned with a count of {tokens}")
    ones_bt = mask_bt.to(torch.float32)
    if weighting is None:
        return Term(weight, ones_bt / tokens, ones_bt)
    if weighting != "chord_phi" or logprobs_bt is None:
        raise ValueError(f"weighting is {weighting!r}; known: chord_phi, which needs log-probabilities")
    pi_bt = masked(logprobs_bt.detach(), mask_bt).exp()
    return Term(weight, ones_bt / tokens, masked(pi_bt * (1 - pi_bt), mask_bt))


def next_beta(beta: float, kl: float, target: float, rate: float) -> float:
    """β of the next step: β·(1 + rate·clip(KL/target − 1, −0.2, 0.2)).

    kl: the logged KL a token of this step, nats. Source: arXiv 1909.08593 §2.2 (their K_β = 0.1).

    >>> next_beta(0.1, 2.0, 1.0, 0.5), next_beta(0.1, 0.0, 1.0, 0.5)
    (0.11000000000000001, 0.09000000000000001)
    """
    return beta * (1 + rate * min(max(kl / target - 1, -0.2), 0.2))


COMPAT: dict[str, Callable[[Tensor], Tensor]] = {
    # ∂loss/∂log π of a token's k1 = x, k2 = x²/2, k3 = e^{−x} − 1 + x as losses, without ρ, x = log(π/π_ref)
    "trl_k1": torch.ones_like,
    "trl_k2": lambda x_bt: x_bt,
    "trl_k3": lambda x_bt: 1 - ratio(-x_bt),
}


def kl_coefficient(view: StepView, reference_bt: Tensor, cap: float | None, compat: str | None = None) -> Coefficients:
    """c = min(ρ, C)·log(π/π_ref): the gradient of the cached-context KL(π‖π_ref). Enters the kernel with −β.

    compat: what losses made of estimators give instead: k1 no gradient in expectation, k3 the forward KL's, k2 this one's
    only where μ = π (MATH §6); for comparison.
    reference_bt: log π_ref in nats. cap: C, None is infinity (then exact in expectation over μ; the constant that
    differentiating π·log π leaves behind has expectation 0 and is left out). Metrics: `kl_k3` = ρ·(e^{−x} − 1 + x), x
    = log(π/π_ref), an unbiased estimate that is never negative; it is only logged, since its own gradient is another
    one. `kl_capped`: share with ρ > C. Source: MATH §6; Schulman 2020, "Approximating KL divergence" (k3). Raises
    ValueError for a reference that does not fit."""
    if reference_bt.shape != view.logprobs_bt.shape:
        raise ValueError(
            f"reference has shape {tuple(reference_bt.shape)}, log-probabilities have {tuple(view.logprobs_bt.shape)}"
        )
    if not torch.isfinite(reference_bt[view.mask_bt]).all():
        raise ValueError("reference log-probabilities hold a value that is not finite under the mask")
    ratio_bt, x_bt = ratio(view.logprobs_bt - view.behaviour_bt), view.logprobs_bt - reference_bt
    weight_bt = truncate(ratio_bt, cap)
    metrics = {
        "kl_k3": mean_metric(ratio_bt * (ratio(-x_bt) - 1 + x_bt), view.mask_bt),
        "kl_capped": mean_metric(weight_bt < ratio_bt, view.mask_bt),
    }
    c_bt = weight_bt * x_bt if compat is None else COMPAT[compat](x_bt)
    return Coefficients(masked(c_bt, view.mask_bt), metrics)
