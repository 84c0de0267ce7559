"""Answers that are made from answers: each step's slice keeps the rows before it and adds its own behind each prompt's.

Reads `answers` and `prompts`. Writes `answers` (the step before is the first parent; `derived_from` is PROMPT/CANDIDATE of
the answer it was made from) and `answer_tokens`. Refuses more answers to a prompt than a candidate's number holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from data.contract import ANSWERS
from data.keys import hex_id
from data.lake import Key, Shard
from data.manifest import Slice
from data.reasoning import answer_part
from data.refusal import Refusal
from data.writers import step_settings, step_writers
from factory.context import Context, Work
from factory.stages.answers import tokenised
from factory.stages.samples import MOST

PROMPT = ["prompt_id", "messages", "teacher_messages", "references", "answer_pattern", "language"]
Rows = list[dict[str, Any]]
Add = Callable[[Rows, Mapping[int, dict[str, Any]], Work], Rows]


def publish(
    context: Context, step: str, base: Slice, prompts: Slice, add: Add, asked: Mapping[str, str], version: int
) -> list[Slice]:
    """The step's answers and their tokens. `add`: a shard's answers and its prompts by id → new rows, each with `prompt_id`.

    `asked`: role → name of models that the step asks beside its writers."""
    writers = step_writers(context.recipe, step) | dict(asked)
    settings = step_settings(context.recipe, step) | {"version": version} | ({"asked": dict(asked)} if asked else {})
    models = {role: context.row(name)["model_id"] for role, name in writers.items()}
    key = Key(settings, (base, prompts), models)

    def compute(shard: Shard, work: Work) -> pa.Table:
        rows = shard.parent_rows().to_pylist()
        asked_of = {p["prompt_id"]: p for p in context.lake.read_shard(prompts, shard.index, PROMPT).to_pylist()}
        added = add([_said(context, row) for row in rows], asked_of, work)
        work.done(len(added))
        return pa.Table.from_pylist(merged(rows, added), schema=ANSWERS.schema)

    label = context.recipe.name
    made = context.make(
        step,
        "answers",
        key,
        label,
        compute,
        total=base.rows,
        unit="answers",
        ability="answer",
        asks=writers.values(),
    )
    context.remark_bill(made)
    return [made, tokenised(context, made, prompts)]


def _said(context: Context, row: dict[str, Any]) -> dict[str, Any]:
    """The row with the answer as its text, without what a teacher thought before it; None where the thought has not ended."""
    if not own_words(row):
        return row
    return {**row, "text": answer_part(row["text"], context.recipe.reasoning.teacher)}


def of(row: Mapping[str, Any], **values: Any) -> dict[str, Any]:
    """A new row made from an answer: its prompt, its teacher and its lineage, and the values given.

    What was made from an answer that was cut by length is cut too, so that it teaches no early end."""
    whole = values.get("text") is not None and row["finish_reason"] != "length"
    return {
        "prompt_id": row["prompt_id"],
        "teacher": row["teacher"],
        "derived_from": f"{hex_id(row['prompt_id'])}/{row['candidate']}",
        "finish_reason": "stop" if whole else row["finish_reason"],
        **values,
    }


def own_words(row: Mapping[str, Any]) -> bool:
    """Whether an answer is a teacher's, as the teacher said it."""
    return row["derived_from"] is None and row["text"] is not None


def merged(rows: Rows, added: Rows) -> Rows:
    """Rows of each prompt together, old ones first; the new are numbered on."""
    together: dict[int, Rows] = {}
    for row in [*rows, *added]:
        own = together.setdefault(row["prompt_id"], [])
        if len(own) == MOST:
            raise Refusal(
                f"prompt {hex_id(row['prompt_id'])} has more than {MOST} answers once others are made from them",
                "answers.n=1, or fewer co_teachers",
            )
        own.append(row if "candidate" in row else {**row, "candidate": len(own)})
    return [row for own in together.values() for row in own]
