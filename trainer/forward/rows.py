"""One packed row: the token ids of several groups in a row without padding, each prompt once, its completions behind it.

Reads token ids alone, no model. A completion goes without its last token, which predicts nothing. Positions start again behind the
prompt with every completion, so that a distance of positions is the logical distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class GroupTokens:
    """The token ids of one prompt and of its completions, end tokens included.

    A behaviour-cloning answer is a group with one completion; so is a document, whose prompt is its first token."""

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Part:
    """Where one group stands in the row: its prompt from `start`, then its completions (`tails`: their lengths in the row)."""

    start: int
    prompt: int
    tails: tuple[int, ...]

    @property
    def stop(self) -> int:
        """The first index behind the group."""
        return self.start + self.prompt + sum(self.tails)


@dataclass
class Row:
    """What one packed call needs."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    source: list[int] = field(default_factory=list)
    """For every completion token (order group, sample, token) the index in the row whose hidden state predicts it."""

    def append(self, group: GroupTokens) -> None:
        """The group behind what is there. A single completion shares its prompt with nobody: the two are one causal stretch."""
        start, alone = len(self.ids), len(group.completions) == 1
        tails = [completion[:-1] for completion in group.completions if len(completion) > 1]
        head = [*group.prompt, *tails[0]] if alone and tails else list(group.prompt)
        tails = [] if alone else tails
        self.ids += head
        self.positions += range(len(head))
        for tail in tails:
            self.ids += tail
            self.positions += range(len(group.prompt), len(group.prompt) + len(tail))
        self.parts.append(Part(start, len(head), tuple(map(len, tails))))
        self._point(group, start + len(group.prompt))

    def _point(self, group: GroupTokens, first: int) -> None:
        """Every completion's first token comes from the prompt's last index, the others from the index before their own."""
        for completion in group.completions:
            self.source.append(self.parts[-1].start + len(group.prompt) - 1)
            self.source += range(first, first + len(completion) - 1)
            first += len(completion) - 1


def packed(groups: Sequence[GroupTokens]) -> Row:
    """The groups in one row, in order.

    >>> row = packed([GroupTokens([7, 8], [[1, 2, 3], [4], [5, 6]]), GroupTokens([9], [[1, 2]])])
    >>> row.ids, row.positions
    ([7, 8, 1, 2, 5, 9, 1], [0, 1, 2, 3, 2, 0, 1])
    >>> row.source, row.parts[0]
    ([1, 2, 3, 1, 1, 4, 5, 6], Part(start=0, prompt=2, tails=(2, 1)))
    """
    row = Row()
    for group in groups:
        row.append(group)
    return row
