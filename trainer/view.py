"""The view of one step's samples that objectives read, and the masked and per-group reductions over it.

Holds detached tensors of whole groups, padded to (b, t). Refuses (ValueError, both sides named) shapes that disagree
and numbers that are not finite. Axis suffixes: b sample in the batch, t token. Log-probabilities in nats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class StepView:
    """What an objective may look at: whole groups of one policy, padded to (b, t), nothing that carries a gradient.

    Raises ValueError, with both sides named, for shapes that disagree, for a gradient, and for an advantage or a
    log-probability from the lake that is not finite where the mask counts it."""

    logprobs_bt: Tensor
    """log π of the policy in training."""
    behaviour_bt: Tensor
    """log μ: the distribution the tokens were really drawn from."""
    old_bt: Tensor | None
    """log π_old: the weights that drew the pool, rescored by the training engine; None takes μ in its place."""
    advantage_b: Tensor
    """A of each sample, already normalised."""
    mask_bt: Tensor
    """Bool: tokens that enter the loss."""
    group_b: Tensor
    """int64: samples with the same number are one group."""
    lengths_b: Tensor
    """Tokens of each sample before any objective's mask."""
    chosen_b: Tensor | None = None
    """Bool: the samples `raft` imitates; None takes the best of each group."""
    reward_b: Tensor | None = None
    """r: the raw reward, before any normalisation."""
    baseline_b: Tensor | None = None
    """r̄ of the sample's group over all its valid samples, those that the mask leaves out included."""
    token_advantage_bt: Tensor | None = None
    """λ·(v_t − mean of the group's v), from a component with one value a token; None: none."""
    teacher_bt: Tensor | None = None
    """log p: the teacher's log-probability of the student's own token."""
    reference_bt: Tensor | None = None
    """log π_ref."""
    prox_bt: Tensor | None = None
    """log π_prox: the policy at the start of the block of steps (`decoupled`)."""
    special_bt: Tensor | None = None
    """Bool: special and template tokens, which `opd` leaves out."""
    position_bt: Tensor | None = None
    """int64: each token's place in its sample, from 0; None where the columns are the places."""

    @property
    def advantage_bt(self) -> Tensor:
        """A_t (b, t): the sample's advantage, with the token's own part where there is one (MATH §3)."""
        whole_bt = self.advantage_b[:, None].expand_as(self.logprobs_bt)
        return whole_bt if self.token_advantage_bt is None else whole_bt + self.token_advantage_bt

    @property
    def places_bt(self) -> Tensor:
        """int64 (b, t): each token's place in its sample."""
        if self.position_bt is not None:
            return self.position_bt
        return torch.arange(self.mask_bt.shape[1], device=self.mask_bt.device).expand_as(self.mask_bt)

    @property
    def live_b(self) -> Tensor:
        """Bool (b): samples with at least one unmasked token."""
        return self.mask_bt.any(1)

    def __post_init__(self) -> None:
        shape = tuple(self.logprobs_bt.shape)
        for name, tensor, want in [
            ("behaviour", self.behaviour_bt, shape),
            ("old policy", self.old_bt, shape),
            ("mask", self.mask_bt, shape),
            ("advantage", self.advantage_b, shape[:1]),
            ("group", self.group_b, shape[:1]),
            ("lengths", self.lengths_b, shape[:1]),
            ("chosen", self.chosen_b, shape[:1]),
            ("reward", self.reward_b, shape[:1]),
            ("baseline", self.baseline_b, shape[:1]),
            ("token advantages", self.token_advantage_bt, shape),
            ("teacher", self.teacher_bt, shape),
            ("reference", self.reference_bt, shape),
            ("prox", self.prox_bt, shape),
            ("special tokens", self.special_bt, shape),
            ("positions", self.position_bt, shape),
        ]:
            if tensor is not None and tuple(tensor.shape) != want:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, log-probabilities {shape} ask for {want}")
        if self.mask_bt.dtype != torch.bool:
            raise ValueError(f"mask has dtype {self.mask_bt.dtype}, torch.bool is asked for")
        if self.logprobs_bt.requires_grad:
            raise ValueError("log-probabilities of a view carry a gradient; a view is detached")
        _check_finite(self)


def _check_finite(view: StepView) -> None:
    stored = {
        "behaviour log-probabilities": view.behaviour_bt,
        "old policy log-probabilities": view.old_bt,
        "teacher log-probabilities": view.teacher_bt,
        "reference log-probabilities": view.reference_bt,
        "prox log-probabilities": view.prox_bt,
        "token advantages": view.token_advantage_bt,
    }
    for name, tensor in stored.items():
        if tensor is not None and not torch.isfinite(tensor[view.mask_bt]).all():
            raise ValueError(f"{name} hold a value that is not finite under the mask")
    of_samples = {"advantages": view.advantage_b, "rewards": view.reward_b, "baselines": view.baseline_b}
    for name, tensor in of_samples.items():
        if tensor is not None and not torch.isfinite(tensor[view.live_b]).all():
            raise ValueError(f"{name} hold a value that is not finite for a sample that the mask keeps")
    if (view.mask_bt.sum(1) > view.lengths_b).any():
        raise ValueError("the mask keeps more tokens of a sample than its length counts")


def masked(values_bt: Tensor, mask_bt: Tensor) -> Tensor:
    """The values under the mask, 0 elsewhere: a NaN of the padding does not pass, as it would by multiplication."""
    return torch.where(mask_bt, values_bt, torch.zeros_like(values_bt))


def sample_sum(values_bt: Tensor, mask_bt: Tensor) -> Tensor:
    """(b): sum over a sample's unmasked tokens."""
    return masked(values_bt, mask_bt).sum(1)


def sample_mean(values_bt: Tensor, mask_bt: Tensor) -> Tensor:
    """(b): mean over a sample's unmasked tokens; 0 for a sample without any."""
    return sample_sum(values_bt, mask_bt) / mask_bt.sum(1).clamp(min=1)


def group_sum(values_b: Tensor, group_b: Tensor) -> Tensor:
    """(b): each sample receives the sum over its group."""
    _, index_b = torch.unique(group_b, return_inverse=True)
    totals = torch.zeros(len(group_b), dtype=values_b.dtype, device=values_b.device).index_add_(0, index_b, values_b)
    return totals[index_b]


def group_extreme(values_b: Tensor, group_b: Tensor, reduce: Literal["amax", "amin"]) -> Tensor:
    """(b): each sample receives the largest or smallest value of its group."""
    _, index_b = torch.unique(group_b, return_inverse=True)
    extremes = torch.zeros(len(group_b), dtype=values_b.dtype, device=values_b.device)
    return extremes.scatter_reduce_(0, index_b, values_b, reduce=reduce, include_self=False)[index_b]


def mean_metric(values: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """(sum, count) of the values where `where` holds; division happens once, over the step."""
    return torch.where(where, values.to(torch.float64), 0.0).sum(), where.sum()


def first_of_group(group_b: Tensor) -> Tensor:
    """Bool (b): the first sample of each group, so that a number of the group is counted once."""
    order_b = torch.arange(len(group_b), device=group_b.device)
    return order_b == group_extreme(order_b, group_b, "amin")
