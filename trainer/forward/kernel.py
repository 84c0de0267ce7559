"""The one-pass head: Σ weight · log π and its gradients in one pass over the vocabulary, without recomputation (MATH §2).

Reads hidden states, the output layer, target ids and a function that gives each token's weight once its log π is known. A chunk of
rows is the largest vocabulary-wide tensor; its logits become its gradient in place, within the forward pass. Refuses weights of
another shape, and a second backward pass over one result: the gradients are handed on, not kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.forward.head import Gradients, Head, computed, logits_of, soft_cap_slope

Weight = Callable[[Tensor, slice], Tensor]
SPARSE = (
    0.75  # below this share of tokens with a weight, taking their rows out costs less than the products that they save
)


def kernel_head(
    hidden_nd: Tensor, head: Head, target_n: Tensor, weight: Weight, *, temperature: float = 1.0, chunk: int = 256
) -> tuple[Tensor, Tensor]:
    """(loss, log π): loss = −Σ sg(weight_t) · log π_t, a scalar; log π (n,) in nats, float32, without gradient.

    weight(logprob, part): the chunk's weights (m,), from its log π (m,) and its place among the n tokens; called once a chunk, in
    order. The backward pass of the loss hands on the gradients that the forward pass made, which equal those of
    `−(weight_n * token_logprobs(…)).sum()`; without gradients none are made. Shapes, temperature and chunk as in `token_logprobs`.
    """
    inputs = computed(hidden_nd, head, target_n, temperature, chunk)
    wanted = tuple(x is not None and x.requires_grad and torch.is_grad_enabled() for x in inputs.tensors)
    return _Kernel.apply(*inputs.tensors, target_n, weight, inputs.head, temperature, inputs.rows, wanted)


class _Kernel(torch.autograd.Function):
    """∂ loss / ∂ logits = weight · (softmax − onehot(target)) / temperature, chained through scale and soft cap."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_nd: Tensor,
        weight_vd: Tensor,
        bias_v: Tensor | None,
        target_n: Tensor,
        weigh: Weight,
        head: Head,
        temperature: float,
        rows: int,
        wanted: tuple[bool, ...],
    ) -> tuple[Tensor, Tensor]:
        head = replace(head, weight_vd=weight_vd, bias_v=bias_v)
        grads = Gradients((hidden_nd, weight_vd, bias_v), wanted)
        wide = torch.promote_types(hidden_nd.dtype, torch.float32)
        logprob_n, loss = hidden_nd.new_zeros(len(target_n), dtype=wide), hidden_nd.new_zeros((), dtype=wide)
        with torch.autocast(hidden_nd.device.type, enabled=False):
            for start in range(0, len(target_n), rows):
                part = slice(start, min(start + rows, len(target_n)))
                chunk = _Chunk(hidden_nd[part], head, target_n[part], temperature, any(wanted))
                weight_n = _checked(weigh(chunk.logprob_n, part), chunk.logprob_n)
                logprob_n[part] = chunk.logprob_n
                loss -= (weight_n * chunk.logprob_n).sum()
                if any(wanted):
                    chunk.hand_on(weight_n, start, grads)
                del chunk  # or two chunks would be alive while the next one is made
        ctx.grads = grads.cast() if any(wanted) else None
        ctx.mark_non_differentiable(logprob_n)
        return loss, logprob_n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise RuntimeError(
                "the gradients of kernel_head were handed on already; call it again for another backward pass"
            )
        if grad_loss.is_cuda or grad_loss.item() != 1.0:  # on CUDA the question would cost a synchronisation
            grads = tuple(grad if grad is None else grad.mul_(grad_loss) for grad in grads)
        return (*grads, None, None, None, None, None, None)


class _Chunk:
    """The vocabulary-wide numbers of a few rows: exp(logit / temperature − its maximum), their sum, and log π of the targets."""

    def __init__(
        self, hidden_nd: Tensor, head: Head, target_n: Tensor, temperature: float, wants_gradient: bool
    ) -> None:
        logits_nv = logits_of(hidden_nd, head)
        self._slope_nv = soft_cap_slope(logits_nv, head.soft_cap) if wants_gradient else None
        self._target_n1, self._factor = target_n[:, None], head.scale / temperature
        if temperature != 1.0:
            logits_nv.div_(temperature)
        picked_n = logits_nv.gather(1, self._target_n1).squeeze(1)
        top_n = logits_nv.amax(1)
        self._exp_nv = logits_nv.sub_(top_n[:, None]).exp_()
        self._total_n = self._exp_nv.sum(1)
        self.logprob_n = picked_n - (top_n + self._total_n.log())

    def hand_on(self, weight_n: Tensor, start: int, grads: Gradients) -> None:
        """The gradient of −Σ weight · log π into `grads`, in the chunk's own memory."""
        rows: slice | Tensor = slice(start, start + len(weight_n))
        grad_nv, target_n1, total_n, slope_nv = self._exp_nv, self._target_n1, self._total_n, self._slope_nv
        if not weight_n.is_cuda and weight_n.count_nonzero() < SPARSE * len(weight_n):
            kept = weight_n.nonzero().squeeze(1)
            grad_nv, target_n1, total_n, weight_n = (x[kept] for x in (grad_nv, target_n1, total_n, weight_n))
            slope_nv, rows = None if slope_nv is None else slope_nv[kept], kept + start
        factor_n = weight_n * self._factor
        grad_nv.mul_((factor_n / total_n)[:, None]).scatter_add_(1, target_n1, -factor_n[:, None])
        grads.add(rows, grad_nv if slope_nv is None else grad_nv.mul_(slope_nv))


def _checked(weight_n: Tensor, logprob_n: Tensor) -> Tensor:
    if weight_n.shape != logprob_n.shape:
        raise ValueError(f"weights have shape {tuple(weight_n.shape)}, their tokens {tuple(logprob_n.shape)}")
    return weight_n.detach().to(logprob_n.dtype)
