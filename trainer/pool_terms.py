"""The pool's part of a step: what objectives see of a micro-batch, and the weight that each token's log π gets.

Reads plans and log-probabilities; gives weights (the kernel multiplies), metrics as (sum, count). Three ways to one number:
token by token inside the head, micro-batch by micro-batch, or over the whole step after a first pass. Axis suffixes: b sample,
t token, n flat tokens. Log-probabilities in nats. Source: MATH §2, §4, §6."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.distributed import World
from trainer.forward import pad_bt
from trainer.losses import Term, aggregations, kl_coefficient, mix, objective_terms
from trainer.method import Method
from trainer.objectives import Metrics
from trainer.plan import MicroBatch, StepPlan
from trainer.references import PROX, REFERENCE
from trainer.view import StepView

Known = Mapping[str, Tensor]
"""Flat log-probabilities (n,) of a micro-batch's pool tokens under other states of the policy, by the state's name."""
WIDEST = 1 << 20  # more samples than a group can have: orders samples by (group, place) in one number


def view_of(batch: MicroBatch, logprob_n: Tensor, method: Method, known: Known) -> StepView:
    """What objectives see of a micro-batch: (b, t), padded on the right. μ, π_old and log p come from the lake."""
    lengths, groups, device = batch.lengths, batch.groups, logprob_n.device
    logprobs_bt, mask_bt = pad_bt(logprob_n, lengths)

    def tokens(name: str) -> Tensor | None:
        rows = [getattr(group, name) for group in groups]
        if rows[0] is None:
            return None
        flat = np.concatenate([part for row in rows for part in row]).astype(np.float32)
        return pad_bt(torch.from_numpy(flat).to(device), lengths)[0]

    def samples(name: str, dtype: type = np.float32) -> Tensor | None:
        rows = [getattr(group, name) for group in groups]
        return None if rows[0] is None else torch.from_numpy(np.concatenate(rows).astype(dtype)).to(device)

    def other(name: str) -> Tensor | None:
        return pad_bt(known[name].to(device), lengths)[0] if name in known else None

    behaviour_bt, old_bt = _given(tokens("behaviour")), tokens("old")
    initial_bt = behaviour_bt if method.behaviour_is_reference else old_bt
    special_bt = None
    if method.special_n is not None:
        flat = torch.tensor([t for group in groups for c in group.completions for t in c], device=device)
        special_bt = pad_bt(torch.isin(flat, method.special_n.to(device)), lengths)[0]
    sizes = torch.tensor([len(group.completions) for group in groups])
    return StepView(
        logprobs_bt=logprobs_bt,
        behaviour_bt=behaviour_bt,
        old_bt=old_bt,
        advantage_b=_given(samples("advantages")),
        mask_bt=mask_bt,
        group_b=torch.tensor(batch.numbers).repeat_interleave(sizes).to(device),
        lengths_b=torch.tensor(lengths, device=device),
        chosen_b=samples("chosen", np.bool_),
        reward_b=samples("reward"),
        baseline_b=samples("baseline"),
        token_advantage_bt=tokens("token_advantages"),
        teacher_bt=tokens("teacher"),
        reference_bt=other(REFERENCE) if REFERENCE in known else initial_bt,
        prox_bt=other(PROX),
        special_bt=special_bt,
    )


def _given(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError("the pool's samples carry no behaviour log-probabilities or no advantages")
    return tensor


def weights_of(
    view: StepView, aggregation: Callable[[str], Tensor], plan: StepPlan, method: Method
) -> tuple[Tensor, Metrics]:
    """weight (b, t) = Σ λ·a·c over objectives and the leash, and their metrics. `aggregation` gives a (b, t) by its name."""
    found, metrics = objective_terms(method.objective, view, aggregation, method.clip, method.losses.aggregation)
    terms = [Term(plan.weights.rl * term.weight, term.a_bt, term.c_bt) for term in found]
    if plan.weights.kl:
        if view.reference_bt is None:
            raise ValueError("the KL needs the reference's log-probabilities of the step's samples")
        leash = kl_coefficient(view, view.reference_bt, method.clip.cap, method.losses.leash.compat)
        terms.append(Term(-plan.weights.kl, aggregation("token"), leash.c_bt))
        metrics |= leash.metrics
    return mix(terms), metrics


def batch_weights(view: StepView, plan: StepPlan, method: Method) -> tuple[Tensor, Metrics]:
    """Weights (b, t) of a micro-batch whose groups are whole."""
    return weights_of(view, aggregations(view, plan.counts), plan, method)


class TokenWeights:
    """The weight of each token from that token alone (scope `token`): what the one-pass head asks for, a chunk at a time."""

    def __init__(self, view: StepView, plan: StepPlan, method: Method):
        self.plan, self.method, self.rows = plan, method, flattened(view)
        self.metrics: Metrics = {}
        self._view, self._a = view, dict[str, Tensor]()

    def __call__(self, logprob_n: Tensor, part: slice) -> Tensor:
        """sg(weight) (m,) of the chunk's tokens; metrics add up."""
        chunk = sliced(self.rows, part, logprob_n)
        weight_n1, metrics = weights_of(chunk, lambda kind: self._aggregation(kind)[part], self.plan, self.method)
        for name, (total, count) in metrics.items():
            old = self.metrics.get(name)
            self.metrics[name] = (total, count) if old is None else (old[0] + total, old[1] + count)
        return weight_n1[:, 0]

    def _aggregation(self, kind: str) -> Tensor:
        """a (n, 1) of the whole micro-batch: a token's own length is its sample's, not 1."""
        if kind not in self._a:
            a_bt = aggregations(self._view, self.plan.counts)(kind)
            self._a[kind] = a_bt[self._view.mask_bt][:, None]
        return self._a[kind]


def flattened(view: StepView) -> StepView:
    """The same tokens as rows (n, 1), each with what is known of its sample and its place in it."""
    mask_bt, lengths_b = view.mask_bt, view.mask_bt.sum(1)
    place_bt = torch.arange(mask_bt.shape[1], device=mask_bt.device).expand_as(mask_bt)
    changed: dict[str, Any] = {"position_bt": place_bt[mask_bt][:, None]}
    for field in fields(view):
        value = getattr(view, field.name)
        if value is not None and field.name not in changed:
            own = field.name.endswith("_bt")
            changed[field.name] = value[mask_bt][:, None] if own else value.repeat_interleave(lengths_b)
    changed["lengths_b"] = torch.ones_like(view.lengths_b).repeat_interleave(lengths_b)
    return replace(view, **changed)


def sliced(rows: StepView, part: slice, logprob_n: Tensor) -> StepView:
    """Some rows of a flattened view, with their log π."""
    known = {field.name: getattr(rows, field.name) for field in fields(rows)}
    cut: dict[str, Any] = {name: None if value is None else value[part] for name, value in known.items()}
    return replace(rows, **(cut | {"logprobs_bt": logprob_n[:, None]}))


def step_weights(
    batches: Sequence[MicroBatch], views: Sequence[StepView], plan: StepPlan, method: Method, world: World
) -> tuple[list[Tensor], Metrics]:
    """Flat weights (n,) of each of this process's micro-batches, from the whole step's samples at once; metrics of the whole step.

    Samples stand in the order of (group, place), so that micro-batches and processes change nothing, not even the order of sums."""
    own = [_columns(batch, view) for batch, view in zip(batches, views, strict=True)]
    shares = world.gathered_tensors(_joined(own))
    whole = _joined([share for share in shares if share])
    order_b = whole.pop("order_b").argsort()
    known: dict[str, Any] = {"old_bt": None} | {name: value[order_b] for name, value in whole.items()}
    view = StepView(**known)
    weight_bt, metrics = batch_weights(view, plan, method)
    back_bt = torch.empty_like(weight_bt)
    back_bt[order_b] = weight_bt
    start = sum(len(share["order_b"]) for share in shares[: world.rank] if share)
    found = []
    for mine in views:
        rows_bt = back_bt[start : start + len(mine.lengths_b), : mine.mask_bt.shape[1]]
        found.append(rows_bt[mine.mask_bt])
        start += len(mine.lengths_b)
    return found, metrics


def _columns(batch: MicroBatch, view: StepView) -> dict[str, Tensor]:
    places = [
        first + j
        for group, first in zip(batch.groups, batch.firsts, strict=True)
        for j in range(len(group.completions))
    ]
    order_b = view.group_b * WIDEST + torch.tensor(places, device=view.group_b.device)
    known = {field.name: getattr(view, field.name) for field in fields(view)}
    return {"order_b": order_b} | {name: value for name, value in known.items() if value is not None}


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of several micro-batches as one table, padded to the longest sample."""
    if not parts:
        return {}
    width = max(part["mask_bt"].shape[1] for part in parts)
    padded = lambda x: torch.nn.functional.pad(x, (0, width - x.shape[1]))  # noqa: E731
    return {
        name: torch.cat([padded(part[name]) if name.endswith("_bt") else part[name] for part in parts])
        for name in parts[0]
    }
