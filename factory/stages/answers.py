"""The teacher's answers to train prompts, and the same answers in the student's tokens.

Reads train `prompts` (nothing held out, ever). Writes `answers`, the teacher's alone (with `co_teachers` a slice each, and one of
all), and `answer_tokens`, one student tokenizer's. A prompt's `teacher_messages` are asked in place of its messages."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from data.contract import ANSWER_TOKENS, ANSWERS
from data.keys import id64
from data.lake import Key, Shard
from data.manifest import Slice
from data.pool import answer_tokens_key, answers_key, find_own_answers
from data.reasoning import answer_part
from data.refusal import Refusal
from data.writers import step_settings, translated_prompts
from factory.context import Context, Work
from factory.engines import Answer, ChatRequest, TokenSampling
from factory.stages.answer_spans import refuse_lost_tags
from factory.stages.samples import MOST, train_count, train_rows


def run(context: Context) -> list[Slice]:
    """Ask the recipe's teacher, unless its answers are imported, and put the answers into the student's tokens."""
    teacher = context.recipe.teacher
    if teacher is not None and teacher.endpoint is None:
        refuse_lost_tags(context, "teacher")
    imported = any(source.kind == "answers" for source in context.settings.imports.values())
    if teacher is None and not imported:
        context.say("answers: the recipe has no teacher, nothing to ask")
        return []
    prompts = context.prompts()
    answers = find_own_answers(context.lake, context.recipe, prompts) if imported else _ask(context, prompts, "teacher")
    if answers is None:
        raise Refusal("answers: the recipe's answers are not imported yet", "stages=[prompts,import]")
    others = [_ask(context, prompts, name) for name in context.recipe.co_teachers]
    for made in (answers, *others):
        context.remark_bill(made)
        if made.path in context.made:
            _warn_missing(context, made)
    if others:
        answers = _together(context, answers, others, prompts)
    return [answers, tokenised(context, answers, prompts)]


def _together(context: Context, own: Slice, others: list[Slice], prompts: Slice) -> Slice:
    """The teacher's answers, the co-teachers' behind them: a slice each, so that another co-teacher asks nobody twice."""
    from factory.stages.derived import merged

    recipe = context.recipe
    models = {name: context.row(name)["model_id"] for name in recipe.co_teachers}
    key = Key(step_settings(recipe, "co_teachers"), (own, *others, prompts), models)

    def compute(shard: Shard, work: Work) -> pa.Table:
        first = shard.parent_rows().to_pylist()
        more = [row for other in others for row in context.lake.read_shard(other, shard.index).to_pylist()]
        work.done(len(more))
        rows = merged(first, [{k: v for k, v in row.items() if k != "candidate"} for row in more])
        return pa.Table.from_pylist(rows, schema=ANSWERS.schema)

    total = sum(other.rows for other in others)
    return context.make("answers", "answers", key, recipe.name, compute, total=total, unit="answers")


def _ask(context: Context, prompts: Slice, role: str) -> Slice:
    recipe, teacher = context.recipe, context.row(role)
    if not 1 <= recipe.answers.n <= MOST:
        raise Refusal(f"answers.n is {recipe.answers.n}; a prompt has 1 to {MOST} answers", "answers.n=1")
    key = answers_key(recipe, prompts, teacher["model_id"])

    def compute(shard: Shard, work: Work) -> pa.Table:
        rows = train_rows(
            shard.parent_rows(["prompt_id", "messages", "teacher_messages", "split", "language"])
        ).to_pylist()
        return _answered(context, role, rows, work) if rows else ANSWERS.schema.empty_table()

    total = train_count(prompts) * recipe.answers.n
    label, name = recipe.name + ("" if role == "teacher" else f"-{role}"), context.model(role).path
    ability = "answer" if context.model("teacher").endpoint is None else "ask"
    return context.make(
        "answers", "answers", key, label, compute, total=total, unit="answers", model=name, ability=ability, asks=[role]
    )


def _answered(context: Context, role: str, rows: list[dict[str, Any]], work: Work) -> pa.Table:
    recipe, engine, teacher = context.recipe, context.text_engine(role, "answers"), context.row(role)["model_id"]
    work.tally.device = engine.device
    sampling = {k: v for k, v in asdict(recipe.answers).items() if k != "n"}
    if context.model(role).endpoint is None:
        drawn = TokenSampling(**sampling, stop_ids=tuple(context.stop_ids(role, [])))
        _refuse_too_long(context, role, rows)
    else:  # the server ends its answers by itself, and says which prompts are too long
        drawn = TokenSampling(**sampling)
    requests = [
        ChatRequest(
            row["prompt_id"],
            row["teacher_messages"] or row["messages"],
            [id64("answer", recipe.seed, row["prompt_id"], i) for i in range(recipe.answers.n)],
            drawn,
        )
        for row in rows
    ]
    there = translated_prompts(recipe) or {}
    told = {row["prompt_id"]: {"language": there["language"]} for row in rows if there and row["teacher_messages"]}
    found: dict[tuple[int, int], Answer] = {}
    for answer in engine.answer(requests):
        found[answer.request_id, answer.candidate] = answer
        first = answer.n_prompt_tokens if answer.candidate == 0 else 0
        work.done(1, first or 0, len(answer.token_ids or []))
    return pa.Table.from_pylist(
        [
            _row(row, found[row["prompt_id"], i], teacher) | told.get(row["prompt_id"], {})
            for row in rows
            for i in range(recipe.answers.n)
        ],
        schema=ANSWERS.schema,
    )


def _refuse_too_long(context: Context, role: str, rows: list[dict[str, Any]]) -> None:
    from factory.stages.samples import prompt_ids

    shown = [row["teacher_messages"] or row["messages"] for row in rows]
    table = pa.table({"prompt_id": pa.array([row["prompt_id"] for row in rows], pa.uint64()), "messages": shown})
    prompt_ids(context, role, table, context.recipe.answers.max_tokens)


def _row(prompt: dict[str, Any], answer: Answer, teacher: str) -> dict[str, Any]:
    return {
        "prompt_id": prompt["prompt_id"],
        "candidate": answer.candidate,
        "text": answer.text,
        "teacher": teacher,
        "token_ids": answer.token_ids,
        "logprobs": answer.logprobs,
        "language": prompt["language"],
        "method": "direct",
        "tokens_billed": answer.tokens_billed,
        "price": answer.price,
        "finish_reason": answer.finish_reason,
    }


def tokenised(context: Context, answers: Slice, prompts: Slice) -> Slice:
    """The answers in the student's ids. An answer that was cut by length gets no end token: it teaches no early end.

    Where the recipe does not copy reasoning, a teacher's thought stays out, and one that never ended is no answer: no ids."""
    student, reasoning = context.row("student"), context.recipe.reasoning

    def compute(shard: Shard, work: Work) -> pa.Table:
        tokens = context.tokens("student")
        asked = context.lake.read_shard(prompts, shard.index, ["prompt_id", "messages"]).to_pylist()
        prompt_ids = {row["prompt_id"]: tokens.prompt_ids(row["messages"]) for row in asked}
        rows = []
        for answer in shard.parent_rows(
            ["prompt_id", "candidate", "text", "finish_reason", "derived_from"]
        ).to_pylist():
            text, ended = answer["text"], answer["finish_reason"] != "length"
            if text is not None and not reasoning.copied and answer["derived_from"] is None:
                text = answer_part(text, reasoning.teacher)
            ids = [] if text is None else tokens.answer_ids(text, ended=ended)
            keys = {name: answer[name] for name in ("prompt_id", "candidate")}
            rows.append({**keys, "prompt_token_ids": prompt_ids[answer["prompt_id"]], "token_ids": ids})
        work.done(len(rows))
        return pa.Table.from_pylist(rows, schema=ANSWER_TOKENS.schema)

    key = answer_tokens_key(answers, prompts, student, reasoning)
    made = context.make("answers", "answer_tokens", key, answers.label, compute, total=answers.rows, unit="answers")
    if made.path in context.made:
        _warn_unknown(context, made)
    return made


def _warn_missing(context: Context, made: Slice) -> None:
    """Say how many answers there are none of: a refusal is no answer, and nothing is learnt from it."""
    rows = context.lake.read(made, ["text", "finish_reason"])
    reasons = Counter(row["finish_reason"] for row in rows.to_pylist() if row["text"] is None)
    if reasons:
        why = ", ".join(f"{count:,} {reason or 'unknown'}" for reason, count in reasons.most_common())
        context.remark(made, f"no answer for {reasons.total():,} of {made.rows:,} ({why})")


def _warn_unknown(context: Context, made: Slice) -> None:
    """Say it when the student's vocabulary cannot write the answers."""
    unknown = context.tokens("student").tokenizer.unk_token_id
    if unknown is None:
        return
    counts = Counter(i for ids in context.lake.read(made, ["token_ids"]).column(0).to_pylist() for i in ids)
    if counts[unknown]:
        context.remark(
            made, f"{counts[unknown]:,} of {counts.total():,} answer tokens are unknown to the student's tokenizer"
        )
