"""Support losses: the teacher's distribution at given ids, against log π at the same ids. They carry their own gradient.

Reads log π (n, k) from the head and what the lake stores of a position: ids with counts of draws, or with log p. Gives one value
a position (n,), which the step weighs and divides by its own count. Axis suffixes: n flat tokens, k ids of a position. Nats.
Source: MATH §5, §7."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from trainer.replay import Support

SMALLEST_TAIL = 1e-6  # 1 − Σ p of float32 terms is rounding below this; its logarithm must stay finite


@dataclass(frozen=True, eq=False)
class SupportTarget:
    """What is stored of n positions, padded to the most ids of any."""

    ids_nk: Tensor
    """int64; padding repeats the position's first id, the mask hides it."""
    mask_nk: Tensor
    counts_nk: Tensor | None
    """Draws of each id, 0 on padding; None for top_k and student_m."""
    logp_nk: Tensor | None
    """log p of each id in nats."""


def padded_support(rows: Sequence[Support], device: torch.device | str = "cpu") -> SupportTarget:
    """Positions as padded tensors. Raises ValueError for a position without ids."""
    sizes = [len(row.ids) for row in rows]
    if not rows or not min(sizes):
        raise ValueError(
            f"soft targets of {len(rows)} positions, the smallest with {min(sizes, default=0)} ids: none may be empty"
        )
    mask = np.arange(max(sizes))[None] < np.asarray(sizes)[:, None]

    def padded(name: str, dtype: type) -> Tensor | None:
        if any(getattr(row, name) is None for row in rows):
            return None
        found: np.ndarray = np.zeros(mask.shape, dtype)
        found[mask] = np.concatenate([getattr(row, name) for row in rows])
        return torch.from_numpy(found).to(device)

    ids_nk = padded("ids", np.int64)
    if ids_nk is None:
        raise ValueError("a position without ids")
    mask_nk = torch.from_numpy(mask).to(device)
    ids_nk = torch.where(mask_nk, ids_nk, ids_nk[:, :1])
    return SupportTarget(ids_nk, mask_nk, padded("counts", np.float32), padded("logprobs", np.float32))


def counts(logprob_nk: Tensor, target: SupportTarget) -> Tensor:
    """−Σ_k counts/N·log π: cross-entropy to N draws with replacement, unbiased for the teacher's distribution p."""
    counts_nk = _given(target.counts_nk, "counts")
    return _cross_entropy(logprob_nk, counts_nk / counts_nk.sum(1, keepdim=True), target)


def renormalised(logprob_nk: Tensor, target: SupportTarget) -> Tensor:
    """−Σ_k p_k/Σp·log π over the distinct drawn ids: biased to the head of p (the Gemma 3 report's wording)."""
    p_nk = torch.where(target.mask_nk, _given(target.logp_nk, "log p"), -torch.inf).softmax(1)
    return _cross_entropy(logprob_nk, p_nk, target)


def top_k(logprob_nk: Tensor, target: SupportTarget) -> Tensor:
    """−Σ_k p_k·log π_k − p_tail·log π_tail: cross-entropy between (top-k, tail); a lower bound of the full one."""
    p_nk, tail_p_n = _with_tail(_given(target.logp_nk, "log p"), target.mask_nk)
    _, tail_pi_n = _with_tail(logprob_nk, target.mask_nk)
    return _cross_entropy(logprob_nk, p_nk, target) - tail_p_n * tail_pi_n.log()


def coarse(logprob_nk: Tensor, target: SupportTarget) -> Tensor:
    """KL(π‖p) between (ids, tail): a lower bound of the reverse KL. With a teacher's top-k it is `coarse`, with the student's
    own ids (`student_m`) it is tight where π lives."""
    logp_nk = _given(target.logp_nk, "log p")
    pi_nk, tail_pi_n = _with_tail(logprob_nk, target.mask_nk)
    _, tail_p_n = _with_tail(logp_nk, target.mask_nk)
    gap_nk = torch.where(target.mask_nk, logprob_nk - logp_nk, 0.0)
    return (pi_nk * gap_nk).sum(1) + tail_pi_n * (tail_pi_n.log() - tail_p_n.log())


SUPPORT: dict[str, Callable[[Tensor, SupportTarget], Tensor]] = {
    "counts": counts,
    "renormalised": renormalised,
    "top_k": top_k,
    "student_m": coarse,
}


def _cross_entropy(logprob_nk: Tensor, weight_nk: Tensor, target: SupportTarget) -> Tensor:
    return -torch.where(target.mask_nk, weight_nk * logprob_nk, 0.0).sum(1)


def _with_tail(logprob_nk: Tensor, mask_nk: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities of the ids, 0 on padding, and what is left for all others."""
    p_nk = torch.where(mask_nk, logprob_nk, -torch.inf).exp()
    return p_nk, (1 - p_nk.sum(1)).clamp(min=SMALLEST_TAIL)


def _given(tensor: Tensor | None, name: str) -> Tensor:
    if tensor is None:
        raise ValueError(
            f"these soft targets hold no {name}; their kind is another one than losses.soft_target asks for"
        )
    return tensor
