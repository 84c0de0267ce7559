"""Every component of the recipe on every sample, and on every teacher answer: one slice a component.

Reads the pool, `answers`, and `scores` where a component needs them. Writes `rewards` and `answer_rewards`. A component that was
added makes its own slice and touches no other. Refuses a component whose input is not there."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from data.contract import TABLES
from data.lake import Key, Shard
from data.manifest import Slice
from data.pool import Pool, command, find_answers, find_rewards, find_scores, scorer_reading
from data.reasoning import answer_part
from data.refusal import Refusal
from data.scorers import valued
from factory.alignment import Aligner
from factory.context import Context, Work
from factory.rewards import Batch, Component, Reward, component
from factory.stages.answer_spans import Reader, Spans, answers_only, whole_again
from factory.stages.asking import with_replies
from factory.stages.scores import same_tokens
from factory.stages.scores_across import aligner
from factory.writers import asked

PROMPT_COLUMNS = ["prompt_id", "messages", "references", "answer_pattern", "language", "topic", "source", "extra"]


@dataclass(frozen=True)
class Inputs:
    """What components may read beside the samples."""

    pool: Pool
    answers: Slice | None
    scores: Mapping[str, Slice]


def run(context: Context) -> list[Slice]:
    """Publish the recipe's components for its pool and for the teacher's answers to the same prompts."""
    components = [component(spec, name) for name, spec in context.recipe.components.items()]
    if not components:
        context.say("rewards: the recipe names no component")
        return []
    pool = context.pool()
    answers = find_answers(context.lake, context.recipe, pool.prompts)
    made = []
    for item in components:
        inputs = Inputs(pool, answers, _scores(context, pool, item))
        _refuse_missing_answers(context, item, answers)
        made.append(_newest(context, item, pool.samples, _on_samples(context, item, inputs)))
        if answers is not None:
            made.append(_newest(context, item, answers, _on_answers(context, item, inputs)))
        if item.by is not None:
            context.remark_bill(made[-1])
    return made


def _newest(context: Context, item: Component, base: Slice, made: Slice) -> Slice:
    """The slice as the one that the trainer finds: a file that a setting names may have been changed, and changed back."""
    if find_rewards(context.lake, context.recipe, item.name, base).path == made.path:
        return made
    return context.lake.renew(made)


def _scores(context: Context, pool: Pool, item: Component) -> dict[str, Slice]:
    if "scores" not in item.needs:
        return {}
    role = item.scorer or "teacher"
    temperature, shown = scorer_reading(context.lake, context.recipe, pool.prompts, role)
    scorer = context.row(role)["model_id"]
    return {"scores": find_scores(context.lake, context.recipe, pool, scorer, temperature, shown)}


def _refuse_missing_answers(context: Context, item: Component, answers: Slice | None) -> None:
    if "answers" in item.needs and answers is None:
        raise Refusal(
            f"component {item.name} compares with the teacher's answers, and there are none to these prompts",
            command(context.recipe, "answers,rewards"),
        )


def _key(context: Context, item: Component, parents: tuple[Slice, ...]) -> Key:
    """What a component's values depend on; who was asked stands beside the roles' model ids."""
    settings = {"spec": valued(context.recipe.components[item.name]), "identity": item.identity()}
    if context.recipe.reasoning.settings:
        settings["reasoning"] = context.recipe.reasoning.settings
    roles = asked(item)
    if roles:
        settings["asked"] = roles
    return Key(settings, parents, {role: context.row(name)["model_id"] for role, name in roles.items()})


def _on_samples(context: Context, item: Component, inputs: Inputs) -> Slice:
    pool = inputs.pool
    needed = [inputs.answers] if "answers" in item.needs and inputs.answers else []
    parents = (pool.samples, pool.groups, pool.prompts, *inputs.scores.values(), *needed)
    key = _key(context, item, parents)

    def compute(shard: Shard, work: Work) -> pa.Table:
        columns = ["group_id", "sample_index", "text", "finish_reason", "n_tokens"]
        samples = shard.parent_rows([*columns, "token_ids"] if thinks else columns).to_pylist()
        prompts = _prompts(context, pool, shard.index)
        groups = context.lake.read_shard(pool.groups, shard.index, ["group_id", "prompt_id"]).to_pylist()
        prompt_of = {row["group_id"]: row["prompt_id"] for row in groups}
        scored = _score_rows(context, inputs, shard.index, len(samples))
        ids = [prompt_of[row["group_id"]] for row in samples]
        answers = answer_texts(context, inputs.answers if needed else None, shard.index, item.method)
        asking = [prompts[i] for i in ids]
        spans = None
        if thinks:
            spans = reader.spans([row["text"] for row in samples], [row["token_ids"] for row in samples])
            samples, scored = answers_only(samples, scored, spans)
        inputs_ = batch(samples, asking, answers, scored)
        return _rewarded(
            "rewards", item, samples, with_replies(context, item, inputs_, asking, pool.prompts, work), work, spans
        )

    thinks = bool(context.recipe.reasoning.student) and not item.whole
    reader = Reader(context, "policy", functools.cache(lambda: _pair(context, item)))
    total = pool.samples.rows
    return _reported(
        context,
        context.make("rewards", "rewards", key, item.name, compute, total=total, unit="samples"),
        item,
    )


def _pair(context: Context, item: Component) -> Aligner | None:
    """Both tokenizers, where the component reads scores by a model of another one."""
    role = item.scorer or "teacher"
    if "scores" not in item.needs or role == "policy" or same_tokens(context, role):
        return None
    return aligner(context, role)


def _on_answers(context: Context, item: Component, inputs: Inputs) -> Slice:
    answers, pool = inputs.answers, inputs.pool
    assert answers is not None
    key = _key(context, item, (answers, pool.prompts))
    columns = ["prompt_id", "candidate", "text", "finish_reason", "token_ids", "logprobs", "teacher", "derived_from"]
    thinks = bool(context.recipe.reasoning.teacher) and not item.whole
    own_scale = _answers_are_scored(answers)

    def compute(shard: Shard, work: Work) -> pa.Table:
        rows = shard.parent_rows(columns).to_pylist()
        prompts = _prompts(context, pool, shard.index)
        for row in rows:
            row["n_tokens"] = len(row["token_ids"]) if row["token_ids"] is not None else None
        scored = [_answer_score(row) if own_scale and item.scorer in (None, "teacher") else {} for row in rows]
        texts = answer_texts(context, answers if "answers" in item.needs else None, shard.index, item.method)
        asking = [prompts[row["prompt_id"]] for row in rows]
        spans = _answer_spans(context, rows) if thinks else None
        if spans is not None:
            rows, scored = answers_only(rows, scored, spans)
        inputs_ = batch(rows, asking, texts, scored)
        return _rewarded(
            "answer_rewards", item, rows, with_replies(context, item, inputs_, asking, pool.prompts, work), work, spans
        )

    return context.make("rewards", "answer_rewards", key, item.name, compute, total=answers.rows, unit="answers")


def _answer_spans(context: Context, rows: list[dict[str, Any]]) -> Spans:
    """Where answers begin in what teachers wrote; derived ones hold no reasoning. Tokens are known of the recipe's own teacher."""
    teacher = context.recipe.teacher
    own = context.row("teacher")["model_id"] if teacher is not None and teacher.endpoint is None else None
    direct = [row["derived_from"] is None for row in rows]
    ids = [r["token_ids"] if d and r["teacher"] == own else None for r, d in zip(rows, direct, strict=True)]
    found = Reader(context, "teacher").spans([row["text"] for row in rows], ids)
    starts = [start if d else 0 for start, d in zip(found.start_x, direct, strict=True)]
    return replace(found, start_x=[None if r["text"] is None else s for r, s in zip(rows, starts, strict=True)])


def _answers_are_scored(answers: Slice) -> bool:
    """Whether the answers' log-probabilities are the teacher's own at temperature 1: greedy ones are, reshaped ones are not."""
    sampling = answers.settings.get("sampling", {})
    return sampling.get("temperature") in (0.0, 1.0) and sampling.get("top_p") == 1.0


def _answer_score(row: dict[str, Any]) -> dict[str, Any]:
    if row["logprobs"] is None:
        return {}
    return {"logprobs": row["logprobs"], "total": sum(row["logprobs"]), "n_scorer_tokens": len(row["logprobs"])}


def _prompts(context: Context, pool: Pool, index: int) -> dict[int, dict[str, Any]]:
    rows = context.lake.read_shard(pool.prompts, index, [*PROMPT_COLUMNS, "teacher_messages"]).to_pylist()
    return {row["prompt_id"]: row for row in rows}


def answer_texts(
    context: Context, answers: Slice | None, index: int, method: str | None = None
) -> dict[int, list[str]]:
    """prompt_id → the answers of a method in a shard; without one those in the teachers' own words: each counts once."""
    found: dict[int, list[str]] = {}
    if answers is not None:
        for row in context.lake.read_shard(answers, index, ["prompt_id", "text", "method", "derived_from"]).to_pylist():
            meant = row["derived_from"] is None if method is None else row["method"] == method
            tags = context.recipe.reasoning.teacher if row["derived_from"] is None else []
            text = None if row["text"] is None else answer_part(row["text"], tags)
            if (
                text is not None and meant
            ):  # a teacher that refused, or thought to no end: there is nothing to compare with
                found.setdefault(row["prompt_id"], []).append(text)
    return found


def _score_rows(context: Context, inputs: Inputs, index: int, count: int) -> list[dict[str, Any]]:
    if "scores" not in inputs.scores:
        return [{}] * count
    columns = ["logprobs", "total", "n_scorer_tokens"]
    return context.lake.read_shard(inputs.scores["scores"], index, columns).to_pylist()


def batch(
    rows: list[dict[str, Any]],
    prompts: list[dict[str, Any]],
    answers: Mapping[int, list[str]],
    scored: list[dict[str, Any]],
) -> Batch:
    """Texts with what is known of their prompts, as components read them."""
    extra = [json.loads(p["extra"]) if p.get("extra") else {} for p in prompts]
    names = {name for row in extra for name in row}
    columns: dict[str, list[Any]] = {n: [row.get(n) for row in extra] for n in sorted(names)}
    columns |= {n: [p.get(n) for p in prompts] for n in ("topic", "source")}
    return Batch(
        prompts=[p["messages"] for p in prompts],
        texts=[row["text"] for row in rows],
        references=[p["references"] or [] for p in prompts],
        answers=[answers.get(p["prompt_id"], []) for p in prompts],
        finish_reasons=[row["finish_reason"] for row in rows],
        n_tokens=[row["n_tokens"] for row in rows],
        answer_patterns=[p["answer_pattern"] for p in prompts],
        languages=[p["language"] for p in prompts],
        scorer_logprobs=[s.get("logprobs") for s in scored],
        scorer_totals=[s.get("total") for s in scored],
        n_scorer_tokens=[s.get("n_scorer_tokens") for s in scored],
        columns=columns,
    )


def _rewarded(
    table: str, item: Component, rows: list[dict[str, Any]], inputs: Batch, work: Work, spans: Spans | None = None
) -> pa.Table:
    schema = TABLES[table].schema
    if not rows:
        return schema.empty_table()
    keys = TABLES[table].keys
    rewards = scored_texts(item, inputs)
    values = [r.values for r in rewards] if spans is None else whole_again(rewards, spans)
    work.done(len(rows))
    return pa.Table.from_pylist(
        [
            {**{k: row[k] for k in keys}, "value": r.value, "valid": r.valid, "values": v, "detail": r.detail}
            for row, r, v in zip(rows, rewards, values, strict=True)
        ],
        schema=schema,
    )


def scored_texts(item: Component, inputs: Batch) -> list[Reward]:
    """One reward a text; where a teacher refused there is no text, and its reward is null for every component."""
    there = [i for i, text in enumerate(inputs.texts) if text is not None]
    if len(there) == len(inputs.texts):
        return item.score(inputs)
    found = [Reward(None, False, detail=f"no answer ({reason or 'refused'})") for reason in inputs.finish_reasons]
    for i, reward in zip(there, item.score(inputs.at(there)) if there else [], strict=True):
        found[i] = reward
    return found


def _reported(context: Context, made: Slice, item: Component) -> Slice:
    """Say it when a component has nothing to say of many samples: null is not zero, and a reward of it is null too."""
    rows = context.lake.read(made, ["value", "detail"])
    missing = rows.column("value").null_count
    if missing:
        details = [d for v, d in zip(*(c.to_pylist() for c in rows.columns), strict=True) if v is None and d]
        why = f" ({max(set(details), key=details.count)})" if details else ""
        context.remark(made, f"no value for {missing:,} of {made.rows:,} samples{why}")
    return made
