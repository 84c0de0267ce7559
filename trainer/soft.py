"""Answers with the teacher's distribution at each of their tokens: what the soft-target loss copies.

Reads `answers`, `answer_tokens` and `answer_soft_targets`, joined by prompt and candidate. Refuses targets of another kind than
losses.soft_target asks for, of another length than their answer, or without the numbers that the loss reads. Leaves out, and
counts, answers that no forward pass can read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data import pool as pools
from data.keys import hex_id
from data.lake import Lake
from data.manifest import Slice
from data.refusal import Refusal
from data.selection import ANSWER_KEYS, places
from data.storage import read_shard
from data.zip import RowGroup, open_shard, read_row_group, row_groups
from trainer.config import TrainerRecipe
from trainer.replay import SoftText, Support, lists
from trainer.stream import Source

if TYPE_CHECKING:
    from trainer.sources import Reading

KINDS = {"counts": "sampled", "renormalised": "sampled", "top_k": "top_k", "student_m": "student_m"}
"""losses.soft_target → the kind of targets that it reads."""
TOKENS = ["prompt_token_ids", "token_ids"]
TARGETS = ["sizes", "ids", "counts", "logprobs"]


@dataclass(frozen=True)
class SoftReading:
    """The answers in the student's tokens, and what the teacher said at each of them."""

    tokens: Slice
    targets: Slice
    target: str
    """losses.soft_target: counts, renormalised, top_k or student_m."""


def soft_targets(lake: Lake, recipe: TrainerRecipe, reading: Reading) -> SoftReading:
    """The slices that the recipe's soft targets are read from. Refuses to lack them, with the command that makes them."""
    from trainer.imitation import teacher_answers

    target = recipe.trainer.losses.soft_target
    _, tokens = teacher_answers(lake, recipe, reading, "losses.soft=0")
    scorer = pools.find_model(lake, recipe.teacher)
    if scorer is None:
        what = "the recipe has no teacher" if recipe.teacher is None else f"{recipe.lake} has nothing by the teacher"
        raise Refusal(f"losses.soft: {what}", pools.command(recipe, "answers,soft_targets") + ", or losses.soft=0")
    found = pools.find_soft_targets(
        lake, recipe, tokens, scorer, KINDS[target], reading.start.model_id, "losses.soft=0"
    )
    return SoftReading(tokens, reading.use(found), target)


def soft_source(reading: SoftReading, context: int | None, notes: list[str]) -> Source[SoftText]:
    """The answers with their targets, those that a model of this context can read with their prompts."""
    blocks = row_groups(reading.targets)
    kept, left_out = [], 0
    answers = _Answers(reading.tokens)
    for block in blocks:
        rows = answers.beside(block, _keys(reading.targets, block))
        prompts, lengths = (pc.list_value_length(rows[name]).to_numpy() for name in TOKENS)
        fits = (prompts > 0) & (lengths > 0) & (prompts + lengths <= (context or np.inf))
        kept.append(np.flatnonzero(fits))
        left_out += int((~fits).sum())
    if not any(len(block) for block in kept):
        raise Refusal(
            f"{reading.targets.path}: none of {left_out} answers is both not empty and within the context of {context}",
            "losses.soft=0, or shorter answers",
        )
    if left_out:
        notes.append(f"answers with soft targets left out: {left_out} empty or longer than the context of {context}")

    def read(order: Iterable[int]) -> Iterator[Sequence[SoftText]]:
        beside = _Answers(reading.tokens)
        for place in order:
            yield _texts(reading, blocks[place], beside)

    return Source("soft", kept, read)


def _keys(targets: Slice, block: RowGroup) -> pa.Table:
    file = targets.files[block.shard]
    return read_row_group(open_shard(file), file, block.index, ANSWER_KEYS)


class _Answers:
    """Tokens of the answers, one shard at a time."""

    def __init__(self, tokens: Slice):
        self.tokens, self.shard, self.rows = tokens, -1, pa.table({})

    def beside(self, block: RowGroup, keys: pa.Table) -> pa.Table:
        """The answers of these keys, in their order. Refuses keys that the shard does not hold."""
        if self.shard != block.shard:
            if block.shard >= len(self.tokens.shards):
                raise Refusal(f"{self.tokens.path} has fewer shards than its soft targets", "python -m data verify")
            key = self.tokens.shards[block.shard].key
            self.rows = read_shard(self.tokens.files[block.shard], key, [*ANSWER_KEYS, *TOKENS])
            self.shard = block.shard
        wanted, there = (tuple(rows[name].to_numpy() for name in ANSWER_KEYS) for rows in (keys, self.rows))
        at = places(wanted, there)
        if (at < 0).any():
            raise Refusal(
                f"{self.tokens.path} does not hold every answer that has soft targets in shard {block.shard}",
                "python -m data verify",
            )
        return self.rows.take(pa.array(at))


def _texts(reading: SoftReading, block: RowGroup, answers: _Answers) -> list[SoftText]:
    file = reading.targets.files[block.shard]
    rows = read_row_group(open_shard(file), file, block.index, [*ANSWER_KEYS, *TARGETS])
    texts = answers.beside(block, rows)
    prompts, completions = (lists(texts[name]) for name in TOKENS)
    ids = rows[ANSWER_KEYS[0]].to_pylist()
    columns = {name: lists(rows[name]) for name in TARGETS}
    found = []
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        where = f"{reading.targets.path}: the answer to prompt {hex_id(ids[row])}"
        own = {name: columns[name][row] for name in TARGETS}
        found.append(
            SoftText(prompt.tolist(), completion.tolist(), support_of(own, len(completion), reading.target, where))
        )
    return found


def support_of(own: Mapping[str, np.ndarray], tokens: int, target: str, where: str) -> list[Support]:
    """One a token. own: sizes (tokens,), and ids, counts, logprobs flat; a list that is not there is empty.

    `target`, a word of losses.soft_target, says which numbers must be there."""
    next_command = "python -m data verify, or the factory's stage soft_targets again"
    sizes, ids = own["sizes"], own["ids"]
    if len(sizes) != tokens or int(sizes.sum()) != len(ids) or (sizes < 1).any():
        raise Refusal(
            f"{where} has {tokens} tokens and soft targets at {len(sizes)}, {len(ids)} ids for {int(sizes.sum())}",
            next_command,
        )
    needed = "counts" if target == "counts" else "logprobs"
    for name in ("counts", "logprobs"):
        if len(own[name]) != len(ids) and (name == needed or len(own[name])):
            raise Refusal(f"{where} has {len(own[name])} {name} for {len(ids)} ids", next_command)
    cuts = np.cumsum(sizes)[:-1]

    def cut(name: str) -> list[np.ndarray] | list[None]:
        values = own[name]
        return np.split(values.astype(np.float32), cuts) if len(values) else [None] * tokens

    pieces = np.split(ids.astype(np.int64), cuts)
    return [Support(*one) for one in zip(pieces, cut("counts"), cut("logprobs"), strict=True)]
