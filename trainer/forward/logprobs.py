"""Groups to log π: the function that scoring, rescoring, the reference and training share, and the check of its layout.

Reads a policy and groups of token ids. Refuses nothing itself: pack and head do."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.forward.head import token_logprobs
from trainer.forward.model import Policy, head_of
from trainer.forward.pack import GroupTokens, hidden_states


def group_logprobs(
    policy: Policy, groups: Sequence[GroupTokens], *, temperature: float = 1.0, chunk: int = 256
) -> Tensor:
    """log π of every completion token (n,), nats, float32, flat in order group, sample, token.

    Carries a gradient where torch's gradients are on. One call is one micro-batch: cut larger ones with `plan`."""
    hidden_nd, target_n = hidden_states(policy, groups)
    return token_logprobs(hidden_nd, head_of(policy.model), target_n, temperature=temperature, chunk=chunk)


def pad_bt(value_n: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Flat values to (b, t), right-padded with 0, and the mask (bool, True = real). Differentiable; `flat_n` is the inverse."""
    if sum(lengths) != len(value_n):
        raise ValueError(f"{len(value_n)} values, but the lengths sum to {sum(lengths)}")
    length_b1 = torch.tensor(lengths, device=value_n.device, dtype=torch.long)[:, None]
    mask_bt = torch.arange(max(lengths, default=0), device=value_n.device)[None] < length_b1
    return value_n.new_zeros(mask_bt.shape).masked_scatter(mask_bt, value_n), mask_bt


def flat_n(value_bt: Tensor, mask_bt: Tensor) -> Tensor:
    """The real values of (b, t), flat in order sample, token."""
    return value_bt[mask_bt]


@torch.no_grad()
def check_layout(policy: Policy, groups: Sequence[GroupTokens]) -> float:
    """Largest |Δ log π| between the policy's layout and plain rows, in nats; NaN where either gives NaN."""
    plain_n = group_logprobs(dataclasses.replace(policy, layout="plain"), groups)
    return (group_logprobs(policy, groups) - plain_n).abs().max().item()
