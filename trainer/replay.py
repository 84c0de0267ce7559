"""What a step is made of: groups of the pool, answers to imitate, soft targets, corpus documents.

Reads tables of answers and `corpus`. Held-out documents never come out. Refuses a corpus without a document of two tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data.manifest import Slice
from data.refusal import Refusal
from data.zip import open_shard, read_row_group
from trainer.stream import Source, Stream

BLOCK = 128  # rows of an in-memory table read together


@dataclass(frozen=True, eq=False)
class Group:
    """The samples of one prompt that are in the loss. Log-probabilities in nats, float32, one array a sample."""

    group_id: int
    prompt: list[int]
    completions: list[list[int]]
    behaviour: list[np.ndarray]
    old: list[np.ndarray] | None
    """The start policy's own log-probabilities, rescored by the training engine: π_old, and the reference of the KL."""
    advantages: np.ndarray
    chosen: np.ndarray | None
    """Which samples `raft` imitates; None: the best."""
    rewards: np.ndarray | None = None
    """Rewards of all the group's samples (NaN: invalid), where the step normalises them itself."""
    cut: np.ndarray | None = None
    """Which of all the group's samples were cut by length."""
    rows: np.ndarray | None = None
    """Places among all the group's samples of those in the loss."""
    reward: np.ndarray | None = None
    """r of the samples in the loss, float64, where the recipe has a reward that an objective reads."""
    baseline: np.ndarray | None = None
    """r̄ over all the group's valid samples, once a sample in the loss."""
    teacher: list[np.ndarray] | None = None
    """log p of the teacher on the samples' own tokens, where an objective asks for it."""
    token_advantages: list[np.ndarray] | None = None
    """λ·(v_t − mean of the group's v), one array a sample, where a token reward is asked for."""
    support: list[list[Support]] | None = None
    """The teacher's log p at several ids of each token, where an objective asks for it."""
    joined: float | None = None
    """Reward of the answer that joins the group's statistics, where the step normalises them itself."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """What is known of a pool's samples by ordinal, without their tokens."""

    starts: np.ndarray
    """First ordinal of each group."""
    in_loss: np.ndarray
    """Bool: samples that count, of groups that are kept."""
    advantages: np.ndarray
    """float32, a memory-mapped file."""
    chosen: np.ndarray | None = None
    """Bool: what `raft` imitates; None: the best of each group."""
    rewards: np.ndarray | None = None
    """float64, where the step normalises them itself."""
    joined: np.ndarray | None = None
    """(groups,) rewards of answers that join the statistics, NaN for none."""
    reward: np.ndarray | None = None
    """float64: r, where an objective reads a reward."""
    baseline: np.ndarray | None = None
    """(groups,) r̄ beside it."""
    token_valid: np.ndarray | None = None
    """Bool: samples whose token rewards are in the group's mean."""


@dataclass(frozen=True)
class Beside:
    """Slices that are read beside the samples, row by row."""

    rescored: Slice | None = None
    """Log-probabilities of the policy itself, by the training engine."""
    teacher: Slice | None = None
    """Log-probabilities of the recipe's teacher."""
    token_reward: Slice | None = None
    """A component with one value a token."""
    token_weight: float = 1.0
    """λ of that component."""
    soft: Slice | None = None
    """The teacher's log p at several ids a token (`soft_targets`)."""


@dataclass(frozen=True)
class Text:
    """One row to imitate: context (prompt, or a document's first token) and the tokens that are predicted."""

    prompt: list[int]
    completion: list[int]


@dataclass(frozen=True, eq=False)
class Support:
    """What the teacher said of one position: token ids (k,) int64, draws of each (k,) float32, their log p (k,) float32 in nats."""

    ids: np.ndarray
    counts: np.ndarray | None
    logprobs: np.ndarray | None


@dataclass(frozen=True)
class SoftText:
    """An answer in the student's tokens with the teacher's distribution at each of them."""

    prompt: list[int]
    completion: list[int]
    support: list[Support]
    """One a token of the completion."""


def lists(column: pa.ChunkedArray) -> list[np.ndarray]:
    """The rows of a list column as views of one array; a null row is an empty one."""
    array = column.combine_chunks()
    values, bounds = array.values.to_numpy(zero_copy_only=False), array.offsets.to_numpy()
    return [values[bounds[i] : bounds[i + 1]] for i in range(len(array))]


def table_source(name: str, table: pa.Table) -> Source[Text]:
    """Rows of an in-memory table with prompt_token_ids and token_ids."""
    blocks = [np.arange(min(BLOCK, table.num_rows - start)) for start in range(0, table.num_rows, BLOCK)]

    def read(order: Iterable[int]) -> Iterator[Sequence[Text]]:
        for block in order:
            rows = table.slice(block * BLOCK, BLOCK)
            pairs = zip(lists(rows.column("prompt_token_ids")), lists(rows.column("token_ids")), strict=True)
            yield [Text(prompt.tolist(), tokens.tolist()) for prompt, tokens in pairs]

    return Source(name, blocks, read)


def corpus_source(slices: Sequence[Slice]) -> Source[np.ndarray]:
    """Token ids of the training documents of corpus slices; held-out ones are never given out."""
    places, kept = [], []
    for slice_ in slices:
        for path in slice_.files:
            file = open_shard(path)
            for index in range(file.num_row_groups):
                splits = read_row_group(file, path, index, ["split"]).column("split").to_pylist()
                places.append((path, index))
                kept.append(np.asarray([i for i, split in enumerate(splits) if split == "train"], np.int64))

    def read(order: Iterable[int]) -> Iterator[Sequence[np.ndarray]]:
        for block in order:
            path, index = places[block]
            yield lists(read_row_group(open_shard(path), path, index, ["token_ids"]).column("token_ids"))

    return Source("corpus", kept, read)


class Documents:
    """Corpus documents by token count; one longer than the context is cut, every token but the first predicted once."""

    def __init__(
        self,
        source: Source[np.ndarray],
        seed: int,
        context: int | None,
        epoch: int = 0,
        position: int = 0,
        piece: int = 0,
        *,
        prefetch: int = 0,
    ):
        self.context = context
        self.piece = piece
        # the document whose pieces are being given out is read again on resume
        self.stream = Stream(source, seed, epoch, position - 1 if piece else position, prefetch=prefetch)
        self._pieces = self._cut(next(self.stream))[piece:] if piece else []

    @property
    def state(self) -> dict[str, int]:
        """Where the next piece stands."""
        return {**self.stream.state, "piece": self.piece if self._pieces else 0}

    def take(self, tokens: int) -> list[Text]:
        """Documents until so many predicted tokens are reached."""
        found: list[Text] = []
        empty = 0
        while sum(len(text.completion) for text in found) < tokens:
            if not self._pieces:
                self._pieces, self.piece = self._cut(next(self.stream)), 0
                empty = 0 if self._pieces else empty + 1
                if empty > self.stream.source.count:
                    raise Refusal("corpus: no document has two tokens", "python -m data describe corpus")
                continue
            found.append(self._pieces.pop(0))
            self.piece += 1
        return found

    def _cut(self, ids: np.ndarray) -> list[Text]:
        width = self.context or max(len(ids), 2)
        pieces = [ids[start : start + width].tolist() for start in range(0, len(ids) - 1, width - 1)]
        return [Text(piece[:1], piece[1:]) for piece in pieces]
