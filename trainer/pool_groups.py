"""The pool as a source of groups, a row group at a time: samples zipped with what is said of them elsewhere.

Reads `samples` and `groups`, the policy's and the teacher's `scores`, the teacher's `soft_targets`, and a component's values a
token. Only groups and samples that are in the loss come out. Refuses a missing or all-zero μ, lists of another length than their
tokens, foreign groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from data.advantages import is_truncated
from data.keys import hex_id
from data.manifest import Slice
from data.refusal import Refusal
from data.storage import read_shard
from data.zip import RowGroup, open_shard, row_groups, zip_groups
from trainer.replay import Beside, Group, Support, Vectors, lists
from trainer.soft import TARGETS, support_of
from trainer.stream import Source

# alias beside the samples → its column, and what its numbers are called in refusals
COLUMNS = {"rescored": "logprobs", "teacher": "logprobs", "token_reward": "values"}
CALLED = {
    "rescored": "rescored log-probabilities",
    "teacher": "teacher's log-probabilities",
    "token_reward": "token rewards",
}


def pool_source(
    samples: Slice, groups: Slice, beside: Beside, vectors: Vectors, blocks: Sequence[RowGroup] | None = None
) -> Source[Group]:
    """The pool's groups that have a sample in the loss, with those samples. `blocks`: the samples' row groups, where known."""
    blocks, starts = blocks or row_groups(samples), vectors.starts
    bounds = np.append(starts, len(vectors.in_loss))
    counts = np.add.reduceat(vectors.in_loss.astype(np.int64), starts) if len(starts) else np.zeros(0, np.int64)
    first = np.searchsorted(starts, [b.ordinal for b in blocks])
    last = np.searchsorted(starts, [b.ordinal + b.rows for b in blocks])
    others = {
        alias: (slice_, [column]) for alias, column in COLUMNS.items() if (slice_ := getattr(beside, alias)) is not None
    }
    if beside.soft is not None:
        others["soft"] = (beside.soft, TARGETS)
    shard_first = np.searchsorted(starts, np.cumsum([0, *(s.rows for s in samples.shards)]))
    columns = ["token_ids", "behaviour_logprobs", *(["finish_reason"] if vectors.rewards is not None else [])]

    def read(order: Iterable[int]) -> Iterator[Sequence[Group]]:
        order = list(order)
        prompts = _Prompts(groups)
        for place, table in zip(
            order, zip_groups(samples, others, columns=columns, order=order, groups=blocks), strict=True
        ):
            numbers = range(int(first[place]), int(last[place]))
            ids = prompts.of(blocks[place], first[place] - shard_first[blocks[place].shard], len(numbers))
            block = _Block(table, samples.path)
            yield [
                _group(block, number, slice(int(bounds[number]), int(bounds[number + 1])), *named, vectors, beside)
                for number, named in zip(numbers, ids, strict=True)
            ]

    kept = [np.flatnonzero(counts[first[k] : last[k]]) for k in range(len(blocks))]
    return Source("pool", kept, read)


class _Block:
    """The columns of one row group of the zipped pool as lists of arrays."""

    def __init__(self, table: pa.Table, where: str):
        self.where, self.origin = where, int(table.column("ordinal")[0].as_py())
        self.ids = table.column("group_id").to_numpy()
        self.tokens, self.behaviour = lists(table.column("token_ids")), lists(table.column("behaviour_logprobs"))
        names = table.column_names
        self.beside = {
            alias: lists(table.column(f"{alias}.{column}"))
            for alias, column in COLUMNS.items()
            if f"{alias}.{column}" in names
        }
        self.soft = {one: lists(table.column(f"soft.{one}")) for one in TARGETS} if "soft.ids" in names else None
        self.cut = is_truncated(table.column("finish_reason")) if "finish_reason" in names else None

    def check(self, row: int, what: str, values: np.ndarray) -> np.ndarray:
        """The values, one a token of the sample at this row; another length is refused."""
        if len(values) != len(self.tokens[row]):
            raise Refusal(
                f"{self.where}: a sample of group {hex_id(int(self.ids[row]))} has {len(self.tokens[row])} tokens and "
                f"{len(values)} {what}",
                "sample or import the pool again with python -m factory",
            )
        return values

    def of(self, alias: str, rows: Sequence[int]) -> list[np.ndarray] | None:
        """What stands beside these rows, None where nothing of that name was read."""
        found = self.beside.get(alias)
        return None if found is None else [self.check(row, CALLED[alias], found[row]) for row in rows]

    def support(self, rows: Sequence[int], slice_: Slice | None) -> list[list[Support]] | None:
        """The teacher's log p at several ids of each token of these rows; None where it was not read."""
        if self.soft is None or slice_ is None:
            return None
        return [
            support_of(
                {name: values[row] for name, values in self.soft.items()},
                len(self.tokens[row]),
                "top_k",
                f"{slice_.path}: a sample of group {hex_id(int(self.ids[row]))}",
            )
            for row in rows
        ]


def _group(
    block: _Block, number: int, span: slice, group_id: int, prompt: np.ndarray, vectors: Vectors, beside: Beside
) -> Group:
    if group_id != block.ids[span.start - block.origin]:
        raise Refusal(f"{block.where}: its groups slice holds other groups", "python -m data verify")
    rows = span.start + np.flatnonzero(vectors.in_loss[span])
    local = [row - block.origin for row in rows.tolist()]
    here = slice(span.start - block.origin, span.stop - block.origin)
    behaviour = [block.check(row, "behaviour log-probabilities", block.behaviour[row]) for row in local]
    joined = vectors.joined[number] if vectors.joined is not None and vectors.rewards is not None else np.nan
    baseline = None if vectors.baseline is None else np.full(len(rows), vectors.baseline[number])
    return Group(
        group_id=int(group_id),
        prompt=prompt.tolist(),
        completions=[block.tokens[row].tolist() for row in local],
        behaviour=behaviour,
        old=block.of("rescored", local),
        advantages=np.asarray(vectors.advantages[rows], np.float32),
        chosen=_at(vectors.chosen, rows),
        rewards=_at(vectors.rewards, span),
        cut=_at(block.cut, here),
        rows=rows - span.start,
        reward=_at(vectors.reward, rows),
        baseline=baseline,
        teacher=block.of("teacher", local),
        token_advantages=_token_advantages(block, local, here, span, vectors, beside.token_weight),
        support=block.support(local, beside.soft),
        joined=None if np.isnan(joined) else float(joined),
    )


def _at(values: np.ndarray | None, rows: np.ndarray | slice) -> np.ndarray | None:
    return None if values is None else values[rows]


def _token_advantages(
    block: _Block, local: Sequence[int], here: slice, span: slice, vectors: Vectors, weight: float
) -> list[np.ndarray] | None:
    if "token_reward" not in block.beside or vectors.token_valid is None:
        return None
    counted = (here.start + np.flatnonzero(vectors.token_valid[span])).tolist()
    values = dict(zip(counted, block.of("token_reward", counted) or [], strict=True))
    return token_advantages([values[row] for row in local], list(values.values()), weight)


def token_advantages(values: Sequence[np.ndarray], counted: Sequence[np.ndarray], weight: float) -> list[np.ndarray]:
    """λ·(v_t − v̄) float32, one array a sample; v̄ is the mean over all tokens of the group's counted samples (MATH §3).

    A token without a value (NaN: of a reasoning, where the answer alone is judged) is in no mean, and nothing is added to it."""
    everything = np.concatenate(counted).astype(np.float64)
    everything = everything[~np.isnan(everything)]
    mean = everything.mean() if len(everything) else 0.0
    return [np.nan_to_num(weight * (row.astype(np.float64) - mean)).astype(np.float32) for row in values]


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


def refuse_behaviour(samples: Slice) -> list[RowGroup]:
    """Refuse a pool whose μ is missing or zero in a whole row group; reads the footers only, and gives their row groups."""
    found = list[RowGroup]()
    for block, missing, zero in _statistics(samples, "behaviour_logprobs"):
        if missing or zero:
            raise Refusal(
                f"{samples.path}: behaviour log-probabilities are {'all zero' if zero else 'missing'}: the ratio would "
                f"silently be wrong",
                "sample the pool with python -m factory, or import it without them: they are rescored then",
            )
        found.append(block)
    return found


def refuse_unscored(scores: Slice, next_command: str) -> None:
    """Refuse scores that some sample has none of, or that were brought over from other tokens; reads footers only."""
    for file in scores.files:
        metadata = open_shard(file).metadata
        for index in range(metadata.num_row_groups):
            alignment = _column(metadata.row_group(index), "alignment").statistics
            if alignment is None or not (alignment.has_min_max and alignment.min == alignment.max == "same_tokenizer"):
                raise Refusal(
                    f"{scores.path}: a teacher of another tokenizer scored runs of tokens, not the student's own tokens one by one",
                    "'reward=teacher_loglik' objective=grpo, or a teacher of the student's tokenizer",
                )
    if any(missing for _, missing, _ in _statistics(scores, "logprobs")):
        raise Refusal(f"{scores.path}: the log-probabilities of some samples are null", next_command)


def has_values(rewards: Slice) -> bool:
    """Whether a component carries numbers a token; reads footers only."""
    columns = (
        _column(metadata.row_group(index), "values").statistics
        for metadata in (open_shard(file).metadata for file in rewards.files)
        for index in range(metadata.num_row_groups)
    )
    return any(statistics is not None and statistics.has_min_max for statistics in columns)


def _statistics(slice_: Slice, column: str) -> Iterator[tuple[RowGroup, bool, bool]]:
    """(row group, some missing, all zero) in the slice's order."""
    ordinal = 0
    for shard, file in enumerate(slice_.files):
        metadata, start = open_shard(file).metadata, 0
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            statistics = _column(group, column, file).statistics
            there = statistics is not None and statistics.has_min_max
            missing = statistics is not None and bool(statistics.null_count or not there)
            if group.num_rows:
                zero = there and statistics.min == statistics.max == 0
                yield RowGroup(shard, index, start, group.num_rows, ordinal), missing, bool(zero)
            start, ordinal = start + group.num_rows, ordinal + group.num_rows


def _column(group: Any, name: str, file: Any = "a shard") -> Any:
    columns = (group.column(number) for number in range(group.num_columns))
    for column in columns:
        if column.path_in_schema.split(".")[0] == name:
            return column
    raise Refusal(f"{file} has no column {name}: it is a file of another table", "python -m data verify")
