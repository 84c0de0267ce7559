"""One step: forward, coefficients, backward, per micro-batch; sums that travel; the division once, at the end.

Reads a plan; leaves gradients in the model and gives the step's figures. Moves no weight (optimiser.py does). RL, KL and drift are
at the pool's temperature, imitation at 1. Axis suffixes: b sample, t token, n flat tokens. Log-probabilities in nats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from data.refusal import Refusal
from trainer.distributed import World
from trainer.drift.sums import DriftSums
from trainer.forward import Policy, head_of, hidden_states, pad_bt, token_logprobs
from trainer.losses import Term, aggregation_bt, imitation_term, kernel_loss, kl_coefficient, mix, objective_terms
from trainer.objective_config import ObjectiveSettings
from trainer.optimiser import trained
from trainer.plan import MicroBatch, StepPlan
from trainer.view import StepView


@dataclass(frozen=True)
class Method:
    """What the step optimises on the pool's samples."""

    objective: Mapping[str, float]
    clip: ObjectiveSettings
    aggregation: str | None
    temperature: float
    behaviour_is_reference: bool = False
    """μ was rescored by the start policy itself: it is the reference where there are no other scores."""


@dataclass
class Sums:
    """(sum, count) by metric, and drift; they add over micro-batches and processes."""

    pairs: dict[str, tuple[float, float]] = field(default_factory=dict)
    drift: Tensor = field(default_factory=lambda: DriftSums.zero().stack())

    def add(self, name: str, total: Tensor | float, count: Tensor | float) -> None:
        """Add one pair."""
        old = self.pairs.get(name, (0.0, 0.0))
        self.pairs[name] = (old[0] + float(total), old[1] + float(count))

    def figures(self) -> dict[str, float]:
        """Means by name; a metric without a count is absent, never 0."""
        drift = DriftSums.unstack(self.drift).figures()
        means = {name: total / count for name, (total, count) in self.pairs.items() if count > 0}
        return means | {f"drift/{name}": value for name, value in drift.items()}


def run_step(policy: Policy, plan: StepPlan, method: Method, world: World) -> dict[str, float]:
    """Gradients of the whole step into the model, over all processes, and the step's figures."""
    sums = Sums()
    for batch in plan.micro[world.rank]:
        loss = batch_loss(policy, batch, plan, method, sums)
        if not torch.isfinite(loss):
            raise Refusal(
                f"the loss of a micro-batch is {loss.item()}; the weights were not changed",
                "lower the learning rate, or look at the rewards: python -m data inspect",
            )
        loss.backward()
        sums.add("loss/kernel", loss.detach(), 0.0)
    world.sum_gradients(list(trained(policy.model).values()))
    kernel = _over_processes(sums, world)
    return {"loss/kernel": kernel} | sums.figures()


def batch_loss(policy: Policy, batch: MicroBatch, plan: StepPlan, method: Method, sums: Sums) -> Tensor:
    """The kernel's loss of one micro-batch, divided by the step's counts: add it up, do not average it."""
    hidden_nd, target_n = hidden_states(policy, batch.items)
    head, parts = head_of(policy.model), list[Tensor]()
    lengths = [
        sum(len(c) for group in batch.groups for c in group.completions),
        sum(len(text.completion) for text in batch.answers),
        sum(len(text.completion) for text in batch.documents),
    ]
    spans = [slice(end - length, end) for length, end in zip(lengths, np.cumsum(lengths).tolist(), strict=True)]
    if batch.groups:
        logprob_n = token_logprobs(hidden_nd[spans[0]], head, target_n[spans[0]], temperature=method.temperature)
        parts.append(_pool_loss(logprob_n, batch, plan, method, sums))
    for name, weight, span, tokens in (
        ("bc", plan.weights.bc, spans[1], plan.answer_tokens),
        ("pt", plan.weights.pt, spans[2], plan.document_tokens),
    ):
        if span.stop > span.start:
            logprob_bt = token_logprobs(hidden_nd[span], head, target_n[span])[None]
            mask_bt = torch.ones_like(logprob_bt, dtype=torch.bool)
            parts.append(kernel_loss(mix([imitation_term(weight, mask_bt, tokens)]), logprob_bt, mask_bt))
            sums.add(f"loss/{name}", -logprob_bt.detach().double().sum(), span.stop - span.start)
    return torch.stack(parts).sum()


def _pool_loss(logprob_n: Tensor, batch: MicroBatch, plan: StepPlan, method: Method, sums: Sums) -> Tensor:
    lengths = [len(completion) for group in batch.groups for completion in group.completions]
    logprobs_bt, mask_bt = pad_bt(logprob_n, lengths)
    view = view_of(batch, logprobs_bt.detach(), mask_bt, lengths)
    terms, metrics = objective_terms(method.objective, view, plan.counts, method.clip, method.aggregation)
    terms = [Term(plan.weights.rl * term.weight, term.a_bt, term.c_bt) for term in terms]
    if plan.weights.kl:
        reference_bt = view.behaviour_bt if method.behaviour_is_reference else _reference(view)
        leash = kl_coefficient(view, reference_bt, method.clip.cap)
        a_bt = aggregation_bt("token", mask_bt, view.lengths_b, plan.counts)
        terms.append(Term(-plan.weights.kl, a_bt, leash.c_bt))
        metrics = metrics | leash.metrics
    for name, (total, count) in metrics.items():
        sums.add(name, total, count)
    sums.add("advantage_square", view.advantage_b.double().square().sum(), len(lengths))
    sums.drift = sums.drift + DriftSums.from_view(view, method.clip).stack().cpu()
    return kernel_loss(mix(terms), logprobs_bt, mask_bt)


def view_of(batch: MicroBatch, logprobs_bt: Tensor, mask_bt: Tensor, lengths: list[int]) -> StepView:
    """What objectives see of a micro-batch. μ and π_old come from the lake, padded alike."""
    device = logprobs_bt.device

    def padded(arrays: list[np.ndarray]) -> Tensor:
        return pad_bt(torch.from_numpy(np.concatenate(arrays).astype(np.float32)).to(device), lengths)[0]

    groups = batch.groups
    olds = [group.old for group in groups]
    chosen = [group.chosen for group in groups]
    sizes = torch.tensor([len(group.completions) for group in groups])
    return StepView(
        logprobs_bt=logprobs_bt,
        behaviour_bt=padded([row for group in groups for row in group.behaviour]),
        old_bt=None if olds[0] is None else padded([row for old in olds if old is not None for row in old]),
        advantage_b=torch.from_numpy(np.concatenate([group.advantages for group in groups])).to(device),
        mask_bt=mask_bt,
        group_b=torch.tensor(batch.numbers).repeat_interleave(sizes).to(device),
        lengths_b=torch.tensor(lengths, device=device),
        chosen_b=None
        if chosen[0] is None
        else torch.from_numpy(np.concatenate([row for row in chosen if row is not None])).to(device),
    )


def _reference(view: StepView) -> Tensor:
    if view.old_bt is None:
        raise ValueError("the KL needs the start policy's own log-probabilities of the step's samples")
    return view.old_bt


def _over_processes(sums: Sums, world: World) -> float:
    """Add the sums of all processes in place; the kernel's value, which has no count, comes back alone."""
    if world.size > 1:
        merged = Sums(drift=world.sum_(sums.drift.to(world.device)).cpu())
        for pairs in world.gathered(sums.pairs):
            for name, (total, count) in pairs.items():
                merged.add(name, total, count)
        sums.pairs = merged.pairs
    return sums.pairs.get("loss/kernel", (0.0, 0.0))[0]
