"""Attention over a packed row in ordinary flash calls, without a mask: the layout `split` (CPU).

Each group's attention is a few blocks: prompt → itself (causal), each completion → itself (causal; equal lengths in one call),
all completions → their prompt (no mask). A row with two blocks is merged by their log-sum-exps; the backward pass calls each
block's flash backward with the *merged* output and log-sum-exp, which makes the sum of the blocks the exact gradient. The cost
grows with the pairs that exist. Sliding windows cut the blocks to bands of logical distance.

Reads a `Row` and the queries, keys and values of a layer. Uses private CPU operators of torch. Refuses (NotImplementedError: the
caller then takes another layout) a torch without these operators, soft caps, sinks and dropout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.forward.rows import Part

BAND = 512  # query rows that share one mask of a sliding window: the mask stays small, the band's waste below a window


@dataclass(frozen=True)
class Block:
    """Queries [rows[0], rows[1]) look at keys [keys[0], keys[1]) of the row; both are `count` equal stretches."""

    rows: tuple[int, int]
    keys: tuple[int, int]
    causal: bool
    count: int = 1
    banded: bool = False
    """Whether the window cuts inside this block: then a mask is made from the positions."""
    second: bool = False
    """Whether these rows have been through a block before: this one is merged into its output."""


class Split:
    """The attention of one packed row; it travels with the call, so recomputation and interleaved rows read their own.

    positions: of every index of the row, as `Row` gives them."""

    def __init__(self, parts: Sequence[Part], position_n: Tensor) -> None:
        self.parts, self.position_n = tuple(parts), position_n
        self._blocks: dict[int | None, tuple[Block, ...]] = {}

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None, soft_cap: float | None
    ) -> Tensor:
        """Output (1, heads, n, d) of queries (1, heads, n, d) and keys and values (1, key heads, n, d)."""
        if soft_cap is not None:
            raise NotImplementedError("layout split knows no soft cap of attention scores")
        if query.device.type != "cpu" or not operators_present():
            raise NotImplementedError(
                f"this torch has no flash attention of its own for layout split on {query.device}"
            )
        if window not in self._blocks:
            self._blocks[window] = tuple(blocks(self.parts, window))
        return _Split.apply(query, key, value, self._blocks[window], self.position_n, scale, window)


def operators_present() -> bool:
    """Whether torch has the two private operators."""
    name = "_scaled_dot_product_flash_attention_for_cpu"
    return hasattr(torch.ops.aten, name) and hasattr(torch.ops.aten, f"{name}_backward")


def blocks(parts: Sequence[Part], window: int | None = None) -> Iterator[Block]:
    """The blocks of all groups. Those of a row with itself come before those with its prompt, which are merged into them.

    A window of w lets a position see itself and the w − 1 positions before it."""
    for part in parts:
        prompt_stop = part.start + part.prompt
        yield from _causal(part.start, prompt_stop, window)
        for start, length, count in _runs(prompt_stop, part.tails):
            if window is None or length <= window:
                yield Block((start, start + count * length), (start, start + count * length), True, count)
            else:
                for first in range(start, start + count * length, length):
                    yield from _causal(first, first + length, window)
    for part in parts:
        yield from _to_prompt(part, window)


def _runs(start: int, lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(start, length, count) of neighbours of equal length."""
    first = 0
    for i in range(1, len(lengths) + 1):
        if i == len(lengths) or lengths[i] != lengths[first]:
            yield start, lengths[first], i - first
            start, first = start + lengths[first] * (i - first), i


def _causal(start: int, stop: int, window: int | None) -> Iterator[Block]:
    if window is None or stop - start <= window:
        yield Block((start, stop), (start, stop), True)
        return
    for first in range(start, stop, BAND):
        last = min(first + BAND, stop)
        yield Block((first, last), (max(start, first - window + 1), last), False, banded=True)


def _to_prompt(part: Part, window: int | None) -> Iterator[Block]:
    prompt_stop = part.start + part.prompt
    if part.tails and (window is None or part.prompt + max(part.tails) <= window):
        yield Block((prompt_stop, part.stop), (part.start, prompt_stop), False, second=True)
        return
    first = prompt_stop
    for length in part.tails:
        seeing = length if window is None else min(length, window - 1)  # later rows have the prompt behind their window
        if seeing and window is not None:
            keys = (max(part.start, prompt_stop - window + 1), prompt_stop)
            yield Block((first, first + seeing), keys, False, banded=part.prompt + seeing > window, second=True)
        first += length


def _forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, mask: Tensor | None, scale: float) -> Any:
    operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return operator(query, key, value, 0.0, causal, attn_mask=mask, scale=scale)


def _cut(x: Tensor, span: tuple[int, int], count: int) -> Tensor:
    """(1, heads, n, …) → the span's own memory as (count, heads, length, …)."""
    part = x[:, :, span[0] : span[1]]
    return part if count == 1 else part.squeeze(0).unflatten(1, (count, -1)).transpose(0, 1)


class _Split(torch.autograd.Function):
    """softmax over a union of key sets, from the softmax over each: o = Σ_b exp(lse_b − lse) o_b, lse = log Σ_b exp lse_b."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        blocks: tuple[Block, ...],
        position_n: Tensor,
        scale: float,
        window: int | None,
    ) -> Tensor:
        ctx.blocks, ctx.position_n, ctx.scale, ctx.window = blocks, position_n, scale, window
        _, heads, tokens, width = query.shape
        out = query.new_empty(1, tokens, heads, width).transpose(1, 2)  # token first: what the next product reads
        lse = torch.empty(1, tokens, heads, dtype=torch.promote_types(query.dtype, torch.float32)).transpose(1, 2)
        for block in blocks:
            q, k, v = (_cut(x, span, block.count) for x, span in zip((query, key, value), _spans(block), strict=True))
            new_out, new_lse = _forward(q, k, v, block.causal, _mask(block, position_n, window, query.dtype), scale)
            own_out, own_lse = _cut(out, block.rows, block.count), _cut(lse, block.rows, block.count)
            if block.second:
                _merge(own_out, own_lse, new_out, new_lse)
            else:
                own_out.copy_(new_out)
                own_lse.copy_(new_lse)
        ctx.save_for_backward(query, key, value, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        # without bands the first blocks cover every row and key exactly once: nothing to add to
        whole = not any(block.banded for block in ctx.blocks)
        grads = [torch.empty_like(x) if whole else torch.zeros_like(x) for x in (query, key, value)]
        for block in ctx.blocks:
            rows, keys, count = block.rows, block.keys, block.count
            given = [
                _cut(grad_out, rows, count),
                _cut(query, rows, count),
                _cut(key, keys, count),
                _cut(value, keys, count),
            ]
            merged = [_cut(out, rows, count), _cut(lse, rows, count)]
            mask = _mask(block, ctx.position_n, ctx.window, query.dtype)
            found = operator(*given, *merged, 0.0, block.causal, attn_mask=mask, scale=ctx.scale)
            for grad, span, part in zip(grads, _spans(block), found, strict=True):
                own = _cut(grad, span, count)
                own.copy_(part) if whole and not block.second else own.add_(part)
        return (*grads, None, None, None, None)


def _spans(block: Block) -> tuple[tuple[int, int], ...]:
    return block.rows, block.keys, block.keys


def _merge(out: Tensor, lse: Tensor, new_out: Tensor, new_lse: Tensor) -> None:
    """The second block of these rows into what the first one wrote."""
    total = torch.logaddexp(lse, new_lse)
    share = (new_lse - total).exp_()[..., None]
    out.copy_(out.to(share.dtype).lerp(new_out.to(share.dtype), share))
    lse.copy_(total)


def _mask(block: Block, position_n: Tensor, window: int | None, dtype: torch.dtype) -> Tensor | None:
    """0 where a query may look, −inf elsewhere, by logical distance; None where the block needs no mask."""
    if not block.banded or window is None:
        return None
    distance = position_n[slice(*block.rows), None] - position_n[None, slice(*block.keys)]
    return torch.zeros(distance.shape, dtype=dtype).masked_fill_((distance < 0) | (distance >= window), -torch.inf)
