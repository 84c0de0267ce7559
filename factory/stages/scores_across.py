"""Scores of a pool by a model that has another tokenizer: it reads the samples' texts, byte spans bring its numbers back.

Reads `samples` (ids and texts) and both tokenizers. Makes rows of `scores` with `alignment = byte_spans`: totals are the scorer's
own, `n_scorer_tokens` its own count, `logprobs` null where a token has none. Refuses tokenizers that tell no byte offsets, and a
scorer without an end token. Objectives of single tokens (opd, minillm) refuse such scores when they train."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from data.contract import SCORES
from data.manifest import Slice
from data.refusal import Refusal
from factory.alignment import Aligned, Aligner, Pieces, Reading, align
from factory.context import Context

COLUMNS = ["group_id", "sample_index", "text", "token_ids"]
Score = Callable[[Mapping[int, list[list[int]]]], Mapping[int, list[list[float]]]]


def aligner(context: Context, role: str) -> Aligner:
    """The policy's tokenizer beside a scorer's."""
    student, scorer = context.tokens("policy"), context.tokens(role)
    if scorer.end_of_turn is None:
        raise Refusal(
            f"{role} {context.model(role).path} names no end token: a sample's end would have no score, and length be rewarded",
            "name eos_token in its tokenizer_config.json",
        )
    pieces = Pieces.of(student.tokenizer)
    end_ids = frozenset(
        i for i in student.end if not pieces.spelt([i])[0]
    )  # an end that decoding keeps is text like any other
    return Aligner(pieces, Pieces.of(scorer.tokenizer), scorer.tokenizer, end_ids, scorer.end_of_turn)


def scored_across(pair: Aligner, samples: pa.Table, scorer: str, score: Score) -> pa.Table:
    """Rows of `scores` for a shard's samples, in their order. `score`: group_id → the scorer's ids → log p of each, nats."""
    if not samples.num_rows:
        return SCORES.schema.empty_table()
    reading = pair.read(samples.column("text").to_pylist(), samples.column("token_ids").to_pylist())
    asked: dict[int, list[list[int]]] = {}
    for group, ids in zip(samples.column("group_id").to_pylist(), reading.ids, strict=True):
        asked.setdefault(group, []).append(ids)
    told = score(asked)
    logprob_m = np.array([value for group in asked for row in told[group] for value in row], np.float64)
    return _table(samples, scorer, reading, align(reading, logprob_m))


def _table(samples: pa.Table, scorer: str, reading: Reading, aligned: Aligned) -> pa.Table:
    count, missing = samples.num_rows, np.isnan(aligned.logprob_n)
    stops = np.concatenate([[0], np.cumsum(reading.student.count_x)])
    leaves = pa.array(np.where(missing, 0, aligned.logprob_n).astype(np.float32), mask=missing)
    columns: dict[str, Any] = {
        "group_id": samples.column("group_id"),
        "sample_index": samples.column("sample_index"),
        "scorer": [scorer] * count,
        "logprobs": pa.ListArray.from_arrays(pa.array(stops, pa.int32()), leaves),
        "total": [None if math.isnan(total) else total for total in aligned.total_x.tolist()],
        "alignment": ["byte_spans"] * count,
        "n_scorer_tokens": reading.scorer.count_x,
        "unaligned_share": aligned.unaligned_x,
    }
    return pa.table(columns).cast(SCORES.schema)


def say_unaligned(context: Context, made: Slice) -> None:
    """Say how many tokens have no score: the scorer's tokenizer changes or lacks their text, or the student broke it."""
    if made.path not in context.made:
        return
    share = context.lake.read(made, ["unaligned_share"]).column(0).to_numpy()
    if some := int((share > 0).sum()):
        context.remark(
            made,
            f"{share.mean():.2%} of a sample's tokens have no score, in {some:,} of {made.rows:,} samples: text that the scorer's"
            f" tokenizer changes or lacks; totals are of what it read",
        )
