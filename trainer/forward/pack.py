"""Groups to hidden states: micro-batches planned by tokens, each prompt encoded once where the layout allows it.

Layouts. `split` (CPU) and `flex` (CUDA): all groups in one packed row without padding, each prompt once, attention by blocks.
`kv`: the prompts of all groups once, as rows, with keys and values kept *with gradient*; these are expanded to the
samples, and the completions run as rows behind them. Exact for windows, ALiBi and ragged lengths. A group with a single completion
(a behaviour-cloning answer, a document) gains nothing and runs as a plain row in the same call. `plain`: every sample is a row
[prompt | completion]. Refuses empty prompts, empty completions, and more tokens than the model has positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.forward.attention import encode, encode_packed, extend, pad_rows, prefill, repeat
from trainer.forward.flex import BLOCK, Flex
from trainer.forward.model import LAYOUTS, Policy, context_length
from trainer.forward.rows import GroupTokens, packed
from trainer.forward.split import Split

__all__ = ["GroupTokens", "hidden_states", "plan", "tokens_forwarded"]


@dataclass(frozen=True)
class _Rectangles:
    """The token positions of one call: three padded blocks, each (rows, longest): shared prompts, their completions, plain
    rows; and one packed row."""

    prompts: tuple[int, int] = (0, 0)
    tails: tuple[int, int] = (0, 0)
    rows: tuple[int, int] = (0, 0)
    packed: int = 0
    multiple: int = 1
    """The packed row is filled up to a multiple of this."""

    def joined(self, group: GroupTokens, layout: str) -> _Rectangles:
        """The blocks with one more group."""
        lengths = [len(completion) - 1 for completion in group.completions]
        if layout in ("split", "flex"):
            multiple = BLOCK if layout == "flex" else 1
            return replace(self, packed=self.packed + len(group.prompt) + sum(lengths), multiple=multiple)
        if not _shares(group, layout):
            return replace(self, rows=_grown(self.rows, [len(group.prompt) + length for length in lengths]))
        tails = _grown(self.tails, [length for length in lengths if length])
        return replace(self, prompts=_grown(self.prompts, [len(group.prompt)]), tails=tails)

    @property
    def positions(self) -> int:
        """Token positions, padding included."""
        padded = sum(count * longest for count, longest in (self.prompts, self.tails, self.rows))
        return padded + -(-self.packed // self.multiple) * self.multiple


def _grown(block: tuple[int, int], lengths: Sequence[int]) -> tuple[int, int]:
    return block[0] + len(lengths), max([block[1], *lengths])


def tokens_forwarded(groups: Sequence[GroupTokens], layout: str) -> int:
    """Token positions that one call runs through the transformer, padding included.

    >>> group = GroupTokens([1, 2, 3], [[4, 5], [6], [7, 8, 9]])
    >>> [tokens_forwarded([group], layout) for layout in ("split", "kv", "plain")]
    [6, 7, 15]
    """
    blocks = _Rectangles()
    for group in groups:
        blocks = blocks.joined(group, layout)
    return blocks.positions


def plan(groups: Sequence[GroupTokens], budget: int, layout: str = "kv") -> list[list[int]]:
    """Micro-batches as lists of group indices: whole groups, in order, each batch at most `budget` forwarded tokens.

    A group above the budget stands alone. Deterministic, so every process plans the same.

    >>> plan([GroupTokens([1], [[2, 3]])] * 3, budget=4)
    [[0, 1], [2]]
    """
    batches: list[list[int]] = []
    blocks = _Rectangles()
    for index, group in enumerate(groups):
        blocks = blocks.joined(group, layout)
        if batches and blocks.positions <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
            blocks = _Rectangles().joined(group, layout)
    return batches


def hidden_states(policy: Policy, groups: Sequence[GroupTokens]) -> tuple[Tensor, Tensor]:
    """Hidden states (n, d) that predict the completion tokens, and those tokens (n,), flat in order group, sample, token.

    Differentiable to the weights, through the shared prompt too. Raises ValueError where a group is empty or too long."""
    _refuse(policy, groups)
    if policy.layout in ("split", "flex"):
        return _packed_row(policy, groups)
    shared, alone = _split(groups, policy.layout)
    parts: list[Tensor] = []
    where: dict[tuple[int, int], list[int]] = {}
    if shared:
        parts += _shared_rows(policy, groups, shared, where)
    if alone:
        parts.append(_plain_rows(policy, groups, alone, where, sum(len(part) for part in parts)))
    samples = [(g, s) for g, group in enumerate(groups) for s in range(len(group.completions))]
    index_n = torch.tensor([i for key in samples for i in where[key]], device=policy.device)
    target_n = torch.tensor([token for g, s in samples for token in groups[g].completions[s]], device=policy.device)
    return torch.cat(parts).index_select(0, index_n), target_n


def _packed_row(policy: Policy, groups: Sequence[GroupTokens]) -> tuple[Tensor, Tensor]:
    """`hidden_states` in the layouts split and flex. flex fills the row up with copies of its last token, each on its own."""
    row, device = packed(groups), policy.device
    fill = -len(row.ids) % BLOCK if policy.layout == "flex" else 0
    position_n = torch.tensor(row.positions + [0] * fill, device=device)
    ids_1n = torch.tensor([row.ids + row.ids[-1:] * fill], device=device)
    layout = (Flex if policy.layout == "flex" else Split)(row.parts, position_n)
    hidden_nd = encode_packed(policy.model, ids_1n, position_n[None], layout)
    source_n = torch.tensor(row.source, device=device)
    target_n = torch.tensor(
        [token for g in groups for completion in g.completions for token in completion], device=device
    )
    return hidden_nd.index_select(0, source_n), target_n


def _shares(group: GroupTokens, layout: str) -> bool:
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; known: {', '.join(LAYOUTS)}")
    return layout == "kv" and len(group.completions) > 1


def _split(groups: Sequence[GroupTokens], layout: str) -> tuple[list[int], list[int]]:
    """Indices of the groups that share their prompt, and of those that run as plain rows."""
    shared = [_shares(group, layout) for group in groups]
    return [g for g, yes in enumerate(shared) if yes], [g for g, yes in enumerate(shared) if not yes]


def _shared_rows(
    policy: Policy, groups: Sequence[GroupTokens], shared: list[int], where: dict[tuple[int, int], list[int]]
) -> list[Tensor]:
    """The kv layout: each prompt's last hidden state, then those of the completions, flat; `where` gets the positions.

    The last token of a completion predicts nothing, so a completion of one token has no row."""
    prefix = prefill(policy.model, [groups[g].prompt for g in shared], policy.device)
    parts, tails = [prefix.last_gd], [c[:-1] for g in shared for c in groups[g].completions if len(c) > 1]
    width, start = max(map(len, tails), default=0), len(shared)
    for row, g in enumerate(shared):
        for s, completion in enumerate(groups[g].completions):
            where[g, s] = [row, *range(start, start + len(completion) - 1)]
            start += width if len(completion) > 1 else 0
    if tails:
        counts = [sum(len(c) > 1 for c in groups[g].completions) for g in shared]
        parts.append(extend(policy.model, repeat(prefix, counts), tails, policy.device).flatten(0, 1))
    return parts


def _plain_rows(
    policy: Policy,
    groups: Sequence[GroupTokens],
    alone: list[int],
    where: dict[tuple[int, int], list[int]],
    offset: int,
) -> Tensor:
    """The plain layout: one row [prompt | completion] a sample, without the completion's last token, which predicts nothing."""
    keys = [(g, s) for g in alone for s in range(len(groups[g].completions))]
    rows = [[*groups[g].prompt, *groups[g].completions[s][:-1]] for g, s in keys]
    width = max(len(row) for row in rows)
    for row, (g, s) in enumerate(keys):
        start = offset + row * width + len(groups[g].prompt) - 1
        where[g, s] = list(range(start, start + len(groups[g].completions[s])))
    return encode(policy.model, *pad_rows(rows, policy.device, "right")).flatten(0, 1)


def _refuse(policy: Policy, groups: Sequence[GroupTokens]) -> None:
    limit = context_length(policy)
    if not groups:
        raise ValueError("no groups were given; a forward pass needs at least one")
    for g, group in enumerate(groups):
        lengths = [len(completion) for completion in group.completions]
        if not len(group.prompt) or not lengths or not min(lengths):
            raise ValueError(
                f"group {g} has a prompt of {len(group.prompt)} tokens and completions of {lengths}: none may be empty"
            )
        if limit is not None and len(group.prompt) + max(lengths) > limit:
            raise ValueError(
                f"group {g}: a prompt of {len(group.prompt)} and a completion of {max(lengths)} tokens"
                f" are longer than the model's context of {limit}"
            )
    if policy.layout == "kv" and torch.is_grad_enabled() and _checkpoints(policy):
        raise ValueError(
            "layout kv keeps a cache with gradient, which activation checkpointing drops:"
            " turn checkpointing on with checkpoint_activations, which leaves this layout"
        )


def _checkpoints(policy: Policy) -> bool:
    return any(
        getattr(module, "gradient_checkpointing", False) and module.training for module in policy.model.modules()
    )
