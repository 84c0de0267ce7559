"""One step: forward, coefficients, backward, per micro-batch; sums that travel; the division once, at the end.

Reads a plan; leaves gradients in the model and gives the step's figures. Moves no weight (optimiser.py does). RL, KL and drift are
at the pool's temperature, imitation at 1. Axis suffixes: b sample, t token, n flat tokens. Log-probabilities in nats.

What a coefficient must know decides the passes: its own token (the head computes weights and gradients in one pass), its sample or
group (log π of the micro-batch first, the head recomputed in the backward pass), or the whole step (a first pass without gradient,
then one pass with fixed weights)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from data.refusal import Refusal
from trainer.adapter import switched_off
from trainer.distributed import World
from trainer.drift.sums import DriftSums, reward_sums
from trainer.drift.tail import k_hat
from trainer.ema import replaced
from trainer.forward import (
    GroupTokens,
    Head,
    Policy,
    group_logprobs,
    head_of,
    hidden_states,
    kernel_head,
    pad_bt,
    support_logprobs,
    token_logprobs,
)
from trainer.fsdp import idle_turn
from trainer.losses import imitation_term, kernel_loss, mix
from trainer.method import Method
from trainer.objectives import Metrics
from trainer.optimiser import trained
from trainer.plan import MicroBatch, StepPlan
from trainer.pool_soft import single_step
from trainer.pool_terms import Known, TokenWeights, batch_weights, step_weights, view_of
from trainer.references import REFERENCE, Copies
from trainer.support import SUPPORT, padded_support
from trainer.view import StepView


@dataclass
class Sums:
    """(sum, count) by metric, drift, and the samples' log-weights; they add over micro-batches and processes."""

    pairs: dict[str, tuple[float, float]] = field(default_factory=dict)
    drift: Tensor = field(default_factory=lambda: DriftSums.zero().stack())
    log_weights: list[float] = field(default_factory=list)
    """log w of each sample, nats: the tail's shape is no sum."""

    def add(self, name: str, total: Tensor | float, count: Tensor | float) -> None:
        """Add one pair."""
        old = self.pairs.get(name, (0.0, 0.0))
        self.pairs[name] = (old[0] + float(total), old[1] + float(count))

    def add_all(self, metrics: Metrics) -> None:
        """Add many pairs."""
        for name, (total, count) in metrics.items():
            self.add(name, total, count)

    def add_drift(self, view: StepView, method: Method) -> None:
        """What a micro-batch of the pool says of how far the policy has left it."""
        self.drift = self.drift + DriftSums.from_view(view, method.clip).stack().cpu()
        self.log_weights += torch.where(view.mask_bt, view.logprobs_bt - view.behaviour_bt, 0.0).sum(1).tolist()
        self.add_all(reward_sums(view))
        self.add("advantage_square", view.advantage_b.double().square().sum(), len(view.advantage_b))

    def figures(self) -> dict[str, float]:
        """Means by name; a metric without a count is absent, never 0."""
        drift = DriftSums.unstack(self.drift).figures()
        tail = k_hat(np.sort(np.asarray(self.log_weights)))  # NaN or −inf where there is no tail to speak of
        means = {name: total / count for name, (total, count) in self.pairs.items() if count > 0}
        named = {f"drift/{name}": value for name, value in drift.items()}
        return means | named | ({"drift/k_hat": tail} if math.isfinite(tail) else {})


def run_step(
    policy: Policy, plan: StepPlan, method: Method, world: World, copies: Copies | None = None
) -> dict[str, float]:
    """Gradients of the whole step into the model, over all processes, and the step's figures."""
    sums, batches = Sums(), plan.micro[world.rank]
    known = compared(policy, plan, method, world, copies or Copies())
    fixed: Sequence[Tensor | None] = [None] * len(batches)
    if plan.counts.samples and (method.scope == "step" or (method.scope == "group" and plan.split)):
        fixed = _first_pass(policy, plan, method, world, known, sums)
    for turn in range(plan.turns if method.sharded else len(batches)):
        with precision(policy, method):
            if turn < len(batches):
                loss = batch_loss(policy, batches[turn], plan, method, sums, known[turn], fixed[turn])
            else:
                loss = idle_turn(policy)
        if not torch.isfinite(loss):
            raise Refusal(
                f"the loss of a micro-batch is {loss.item()}; the weights were not changed",
                "lower the learning rate, or look at the rewards: python -m data inspect",
            )
        loss.backward()
        sums.add("loss/kernel", loss.detach(), 0.0)
    if not method.sharded:
        world.sum_gradients(list(trained(policy.model).values()))
    kernel = _over_processes(sums, world)
    return {"loss/kernel": kernel} | sums.figures()


def precision(policy: Policy, method: Method) -> AbstractContextManager[object]:
    """Half precision where it is asked for; log π and sums stay in float32."""
    if method.autocast is None:
        return nullcontext()
    return torch.autocast(policy.device.type, dtype=getattr(torch, method.autocast))


def compared(policy: Policy, plan: StepPlan, method: Method, world: World, copies: Copies) -> list[dict[str, Tensor]]:
    """Log-probabilities of each micro-batch's pool tokens under the copies of the policy that this step compares with."""
    found: list[dict[str, Tensor]] = [{} for _ in plan.micro[world.rank]]
    if not plan.counts.samples:
        return found
    states = {name: replaced(policy.model, weights) for name, weights in copies.weights.items()}
    if method.start_without_adapters:
        states[REFERENCE] = switched_off(policy)
    for name, state in states.items():
        if name == REFERENCE and not plan.weights.kl and "reference" not in method.needs:
            continue
        with state:
            for one, logprob_n in zip(found, pool_logprobs(policy, plan, method, world), strict=True):
                one[name] = logprob_n
    return found


@torch.no_grad()
def pool_logprobs(policy: Policy, plan: StepPlan, method: Method, world: World) -> list[Tensor]:
    """log π (n,) of the pool tokens of each of this process's micro-batches, without gradient."""
    found = []
    batches = plan.micro[world.rank]
    for turn in range(plan.turns if method.sharded else len(batches)):
        groups = [GroupTokens(g.prompt, g.completions) for g in batches[turn].groups] if turn < len(batches) else []
        with precision(policy, method):
            if groups:
                found.append(group_logprobs(policy, groups, temperature=method.temperature))
            elif method.sharded:
                idle_turn(policy)
        if turn < len(batches) and not groups:
            found.append(torch.zeros(0, device=policy.device))
    return found


def _first_pass(
    policy: Policy, plan: StepPlan, method: Method, world: World, known: Sequence[Known], sums: Sums
) -> list[Tensor | None]:
    """Weights (n,) of each micro-batch, fixed before the pass with gradient; the step's metrics are counted once."""
    batches = plan.micro[world.rank]
    logprobs = pool_logprobs(policy, plan, method, world)
    places = [place for place, batch in enumerate(batches) if batch.groups]
    views = [view_of(batches[place], logprobs[place], method, known[place]) for place in places]
    weights, metrics = step_weights([batches[place] for place in places], views, plan, method, world)
    for view in views:
        sums.add_drift(view, method)
    if world.first:
        sums.add_all(metrics)
    by_place = dict(zip(places, weights, strict=True))
    return [by_place.get(place) for place in range(len(batches))]


def batch_loss(
    policy: Policy,
    batch: MicroBatch,
    plan: StepPlan,
    method: Method,
    sums: Sums,
    known: Known,
    fixed_n: Tensor | None = None,
) -> Tensor:
    """The kernel's loss of one micro-batch, divided by the step's counts: add it up, do not average it."""
    hidden_nd, target_n = hidden_states(policy, batch.items)
    head, (pool, bc, pt, soft) = head_of(policy.model), batch.spans
    parts: list[Tensor] = []
    if batch.groups:
        parts.append(_pool_loss(hidden_nd[pool], target_n[pool], head, batch, plan, method, sums, known, fixed_n))
    for name, weight, span, tokens, weighting in (
        ("bc", plan.weights.bc, bc, plan.answer_tokens, method.losses.bc_weighting),
        ("pt", plan.weights.pt, pt, plan.document_tokens, None),
    ):
        if span.stop > span.start:
            weigh = _imitation(weight, tokens, weighting)
            loss, logprob_n = kernel_head(hidden_nd[span], head, target_n[span], weigh)
            parts.append(loss)
            sums.add(f"loss/{name}", -logprob_n.double().sum(), span.stop - span.start)
    if batch.soft:
        parts.append(_soft_loss(hidden_nd[soft], head, batch, plan, method, sums))
    return torch.stack(parts).sum()


def _pool_loss(
    hidden_nd: Tensor,
    target_n: Tensor,
    head: Head,
    batch: MicroBatch,
    plan: StepPlan,
    method: Method,
    sums: Sums,
    known: Known,
    fixed_n: Tensor | None,
) -> Tensor:
    if fixed_n is not None:
        weights_n = fixed_n
        loss, logprob_n = kernel_head(
            hidden_nd, head, target_n, lambda _, part: weights_n[part], temperature=method.temperature
        )
        if method.support is None:
            return loss
        view = view_of(batch, logprob_n, method, known)
        single, metrics = single_step(hidden_nd, head, batch, view, plan, method)
        sums.add_all(metrics)
        return loss + single
    if method.scope == "token":
        view = view_of(batch, torch.zeros(len(target_n), device=hidden_nd.device), method, known)
        weigh = TokenWeights(view, plan, method)
        loss, logprob_n = kernel_head(hidden_nd, head, target_n, weigh, temperature=method.temperature)
        sums.add_all(weigh.metrics)
        sums.add_drift(replace(view, logprobs_bt=pad_bt(logprob_n, batch.lengths)[0]), method)
        return loss
    logprob_n = token_logprobs(hidden_nd, head, target_n, temperature=method.temperature)
    view = view_of(batch, logprob_n.detach(), method, known)
    weight_bt, metrics = batch_weights(view, plan, method)
    sums.add_all(metrics)
    sums.add_drift(view, method)
    weight_n = weight_bt[view.mask_bt]
    return kernel_loss(weight_n, logprob_n, torch.ones_like(weight_n, dtype=torch.bool))


def _imitation(weight: float, tokens: int, weighting: str | None) -> Callable[[Tensor, slice], Tensor]:
    """The weight of each token of answers or documents, as the head asks for it."""

    def weigh(logprob_n: Tensor, part: slice) -> Tensor:
        mask_bt = torch.ones_like(logprob_n, dtype=torch.bool)[None]
        return mix([imitation_term(weight, mask_bt, tokens, weighting, logprob_n[None])])[0]

    return weigh


def _soft_loss(hidden_nd: Tensor, head: Head, batch: MicroBatch, plan: StepPlan, method: Method, sums: Sums) -> Tensor:
    """λ·Σ_t loss_t/Z over the teacher's answers with soft targets; Z is the step's count of their tokens."""
    support = padded_support([one for text in batch.soft for one in text.support], hidden_nd.device)
    logprob_nk = support_logprobs(hidden_nd, head, support.ids_nk)
    value_n = SUPPORT[method.losses.soft_target](logprob_nk, support)
    total = value_n.sum()
    sums.add("loss/soft", total.detach(), len(value_n))
    return plan.weights.soft * total / plan.soft_tokens


def _over_processes(sums: Sums, world: World) -> float:
    """Add the sums of all processes in place; the kernel's value, which has no count, comes back alone."""
    if world.size > 1:
        merged = Sums(drift=world.sum_(sums.drift.to(world.device)).cpu())
        for pairs, weights in world.gathered([sums.pairs, sums.log_weights]):
            merged.log_weights += weights
            for name, (total, count) in pairs.items():
                merged.add(name, total, count)
        sums.pairs, sums.drift, sums.log_weights = merged.pairs, merged.drift, merged.log_weights
    return sums.pairs.get("loss/kernel", (0.0, 0.0))[0]
