"""Best-of-N: filter, then rank, then choose among the samples and the teacher's answers of each prompt.

Reads `samples`, `groups`, `rewards`, `answers`, `answer_tokens`, `answer_rewards`. Writes nothing: the factory publishes the result
as `selections`, the trainer uses it live. The filter comes first: ranked first, a candidate that is then filtered out takes its
rival with it. A null filter does not pass, a null score is not ranked, and equal scores prefer samples, then the lower index."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.advantages import evaluate, starts_of
from data.contract import SELECTIONS, TOKENS
from data.expression import compile_expression
from data.lake import Lake
from data.manifest import Slice
from data.refusal import Refusal
from data.scalars import read_scalars
from data.segments import per_row

ANSWER_KEYS = ("prompt_id", "candidate")


@dataclass(frozen=True)
class Candidates:
    """The slices that candidates come from. Without `answers`, samples compete alone."""

    samples: Slice
    groups: Slice
    rewards: Mapping[str, Slice]
    answers: Slice | None = None
    answer_tokens: Slice | None = None
    answer_rewards: Mapping[str, Slice] = field(default_factory=dict)


def select(
    samples: pa.Table,
    answers: pa.Table | None,
    reward: str,
    where: str | None,
    names: Collection[str],
    *,
    best: int = 1,
) -> pa.Table:
    """Rows of `selections` without token ids, prompts in the order of `samples` (then of `answers`), samples before answers.

    samples: prompt_id, group_id, sample_index and what the expressions name; answers: prompt_id, candidate and the same; a
    column that one of them lacks is null there. Group functions run over all candidates of a prompt. `best`: how many of the
    first ranks are chosen."""
    expression = compile_expression(reward, names)
    condition = compile_expression(where, names) if where else None
    rows = _together(samples, answers)
    starts = starts_of(rows["prompt_id"])
    score = evaluate(expression, _with(rows, expression.names), starts=starts)
    passed = np.ones(len(score), bool)
    if condition:
        passed = evaluate(condition, _with(rows, condition.names), starts=starts) > 0  # NaN is not above 0
    rank, quantile = _ranked(np.where(passed, score, np.nan), starts)
    columns = {
        "prompt_id": rows["prompt_id"],
        "source": rows["source"],
        "group_id": rows["group_id"],
        "candidate": rows["candidate"],
        "score": pa.array(score, from_pandas=True),
        "passed": pa.array(passed),
        "rank": pa.array(rank, pa.int32(), mask=rank == 0),
        "quantile": pa.array(quantile, pa.float32(), mask=rank == 0),
        "chosen": pa.array((rank > 0) & (rank <= best)),
    }
    schema = pa.schema([SELECTIONS.schema.field(name) for name in columns])
    return pa.table(columns).cast(schema)


def _together(samples: pa.Table, answers: pa.Table | None) -> pa.Table:
    """Samples and answers as one table, candidates of a prompt side by side, in the prompts' first order."""
    parts = [{"source": pa.repeat("sample", len(samples)), "candidate": samples["sample_index"]}]
    parts[0] |= {name: _plain(samples[name]) for name in samples.column_names}
    if answers is not None:
        parts[0]["method"] = pa.repeat("sample", len(samples))
        parts.append({"source": pa.repeat("answer", len(answers)), "group_id": pa.nulls(len(answers), pa.uint64())})
        parts[1] |= {name: _plain(answers[name]) for name in answers.column_names}
    rows = pa.concat_tables([pa.table(p) for p in parts], promote_options="permissive").combine_chunks()
    ids = rows["prompt_id"].to_numpy()
    _, first, code = np.unique(ids, return_index=True, return_inverse=True)
    return rows.take(pa.array(np.argsort(first[code], kind="stable")))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _with(rows: pa.Table, names: Collection[str]) -> pa.Table:
    """The named columns; one that neither samples nor answers have is refused by `evaluate`."""
    return rows.select([name for name in rows.column_names if name in names])


def _ranked(score: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank (1 is best, 0: not ranked) and the share of ranked candidates that score no higher, per prompt."""
    rows = len(score)
    prompt = per_row(np.arange(len(starts)), starts, rows)
    order = np.lexsort((np.arange(rows), -score, prompt))  # NaN last; equal scores in the rows' own order
    rank = np.empty(rows, np.int64)
    rank[order] = np.arange(rows) - per_row(starts, starts, rows) + 1
    ranked = ~np.isnan(score)
    rank[~ranked] = 0
    count = per_row(np.add.reduceat(ranked, starts, dtype=np.int64) if rows else starts, starts, rows)
    # In order, the candidates that score strictly higher than one's own score end where its run of equals begins.
    sorted_score, sorted_prompt = score[order], prompt[order]
    new = np.ones(rows, bool)
    new[1:] = (sorted_score[1:] != sorted_score[:-1]) | (sorted_prompt[1:] != sorted_prompt[:-1])
    run_start = np.maximum.accumulate(np.where(new, np.arange(rows), 0)) if rows else np.zeros(0, np.int64)
    higher = np.empty(rows, np.int64)
    higher[order] = run_start - per_row(starts, starts, rows)
    return rank, np.where(ranked, (count - higher) / np.maximum(count, 1), np.nan)


def sample_columns(lake: Lake, source: Candidates) -> pa.Table:
    """Every sample with its prompt, scalars and components."""
    columns = read_scalars(source.samples, source.rewards)
    groups = lake.read(source.groups, ["group_id", "prompt_id"])
    place = places((columns["group_id"].to_numpy(),), (groups["group_id"].to_numpy(),))
    if (place < 0).any():
        raise Refusal(f"{source.samples.path} holds groups that {source.groups.path} does not", "python -m data verify")
    return columns.append_column("prompt_id", groups["prompt_id"].take(pa.array(place)))


def answer_columns(lake: Lake, source: Candidates) -> pa.Table | None:
    """Every teacher answer with its components, and its length in the student's tokens where `answer_tokens` is given."""
    if source.answers is None:
        return None
    wanted = ["finish_reason", "method", "check_score"]
    columns = read_scalars(source.answers, source.answer_rewards, columns=wanted, keys=ANSWER_KEYS)
    columns = columns.append_column("origin", pa.array(["teacher"] * len(columns), pa.string()))
    if source.answer_tokens is None:
        return columns
    tokens = lake.read(source.answer_tokens, [*ANSWER_KEYS, "token_ids"])
    if not all(tokens[key].equals(columns[key]) for key in ANSWER_KEYS):
        raise Refusal(
            f"{source.answer_tokens.path} holds other answers than {source.answers.path}", "python -m data verify"
        )
    return columns.append_column("n_tokens", pc.list_value_length(tokens["token_ids"]))


def best_of_n(lake: Lake, source: Candidates, reward: str, where: str | None, *, best: int = 1) -> pa.Table:
    """The whole of `selections` for a pool: candidates from slices, selected, token ids filled in for the chosen."""
    labels = sorted({*source.rewards, *source.answer_rewards})
    selected = select(sample_columns(lake, source), answer_columns(lake, source), reward, where, labels, best=best)
    return with_tokens(lake, source, selected)


def with_tokens(lake: Lake, source: Candidates, selected: pa.Table) -> pa.Table:
    """`selected` with prompt_token_ids and token_ids at chosen rows: the ids drawn, or the answer in the student's tokens."""
    chosen = np.flatnonzero(selected["chosen"].to_numpy())
    is_sample = (selected["source"].to_numpy(zero_copy_only=False) == "sample")[chosen]
    samples, answers = chosen[is_sample], chosen[~is_sample]
    found: dict[str, list[Found]] = {"prompt_token_ids": [], "token_ids": []}
    groups, index = _numbers(selected, "group_id", samples), _numbers(selected, "candidate", samples)
    for number in range(len(source.samples.shards)):
        shard = lake.read_shard(source.samples, number, ["group_id", "sample_index", "token_ids"])
        found["token_ids"].append(_found(samples, (groups, index), shard, ("group_id", "sample_index"), "token_ids"))
    table = lake.read(source.groups, ["group_id", "prompt_token_ids"])
    found["prompt_token_ids"].append(_found(samples, (groups,), table, ("group_id",), "prompt_token_ids"))
    if len(answers):
        if source.answer_tokens is None:
            raise Refusal(
                "a teacher answer was chosen, but there is no slice of answer_tokens", "run the stage answers"
            )
        table = lake.read(source.answer_tokens, [*ANSWER_KEYS, *found])
        keys = (_numbers(selected, "prompt_id", answers), _numbers(selected, "candidate", answers))
        for column, parts in found.items():
            parts.append(_found(answers, keys, table, ANSWER_KEYS, column))
    for column, parts in found.items():
        if sum(len(rows) for rows, _ in parts) != len(chosen):
            raise Refusal(f"{column} of some chosen candidates are in no slice given", "python -m data verify")
        selected = selected.append_column(column, _scattered(parts, len(selected)))
    return selected


def _numbers(table: pa.Table, name: str, rows: np.ndarray) -> np.ndarray:
    return table[name].take(pa.array(rows)).to_numpy()


Found = tuple[np.ndarray, pa.Array]


def _found(
    rows: np.ndarray, wanted: tuple[np.ndarray, ...], table: pa.Table, keys: tuple[str, ...], column: str
) -> Found:
    """Those of `rows` whose keys `wanted` the table holds, and its `column` for them."""
    place = places(wanted, tuple(table[key].to_numpy() for key in keys))
    here = place >= 0
    return rows[here], table[column].take(pa.array(place[here])).combine_chunks()


def places(wanted: tuple[np.ndarray, ...], there: tuple[np.ndarray, ...]) -> np.ndarray:
    """The position of each wanted key among those there, −1 where it is not. A key: (uint64,) or (uint64, uint8)."""
    if not len(there[0]):
        return np.full(len(wanted[0]), -1)
    known = np.unique(there[0])

    def codes(key: tuple[np.ndarray, ...]) -> np.ndarray:
        place = np.searchsorted(known, key[0]).clip(max=len(known) - 1)
        second = key[1].astype(np.int64) if len(key) > 1 else 0
        return np.where(known[place] == key[0], place * 256 + second, -1)

    own, theirs = codes(wanted), codes(there)
    order = np.argsort(theirs)
    at = order[np.searchsorted(theirs[order], own).clip(max=len(theirs) - 1)]
    return np.where(theirs[at] == own, at, -1)


def _scattered(parts: list[tuple[np.ndarray, pa.Array]], count: int) -> pa.Array:
    """Lists at their rows, null elsewhere."""
    values = pa.concat_arrays([pa.array(p).cast(TOKENS) for _, p in parts])
    source = np.full(count, -1, np.int64)
    source[np.concatenate([r for r, _ in parts])] = np.arange(len(values))
    return values.take(pa.array(source, mask=source < 0))
