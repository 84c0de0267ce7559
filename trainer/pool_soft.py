"""The part of a step that needs log π at more ids than the drawn one: the token's own reverse KL of `minillm` (MATH §5).

Reads a micro-batch's supports (the teacher's log p at a few ids of each token) and its hidden states. Gives a loss that carries its
own gradient, already divided by the step's counts, as the kernel's is. Axis suffixes: b sample, t token, n flat tokens, k ids."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.forward import Head, support_logprobs
from trainer.losses import Term, aggregations, mix
from trainer.method import Method
from trainer.objectives import OBJECTIVES, Metrics
from trainer.plan import MicroBatch, StepPlan
from trainer.support import coarse, padded_support
from trainer.view import StepView


def single_step(
    hidden_nd: Tensor, head: Head, batch: MicroBatch, view: StepView, plan: StepPlan, method: Method
) -> tuple[Tensor, Metrics]:
    """Σ_t sg(w_t)·KL(π_t‖p_t) between (ids, tail) over a micro-batch's pool tokens, and the plain mean of the KL as a metric.

    π is at the pool's temperature, p at 1: as where the teacher's scores of the drawn tokens are compared with it. The view holds
    log π of the drawn tokens, which the ratio is made of."""
    rows = [at for group in batch.groups for sample in group.support or () for at in sample]
    if len(rows) != len(hidden_nd):
        raise ValueError(f"supports of {len(rows)} tokens beside {len(hidden_nd)} hidden states")
    support = padded_support(rows, hidden_nd.device)
    logprob_nk = support_logprobs(hidden_nd, head, support.ids_nk, temperature=method.temperature)
    kl_n = coarse(logprob_nk, support)
    weight_n = support_weights(view, plan, method)[view.mask_bt]
    told = kl_n.detach().double().sum(), torch.tensor(len(kl_n))
    return (weight_n.detach() * kl_n).sum(), {"minillm/single_kl": told}


def support_weights(view: StepView, plan: StepPlan, method: Method) -> Tensor:
    """w (b, t) = λ_RL·Σ over objectives of weight·a·coefficient of the support loss, each by its own aggregation."""
    aggregation, terms = aggregations(view, plan.counts), []
    for name, weight in method.objective.items():
        row = OBJECTIVES[name]
        if row.support is not None:
            a_bt = aggregation(method.losses.aggregation or row.aggregate)
            terms.append(Term(plan.weights.rl * weight, a_bt, row.support(view, method.clip)))
    return mix(terms)
