"""Items in a seeded order, epoch after epoch: blocks permuted, then the items of a window of blocks.

Knows no tables: a source says how many items each block holds and reads blocks one after another. (epoch, position) is the whole
resume state, since the order depends on seed, epoch and the kept items alone. Refuses a source without items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from data.keys import id64
from data.refusal import Refusal

WINDOW = 4  # blocks shuffled together: 512 groups of a token table, held in memory at once

Item = TypeVar("Item")


@dataclass(frozen=True)
class Source(Generic[Item]):
    """Where items come from. `kept[k]` are the items of block k that count, as indices into the block."""

    name: str
    kept: Sequence[np.ndarray]
    read: Callable[[Iterable[int]], Iterator[Sequence[Item]]]
    """Block numbers in, their whole items out, one block at a time and in that order."""

    @property
    def count(self) -> int:
        """Items an epoch."""
        return sum(len(block) for block in self.kept)


class Stream(Generic[Item]):
    """Endless items of a source; `prefetch` blocks are read ahead by a thread, which changes neither items nor state."""

    def __init__(self, source: Source[Item], seed: int, epoch: int = 0, position: int = 0, *, prefetch: int = 0):
        if not source.count:
            raise Refusal(
                f"{source.name}: nothing to train on", "python -m data inspect, or another reward, where or filter"
            )
        self.source, self.seed = source, id64("replay", source.name, seed)
        self.epoch, self.position = epoch, position
        self.prefetch = prefetch
        self._items = self._from(position)

    @property
    def state(self) -> dict[str, int]:
        """Where the next item stands."""
        return {"epoch": self.epoch, "position": self.position}

    def __next__(self) -> Item:
        if self.position == self.source.count:
            self.epoch, self.position = self.epoch + 1, 0
            self._items = self._from(0)
        self.position += 1
        return next(self._items)

    def take(self, count: int) -> list[Item]:
        """The next items; an epoch may end within them."""
        return [next(self) for _ in range(count)]

    def _from(self, position: int) -> Iterator[Item]:
        """Items of this epoch from a position on; windows before it are not read."""
        windows = list(enumerate(self._windows(), start=1))
        while windows and position >= self._size(windows[0][1]):
            position -= self._size(windows.pop(0)[1])
        reader = self._ahead(self.source.read([block for _, blocks in windows for block in blocks]))
        for number, blocks in windows:
            items = [next(reader) for _ in blocks]
            picks = [(place, int(item)) for place, b in enumerate(blocks) for item in self.source.kept[b]]
            for pick in self._generator(number).permutation(len(picks))[position:]:
                place, item = picks[pick]
                yield items[place][item]
            position = 0

    def _ahead(self, blocks: Iterator[Sequence[Item]]) -> Iterator[Sequence[Item]]:
        if not self.prefetch:
            return blocks
        from trainer.prefetch import ahead

        return ahead(blocks, self.prefetch)

    def _size(self, blocks: list[int]) -> int:
        return sum(len(self.source.kept[block]) for block in blocks)

    def _windows(self) -> list[list[int]]:
        """Block numbers of each window of this epoch; blocks without a kept item are in none."""
        order = self._generator(0).permutation(len(self.source.kept)).tolist()
        blocks = [block for block in order if len(self.source.kept[block])]
        return [blocks[start : start + WINDOW] for start in range(0, len(blocks), WINDOW)]

    def _generator(self, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(counter=[0, 0, 0, number], key=[self.seed, self.epoch]))
