"""From hidden states to log π of given tokens, without ever holding tokens × vocabulary.

Reads hidden states, the output layer and target ids; gives log-probabilities in nats. A chunk of rows is the largest
vocabulary-wide tensor in either direction: the backward pass recomputes each chunk's logits from its hidden states.
Refuses shapes that do not fit and a temperature that is not positive."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
        return logits_of(hidden_nd.to(self.weight_vd.dtype), self)


def token_logprobs(
    hidden_nd: Tensor, head: Head, target_n: Tensor, *, temperature: float = 1.0, chunk: int = 256
) -> Tensor:
    """log π(target | hidden) in nats, float32 (n,), at π ∝ exp(logits / temperature).

    hidden_nd (n, d): the last hidden states, any float type; target_n (n,): token ids. Gradients reach the hidden states and,
    where they require it, the head's weight and bias; they equal those of `log_softmax` followed by `gather`.
    Rows are taken `chunk` at a time (fewer where the vocabulary is so large that a chunk would pass 64 MiB). Memory beyond the
    gradients themselves: one chunk of logits; the last chunk is kept between the passes, so a short batch recomputes nothing."""
    inputs = computed(hidden_nd, head, target_n, temperature, chunk)
    logprob_n1 = _SupportLogprobs.apply(*inputs.tensors, target_n[:, None], inputs.head, temperature, inputs.rows)
    return logprob_n1.squeeze(1)


def support_logprobs(
    hidden_nd: Tensor, head: Head, ids_nk: Tensor, *, temperature: float = 1.0, chunk: int = 256
) -> Tensor:
    """log π(id | hidden) in nats, float32 (n, k), of k ids a position; an id may stand twice. Else as `token_logprobs`."""
    inputs = computed(hidden_nd, head, ids_nk, temperature, chunk, axes=2)
    return _SupportLogprobs.apply(*inputs.tensors, ids_nk, inputs.head, temperature, inputs.rows)


@dataclass(frozen=True)
class Inputs:
    """Hidden states and head in the type in which the logits are computed, the rows of a chunk, and the head's numbers."""

    tensors: tuple[Tensor, Tensor, Tensor | None]
    head: Head
    rows: int


def computed(hidden_nd: Tensor, head: Head, ids: Tensor, temperature: float, chunk: int, axes: int = 1) -> Inputs:
    """What a chunked head needs, checked. The type is the weights', or autocast's; sums over the vocabulary are float32 in both."""
    fits = ids.ndim == axes and ids.shape[:1] == hidden_nd.shape[:1] and hidden_nd.shape[1:] == head.weight_vd.shape[1:]
    if hidden_nd.ndim != 2 or not fits:
        shapes, wanted = [tuple(x.shape) for x in (hidden_nd, ids, head.weight_vd)], "(n,)" if axes == 1 else "(n, k)"
        raise ValueError(
            f"hidden has shape {shapes[0]}, target {shapes[1]}, head weight {shapes[2]}: (n, d), {wanted}, (v, d)"
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, log-probabilities need one above 0")
    device, dtype = hidden_nd.device.type, head.weight_vd.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    most = max(1, min(chunk, CHUNK_ELEMENTS // head.weight_vd.shape[0]))
    rows = max(1, -(-len(ids) // max(1, -(-len(ids) // most))))  # even chunks: a short last one would multiply slowly
    bias_v = None if head.bias_v is None else head.bias_v.to(dtype)
    # the weights travel beside the head, as arguments of an autograd function: a tensor within an object gets no gradient
    return Inputs((hidden_nd.to(dtype), head.weight_vd.to(dtype), bias_v), head, rows)


def logits_of(hidden_nd: Tensor, head: Head) -> Tensor:
    """Whole logits (n, v), float32 (float64 stays), of hidden states in the weights' own type."""
    raw_nv = torch.nn.functional.linear(hidden_nd, head.weight_vd, head.bias_v)
    logits_nv = raw_nv.to(torch.promote_types(raw_nv.dtype, torch.float32))
    if head.scale != 1.0:
        logits_nv = logits_nv.mul_(head.scale)
    # in place but for the last step: tanh keeps its own output for the gradient
    return logits_nv if head.soft_cap is None else logits_nv.div_(head.soft_cap).tanh_() * head.soft_cap


def soft_cap_slope(logits_nv: Tensor, soft_cap: float | None) -> Tensor | None:
    """Derivative of the soft cap where it gave these logits: 1 − (logit / soft_cap)²; None without one."""
    return None if soft_cap is None else (logits_nv / soft_cap).square_().neg_().add_(1.0)


class Gradients:
    """Gradients of hidden states, weight and bias, summed over chunks; those of weights at least in float32."""

    def __init__(self, tensors: tuple[Tensor, Tensor, Tensor | None], wanted: tuple[bool, ...]) -> None:
        hidden_nd, weight_vd, bias_v = tensors
        self._given, wide = tensors, torch.promote_types(weight_vd.dtype, torch.float32)
        self.hidden_nd = torch.zeros_like(hidden_nd) if wanted[0] else None
        self.weight_vd = torch.zeros_like(weight_vd, dtype=wide) if wanted[1] else None
        self.bias_v = torch.zeros_like(bias_v, dtype=wide) if bias_v is not None and wanted[2] else None

    def add(self, part: slice | Tensor, grad_nv: Tensor) -> None:
        """A chunk's gradient of the raw linear outputs (float32), at these rows."""
        hidden_nd, weight_vd, _ = self._given
        if self.bias_v is not None:
            self.bias_v += grad_nv.sum(0)
        grad_nv = grad_nv.to(weight_vd.dtype)
        if self.hidden_nd is not None:
            self.hidden_nd[part] = grad_nv @ weight_vd
        if self.weight_vd is None:
            return
        if self.weight_vd.dtype == grad_nv.dtype:
            self.weight_vd.addmm_(grad_nv.t(), hidden_nd[part])
        else:
            self.weight_vd += grad_nv.t() @ hidden_nd[part]

    def cast(self) -> tuple[Tensor | None, ...]:
        """The three, each in its tensor's own type, None where it was not wanted."""
        found = (self.hidden_nd, self.weight_vd, self.bias_v)
        return tuple(
            grad if grad is None or tensor is None else grad.to(tensor.dtype)
            for grad, tensor in zip(found, self._given, strict=True)
        )


class _SupportLogprobs(torch.autograd.Function):
    """∂ log π_y / ∂ logits = (onehot(y) − softmax) / temperature, chained through the soft cap: 1 − (logit / soft_cap)²."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_nd: Tensor,
        weight_vd: Tensor,
        bias_v: Tensor | None,
        ids_nk: Tensor,
        head: Head,
        temperature: float,
        rows: int,
    ) -> Tensor:
        head = replace(head, weight_vd=weight_vd, bias_v=bias_v)
        ctx.numbers, ctx.temperature, ctx.rows, ctx.kept_nv = (head.scale, head.soft_cap), temperature, rows, None
        logprob, lse, exp_nv = [], [], None
        with torch.autocast(hidden_nd.device.type, enabled=False):
            for start in range(0, len(ids_nk), rows):
                exp_nv = None  # or two chunks would be alive while the next one is made
                exp_nv = logits_of(hidden_nd[start : start + rows], head).div_(temperature)
                picked_nk = exp_nv.gather(1, ids_nk[start : start + rows])
                top_n = exp_nv.amax(1)
                lse.append(top_n + exp_nv.sub_(top_n[:, None]).exp_().sum(1).log())
                logprob.append(picked_nk - lse[-1][:, None])
                if start + rows >= len(ids_nk) and head.soft_cap is None and any(ctx.needs_input_grad[:3]):
                    ctx.kept_nv = exp_nv.mul_((top_n - lse[-1]).exp()[:, None])
        wide = torch.promote_types(hidden_nd.dtype, torch.float32)
        lse_n = torch.cat(lse) if lse else hidden_nd.new_zeros(0, dtype=wide)
        ctx.save_for_backward(hidden_nd, weight_vd, bias_v, ids_nk, lse_n)
        return torch.cat(logprob) if logprob else hidden_nd.new_zeros(ids_nk.shape, dtype=wide)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_nk: Tensor) -> tuple[Tensor | None, ...]:
        hidden_nd, weight_vd, bias_v, ids_nk, lse_n = ctx.saved_tensors
        head = Head(weight_vd, bias_v, *ctx.numbers)
        grads = Gradients((hidden_nd, weight_vd, bias_v), ctx.needs_input_grad[:3])
        with torch.autocast(hidden_nd.device.type, enabled=False):
            for start in reversed(range(0, len(ids_nk), ctx.rows)):
                part = slice(start, start + ctx.rows)
                grads.add(part, _logit_gradient(ctx, head, hidden_nd[part], ids_nk[part], lse_n[part], grad_nk[part]))
        return (*grads.cast(), None, None, None, None)


def _logit_gradient(ctx: Any, head: Head, hidden_nd: Tensor, ids_nk: Tensor, lse_n: Tensor, grad_nk: Tensor) -> Tensor:
    """Gradient of the chunk's raw linear outputs, float32; works in the chunk's own memory."""
    # taken, not read: it is overwritten here, and a second backward over a retained graph must recompute it
    probs_nv, ctx.kept_nv = ctx.kept_nv, None
    slope_nv = None
    if probs_nv is None:
        probs_nv = logits_of(hidden_nd, head)
        slope_nv = soft_cap_slope(probs_nv, head.soft_cap)
        probs_nv.div_(ctx.temperature).sub_(lse_n[:, None]).exp_()
    factor_nk = grad_nk.to(probs_nv.dtype) * (head.scale / ctx.temperature)
    grad_nv = probs_nv.mul_(-factor_nk.sum(1, keepdim=True)).scatter_add_(1, ids_nk, factor_nk)
    if slope_nv is not None:
        grad_nv.mul_(slope_nv)
    return grad_nv
