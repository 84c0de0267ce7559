"""Attention over a packed row by FlexAttention with a block mask: the layout `flex` (CUDA).

Reads a `Row` and the queries, keys and values of a layer. A position sees an earlier or equal position of its own group that
belongs to the prompt or to its own completion, at a logical distance below the window. Compiled on CUDA. On the CPU it runs forward
only, whole scores at once: for tests."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.forward.rows import Part

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
BLOCK = 128  # FlexAttention's own block: a row is filled up to a multiple, so that one compilation serves many lengths


class Flex:
    """The attention of one packed row; it travels with the call. Block masks are made once a window and used by all layers.

    parts: as `Row` gives them; position_n: of every index; indices beyond the last part are padding that sees itself."""

    def __init__(self, parts: Sequence[Part], position_n: Tensor) -> None:
        self.position_n = position_n
        self.group_n, self.tail_n = owners(parts, position_n)
        self._masks: dict[int | None, Any] = {}

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None, soft_cap: float | None
    ) -> Tensor:
        """Output (1, heads, n, d) of queries (1, heads, n, d) and keys and values (1, key heads, n, d)."""
        attention = _compiled() if query.is_cuda else _flex_attention()
        cap = None if soft_cap is None else _cap(soft_cap)
        return attention(
            query, key, value, score_mod=cap, block_mask=self.mask(window), scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip

    def mask(self, window: int | None) -> Any:
        """The `BlockMask` of a window (None: full attention)."""
        from torch.nn.attention.flex_attention import create_block_mask

        if window not in self._masks:
            count = len(self.position_n)
            sees = mask_mod(self.group_n, self.tail_n, self.position_n, window)
            self._masks[window] = create_block_mask(sees, None, None, count, count, device=str(self.position_n.device))
        return self._masks[window]


def owners(parts: Sequence[Part], position_n: Tensor) -> tuple[Tensor, Tensor]:
    """Of every index of the row: its group's number, and its completion's number from 1 within the group (0: the prompt).

    Padding behind the last part is a group of its own for each index."""
    count = len(position_n)
    group_n = torch.arange(len(parts), len(parts) + count)
    tail_n = torch.zeros(count, dtype=torch.long)
    for g, part in enumerate(parts):
        group_n[part.start : part.stop] = g
        first = part.start + part.prompt
        for number, length in enumerate(part.tails, start=1):
            tail_n[first : first + length] = number
            first += length
    return group_n.to(position_n.device), tail_n.to(position_n.device)


def mask_mod(group_n: Tensor, tail_n: Tensor, position_n: Tensor, window: int | None) -> MaskMod:
    """FlexAttention's predicate: may query index q look at key index k?"""

    def sees(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        distance = position_n[q] - position_n[k]
        own = (group_n[q] == group_n[k]) & ((tail_n[k] == 0) | (tail_n[k] == tail_n[q]))
        near = own & (distance >= 0)
        return near if window is None else near & (distance < window)

    return sees


@functools.cache
def _cap(soft_cap: float) -> Callable[..., Tensor]:
    """One function object a cap: a new one at every call would be compiled anew."""
    return lambda score, batch, head, q, k: soft_cap * torch.tanh(score / soft_cap)


def _flex_attention() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@functools.cache
def _compiled() -> Any:
    return torch.compile(_flex_attention(), dynamic=True)
