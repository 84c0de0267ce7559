"""What the teacher holds possible at every token: of its own answers in the student's ids, or of the pool's samples.

Reads `answer_tokens` and `prompts`, or the pool. Writes `answer_soft_targets` or `soft_targets`, one row a text, beside its
parent's rows. The teacher reads its own messages in its own template, then the student's ids, at temperature 1. `student_m` asks
the policy for its most probable ids and the teacher for its log p at them, shard by shard (engine.resident=1: they take turns).
Refuses a teacher of other ids, a recipe without answers, and texts too long for the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data.contract import TABLES
from data.keys import id64
from data.lake import Shard
from data.manifest import Slice
from data.pool import (
    command,
    find_answer_tokens,
    find_answers,
    shown_to_teacher,
    soft_targets_key,
)
from data.refusal import Refusal
from factory.context import Context, Work
from factory.engines import ScoreRequest, Soft, SoftRow, SoftSpec
from factory.stages.scores import prompts_for, refuse_other_tokens, refuse_too_long

Prompts = Callable[[int, str], dict[int, list[int]]]


@dataclass(frozen=True)
class Base:
    """The texts whose tokens are looked at."""

    slice: Slice
    table: str
    """Where their targets go."""
    keys: tuple[str, str]
    prompts: Prompts
    """(shard, role) → the first key → the prompt as that role reads it."""


def run(context: Context) -> list[Slice]:
    """Publish the soft targets that the recipe asks for."""
    refuse_other_tokens(context, "leave soft_targets out of stages; answers are copied token by token all the same")
    settings = context.settings.soft_targets
    base = _answers(context) if settings.of == "answers" else _samples(context)
    scorer = context.row("teacher")["model_id"]
    spec = dict(settings.spec)
    if settings.kind == "sampled":
        spec["seed"] = context.recipe.seed
    if settings.kind == "student_m":
        spec["policy"] = context.row("policy")["model_id"]

    def compute(shard: Shard, work: Work) -> pa.Table:
        return _targets(context, base, shard, work)

    key, label = soft_targets_key(base.slice, scorer, spec), f"{base.slice.label}-{settings.kind}"
    model, unit = context.model("teacher").path, settings.of
    return [
        context.make(
            "soft_targets",
            base.table,
            key,
            label,
            compute,
            total=base.slice.rows,
            unit=unit,
            model=model,
            ability="sampled" if settings.kind == "sampled" else "top_k",
        )
    ]


def _answers(context: Context) -> Base:
    recipe, lake, prompts = context.recipe, context.lake, context.prompts()
    answers = find_answers(lake, recipe, prompts)
    if answers is None:
        raise Refusal("soft_targets: the recipe's answers are not there yet", command(recipe, "answers,soft_targets"))
    base = find_answer_tokens(lake, recipe, answers, prompts, context.row("student"))

    def shown(index: int, role: str) -> dict[int, list[int]]:
        if role == "policy":
            rows = lake.read_shard(base, index, ["prompt_id", "prompt_token_ids"]).to_pylist()
            return {row["prompt_id"]: row["prompt_token_ids"] for row in rows}
        asked = lake.read_shard(prompts, index, ["prompt_id", "messages", "teacher_messages"]).to_pylist()
        answered = set(lake.read_shard(base, index, ["prompt_id"]).column(0).to_pylist())
        tokens = context.tokens(role)
        return {
            row["prompt_id"]: tokens.prompt_ids(row["teacher_messages"] or row["messages"])
            for row in asked
            if row["prompt_id"] in answered
        }

    return Base(base, "answer_soft_targets", ("prompt_id", "candidate"), shown)


def _samples(context: Context) -> Base:
    pool = context.pool()
    shown = shown_to_teacher(context.lake, pool.prompts)

    def prompts(index: int, role: str) -> dict[int, list[int]]:
        return prompts_for(context, pool, index, role, shown)

    return Base(pool.samples, "soft_targets", ("group_id", "sample_index"), prompts)


def _targets(context: Context, base: Base, shard: Shard, work: Work) -> pa.Table:
    """The shard's rows in its parent's order. A text without tokens has a row without targets."""
    rows = shard.parent_rows([*base.keys, "token_ids"]).to_pylist()
    texts: dict[int, dict[int, list[int]]] = {}
    for row in rows:
        group = texts.setdefault(row[base.keys[0]], {})
        if row["token_ids"]:
            group[row[base.keys[1]]] = row["token_ids"]
    asked = {group: own for group, own in texts.items() if own}
    found = _asked(context, base, shard.index, asked, work) if asked else {}
    kept = {(group, j): row for group, own in asked.items() for j, row in zip(own, found[group].rows, strict=True)}
    kind = context.settings.soft_targets.kind
    made = [
        {name: row[name] for name in base.keys} | _row(kept.get((row[base.keys[0]], row[base.keys[1]])), kind)
        for row in rows
    ]
    return pa.Table.from_pylist(made, schema=TABLES[base.table].schema)


def _row(soft: SoftRow | None, kind: str) -> dict[str, Any]:
    if soft is None:
        return {"sizes": [], "ids": [], "counts": [] if kind == "sampled" else None, "logprobs": [], "kind": kind}
    return {"sizes": soft.sizes, "ids": soft.ids, "counts": soft.counts, "logprobs": soft.logprobs, "kind": kind}


def _asked(
    context: Context, base: Base, index: int, texts: Mapping[int, Mapping[int, list[int]]], work: Work
) -> dict[int, Soft]:
    """group → targets of its texts, in their order."""
    settings, width = context.settings.soft_targets, context.tokens("policy").width
    picked = SoftSpec("sampled" if settings.kind == "sampled" else "top_k", settings.draws, settings.k, width)
    ability, given = picked.kind, {}
    if settings.kind == "student_m":
        requests = _requests(context, base, index, "policy", texts)
        given = {soft.group_id: soft for soft in context.engine("policy", ability).distribution(requests, picked)}
    requests = _requests(context, base, index, "teacher", texts)
    engine = context.engine("teacher", ability)
    work.tally.device = engine.device
    read = {request.group_id: len(request.prompt_ids) for request in requests}
    found = {}
    for soft in engine.at(requests, given, width) if given else engine.distribution(requests, picked):
        found[soft.group_id] = soft
        work.done(len(soft.rows), read[soft.group_id], sum(len(row.sizes) for row in soft.rows))
    return found


def _requests(
    context: Context, base: Base, index: int, role: str, texts: Mapping[int, Mapping[int, list[int]]]
) -> list[ScoreRequest]:
    prompts = base.prompts(index, role)
    refuse_too_long(context, role, prompts, {group: list(own.values()) for group, own in texts.items()})
    seed = context.recipe.seed
    return [
        ScoreRequest(group, prompts[group], list(own.values()), [id64("soft_targets", seed, group, j) for j in own])
        for group, own in texts.items()
    ]
