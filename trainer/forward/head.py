"""From hidden states to log π of given tokens, without ever holding tokens × vocabulary.

Reads hidden states, the output layer and target ids; gives log-probabilities in nats. A chunk of rows is the largest
vocabulary-wide tensor in either direction: the backward pass recomputes each chunk's logits from its hidden states.
Refuses shapes that do not fit and a temperature that is not positive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 2**24  # 64 MiB of float32 logits: keeps a chunk below 1/32 of 2,048 tokens whatever the vocabulary


@dataclass(frozen=True)
class Head:
    """The output layer: logits = soft_cap · tanh(scale · (hidden · weightᵀ + bias) / soft_cap).

    Without a soft cap there is no tanh."""

    weight_vd: Tensor
    bias_v: Tensor | None = None
    scale: float = 1.0
    """The model's `logit_scale`, or 1/`logits_scaling`."""
    soft_cap: float | None = None
    """The model's `final_logit_softcapping` (Gemma 2)."""

    def logits(self, hidden_nd: Tensor) -> Tensor:
        """Whole logits (n, v) in float32 (float64 stays), with gradient: for few rows only, such as one decoding step."""
        return _logits(hidden_nd.to(self.weight_vd.dtype), self)


def token_logprobs(
    hidden_nd: Tensor, head: Head, target_n: Tensor, *, temperature: float = 1.0, chunk: int = 256
) -> Tensor:
    """log π(target | hidden) in nats, float32 (n,), at π ∝ exp(logits / temperature).

    hidden_nd (n, d): the last hidden states, any float type; target_n (n,): token ids. Gradients reach the hidden states and,
    where they require it, the head's weight and bias; they equal those of `log_softmax` followed by `gather`.
    Rows are taken `chunk` at a time (fewer where the vocabulary is so large that a chunk would pass 64 MiB). Memory beyond the
    gradients themselves: one chunk of logits; the last chunk is kept between the passes, so a short batch recomputes nothing."""
    if hidden_nd.ndim != 2 or target_n.shape != hidden_nd.shape[:1] or hidden_nd.shape[1] != head.weight_vd.shape[1]:
        shapes = [tuple(x.shape) for x in (hidden_nd, target_n, head.weight_vd)]
        raise ValueError(
            f"hidden has shape {shapes[0]}, target {shapes[1]}, head weight {shapes[2]}: (n, d), (n,), (v, d)"
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, log-probabilities need one above 0")
    rows = max(1, min(chunk, CHUNK_ELEMENTS // head.weight_vd.shape[0]))
    hidden_nd = hidden_nd.to(head.weight_vd.dtype)
    return _TokenLogprobs.apply(
        hidden_nd, head.weight_vd, head.bias_v, target_n, head.scale, head.soft_cap, temperature, rows
    )


def _logits(hidden_nd: Tensor, head: Head) -> Tensor:
    raw_nv = torch.nn.functional.linear(hidden_nd, head.weight_vd, head.bias_v)
    logits_nv = raw_nv.to(torch.promote_types(raw_nv.dtype, torch.float32))
    if head.scale != 1.0:
        logits_nv = logits_nv.mul_(head.scale)
    # in place but for the last step: tanh keeps its own output for the gradient
    return logits_nv if head.soft_cap is None else logits_nv.div_(head.soft_cap).tanh_() * head.soft_cap


class _TokenLogprobs(torch.autograd.Function):
    """∂ log π_y / ∂ logits = (onehot(y) − softmax) / temperature, chained through the soft cap: 1 − (logit / soft_cap)²."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_nd: Tensor,
        weight_vd: Tensor,
        bias_v: Tensor | None,
        target_n: Tensor,
        scale: float,
        soft_cap: float | None,
        temperature: float,
        rows: int,
    ) -> Tensor:
        head = Head(weight_vd, bias_v, scale, soft_cap)
        ctx.head, ctx.temperature, ctx.rows, ctx.kept_nv = head, temperature, rows, None
        logprob, lse, exp_nv = [], [], None
        with torch.autocast(hidden_nd.device.type, enabled=False):
            for start in range(0, len(target_n), rows):
                exp_nv = None  # or two chunks would be alive while the next one is made
                exp_nv = _logits(hidden_nd[start : start + rows], head).div_(temperature)
                picked_n = exp_nv.gather(1, target_n[start : start + rows, None]).squeeze(1)
                top_n = exp_nv.amax(1)
                lse.append(top_n + exp_nv.sub_(top_n[:, None]).exp_().sum(1).log())
                logprob.append(picked_n - lse[-1])
                if start + rows >= len(target_n) and soft_cap is None and any(ctx.needs_input_grad[:3]):
                    ctx.kept_nv = exp_nv.mul_((top_n - lse[-1]).exp()[:, None])
        lse_n = torch.cat(lse) if lse else hidden_nd.new_zeros(0)
        ctx.save_for_backward(hidden_nd, weight_vd, bias_v, target_n, lse_n)
        return torch.cat(logprob) if logprob else lse_n.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_n: Tensor) -> tuple[Tensor | None, ...]:
        hidden_nd, weight_vd, bias_v, target_n, lse_n = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden_nd) if wants_hidden else None
        grad_weight = torch.zeros_like(weight_vd) if wants_weight else None
        grad_bias = torch.zeros_like(bias_v) if wants_bias else None
        with torch.autocast(hidden_nd.device.type, enabled=False):
            for start in reversed(range(0, len(target_n), ctx.rows)):
                part = slice(start, start + ctx.rows)
                grad_nv = _logit_gradient(ctx, hidden_nd[part], target_n[part], lse_n[part], grad_n[part])
                if grad_hidden is not None:
                    torch.mm(grad_nv, weight_vd, out=grad_hidden[part])
                if grad_weight is not None:
                    grad_weight.addmm_(grad_nv.t(), hidden_nd[part])
                if grad_bias is not None:
                    grad_bias += grad_nv.sum(0)
                del grad_nv
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None


def _logit_gradient(ctx: Any, hidden_nd: Tensor, target_n: Tensor, lse_n: Tensor, grad_n: Tensor) -> Tensor:
    """Gradient of the chunk's raw linear outputs, in the head's type; works in the chunk's own memory."""
    head, temperature = ctx.head, ctx.temperature
    # taken, not read: it is overwritten here, and a second backward over a retained graph must recompute it
    probs_nv, ctx.kept_nv = ctx.kept_nv, None
    slope_nv = None
    if probs_nv is None:
        probs_nv = _logits(hidden_nd, head)
        if head.soft_cap is not None:
            slope_nv = (probs_nv / head.soft_cap).square_().neg_().add_(1.0)
        probs_nv.div_(temperature).sub_(lse_n[:, None]).exp_()
    factor_n1 = (grad_n * (head.scale / temperature))[:, None]
    grad_nv = probs_nv.mul_(-factor_n1).scatter_add_(1, target_n[:, None], factor_n1.to(probs_nv.dtype))
    if slope_nv is not None:
        grad_nv.mul_(slope_nv)
    return grad_nv.to(head.weight_vd.dtype)
