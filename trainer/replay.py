"""What a step is made of, read from the lake in seeded order: groups of the pool, answers to imitate, corpus documents.

Reads `samples` zipped with the policy's rescored `scores`, `groups`, and the tables of answers and documents. Only groups and
samples that are in the loss come out. Refuses a missing or all-zero μ, and groups that are not those of the samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data.advantages import is_truncated
from data.keys import hex_id
from data.manifest import Slice
from data.refusal import Refusal
from data.storage import read_shard
from data.zip import RowGroup, open_shard, read_row_group, row_groups, zip_groups
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
    """r of the samples in the loss, float64, where an objective asks for it."""
    baseline: np.ndarray | None = None
    """r̄ over all the group's valid samples, once a sample in the loss."""
    teacher: list[np.ndarray] | None = None
    """log p of the teacher on the samples' own tokens, where an objective asks for it."""
    token_advantages: list[np.ndarray] | None = None
    """λ·(v_t − mean of the group's v), one array a sample, where a token reward is asked for."""


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


@dataclass(frozen=True)
class Text:
    """One row to imitate: context (prompt, or a document's first token) and the tokens that are predicted."""

    prompt: list[int]
    completion: list[int]


def lists(column: pa.ChunkedArray) -> list[np.ndarray]:
    """The rows of a list column as views of one array; a null row is an empty one."""
    array = column.combine_chunks()
    values, bounds = array.values.to_numpy(zero_copy_only=False), array.offsets.to_numpy()
    return [values[bounds[i] : bounds[i + 1]] for i in range(len(array))]


def pool_source(samples: Slice, groups: Slice, rescored: Slice | None, vectors: Vectors) -> Source[Group]:
    """The pool's groups that have a sample in the loss, with those samples."""
    refuse_behaviour(samples)
    blocks, starts = row_groups(samples), vectors.starts
    bounds = [*starts.tolist(), len(vectors.in_loss)]
    counts = np.add.reduceat(vectors.in_loss.astype(np.int64), starts) if len(starts) else np.zeros(0, np.int64)
    first = np.searchsorted(starts, [b.ordinal for b in blocks])
    last = np.searchsorted(starts, [b.ordinal + b.rows for b in blocks])
    others = {} if rescored is None else {"rescored": (rescored, ["logprobs"])}
    shard_first = np.searchsorted(starts, np.cumsum([0, *(s.rows for s in samples.shards)]))
    columns = ["token_ids", "behaviour_logprobs", *(["finish_reason"] if vectors.rewards is not None else [])]

    def read(order: Iterable[int]) -> Iterator[Sequence[Group]]:
        order = list(order)
        prompts = _Prompts(groups)
        for place, table in zip(order, zip_groups(samples, others, columns=columns, order=order), strict=True):
            spans = [(bounds[g], bounds[g + 1]) for g in range(first[place], last[place])]
            ids = prompts.of(blocks[place], first[place] - shard_first[blocks[place].shard], len(spans))
            yield list(_groups(_Block(table), spans, ids, vectors, samples.path))

    kept = [np.flatnonzero(counts[first[k] : last[k]]) for k in range(len(blocks))]
    return Source("pool", kept, read)


class _Block:
    """The columns of one row group of the zipped pool as lists of arrays."""

    def __init__(self, table: pa.Table):
        self.origin = int(table.column("ordinal")[0].as_py())
        self.ids = table.column("group_id").to_numpy()
        self.tokens, self.behaviour = lists(table.column("token_ids")), lists(table.column("behaviour_logprobs"))
        names = table.column_names
        self.old = lists(table.column("rescored.logprobs")) if "rescored.logprobs" in names else None
        self.cut = is_truncated(table.column("finish_reason")) if "finish_reason" in names else None


def _groups(
    block: _Block, spans: list[tuple[int, int]], prompts: list[tuple[int, np.ndarray]], vectors: Vectors, where: str
) -> Iterator[Group]:
    for (start, end), (group_id, prompt) in zip(spans, prompts, strict=True):
        if group_id != block.ids[start - block.origin]:
            raise Refusal(f"{where}: its groups slice holds other groups", "python -m data verify")
        rows = start + np.flatnonzero(vectors.in_loss[start:end])
        local = [row - block.origin for row in rows.tolist()]
        for row in local:
            _refuse_lengths(block, row, group_id, where)
        whole = slice(start - block.origin, end - block.origin)
        yield Group(
            int(group_id),
            prompt.tolist(),
            [block.tokens[row].tolist() for row in local],
            [block.behaviour[row] for row in local],
            None if block.old is None else [block.old[row] for row in local],
            np.asarray(vectors.advantages[rows], np.float32),
            None if vectors.chosen is None else vectors.chosen[rows],
            None if vectors.rewards is None else vectors.rewards[start:end],
            None if block.cut is None else block.cut[whole],
            rows - start,
        )


def _refuse_lengths(block: _Block, row: int, group_id: int, where: str) -> None:
    tokens = len(block.tokens[row])
    for name, values in (("behaviour", block.behaviour[row]), ("rescored", block.old[row] if block.old else None)):
        if values is not None and len(values) != tokens:
            raise Refusal(
                f"{where}: a sample of group {hex_id(group_id)} has {tokens} tokens and {len(values)} {name} "
                f"log-probabilities",
                "sample or import the pool again with python -m factory",
            )


class _Prompts:
    """Prompt ids of the groups slice, one shard at a time."""

    def __init__(self, groups: Slice):
        self.groups, self.shard, self.ids, self.tokens = groups, -1, np.zeros(0, np.uint64), list[np.ndarray]()

    def of(self, block: RowGroup, first: int, count: int) -> list[tuple[int, np.ndarray]]:
        """(group id, prompt ids) of `count` groups of a shard, from its group number `first` on."""
        if self.shard != block.shard:
            file, key = self.groups.files[block.shard], self.groups.shards[block.shard].key
            table = read_shard(file, key, ["group_id", "prompt_token_ids"])
            self.shard, self.ids = block.shard, table.column("group_id").to_numpy()
            self.tokens = lists(table.column("prompt_token_ids"))
        return list(zip(self.ids[first : first + count].tolist(), self.tokens[first : first + count], strict=True))


def refuse_behaviour(samples: Slice) -> None:
    """Refuse a pool whose μ is missing or zero in a whole row group; reads the statistics in the footers only."""
    for path in samples.files:
        metadata = open_shard(path).metadata
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            columns = [group.column(c) for c in range(group.num_columns)]
            column = next(c for c in columns if c.path_in_schema.startswith("behaviour_logprobs"))
            statistics = column.statistics
            missing = statistics is not None and (statistics.null_count or not statistics.has_min_max)
            zero = statistics is not None and statistics.has_min_max and statistics.min == statistics.max == 0
            if missing or zero:
                raise Refusal(
                    f"{samples.path}: behaviour log-probabilities are {'all zero' if zero else 'missing'}: the ratio would "
                    f"silently be wrong",
                    "sample the pool with python -m factory, or import it without them: they are rescored then",
                )


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
    ):
        self.context = context
        self.piece = piece
        # the document whose pieces are being given out is read again on resume
        self.stream = Stream(source, seed, epoch, position - 1 if piece else position)
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
