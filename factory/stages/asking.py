"""Questions of components and stages, put to models: greedy, equal ones once, a reply whole or none.

Reads no table and writes none; endpoints' replies stand in the ledger, so that none is paid for twice. Refuses a question that is
too long for a model that runs here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from data.manifest import Slice
from data.pool import scorer_reading
from data.reasoning import answer_part
from data.refusal import Refusal
from factory.context import Context, Work
from factory.engines import Answer, ChatRequest, ScoreRequest, TokenSampling
from factory.rewards import Batch, Component, Question, Reply
from factory.stages.scores import refuse_too_long


def with_replies(
    context: Context,
    item: Component,
    inputs: Batch,
    rows: Sequence[Mapping[str, Any]],
    prompts: Slice,
    work: Work,
    stage: str = "rewards",
) -> Batch:
    """The batch with replies to the component's questions, scored where it needs that. `rows`: the samples' rows of `prompts`."""
    if item.questions is None or item.by is None:
        return inputs
    there = [i for i, text in enumerate(inputs.texts) if text is not None]
    questions = dict(zip(there, item.questions(inputs.at(there)), strict=True))
    flat = iter(ask(context, item.by, stage, [q for own in questions.values() for q in own], work))
    replies = [[next(flat) for _ in questions.get(i, ())] for i in range(len(inputs))]
    if "reply_scores" in item.needs:
        replies = _scored(context, item.scorer or "teacher", replies, rows, prompts, work)
    return replace(inputs, replies=replies)


def ask(
    context: Context, name: str, stage: str, questions: Sequence[Question], work: Work, *, cut: bool = False
) -> list[Reply]:
    """One reply a question, in order. `stage` is what an endpoint's costs are booked under; `cut`: the start of a reply will do."""
    if not questions:
        return []
    keys = [json.dumps([q.messages, q.max_tokens]) for q in questions]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    distinct = dict(zip(keys, questions, strict=True))
    stop: tuple[int, ...] = ()
    if context.model(name).endpoint is None:
        stop = tuple(context.stop_ids(name, []))
        _refuse_too_long(context, name, list(distinct.values()))
    requests = [
        ChatRequest(
            places[key], q.messages, [0], TokenSampling(temperature=0.0, max_tokens=q.max_tokens, stop_ids=stop)
        )
        for key, q in distinct.items()
    ]
    engine = context.text_engine(name, stage)
    here = engine.device != "api"  # what an endpoint counted stands in the ledger's own costs
    work.tally.device = engine.device if here else work.tally.device or "api"
    work.tally.model = work.tally.model or context.model(name).path
    found: dict[int, Reply] = {}
    for answer in engine.answer(requests):
        found[answer.request_id] = _reply(answer, cut, context.recipe.reasoning.tags(name))
        if here:
            work.tally.add(0, answer.n_prompt_tokens or 0, len(answer.token_ids or []))
    return [found[places[key]] for key in keys]


def _reply(answer: Answer, cut: bool, tags: Sequence[str]) -> Reply:
    """A reply that was cut is none: half a translation, or a verdict whose number may go on. Of a thought the end alone counts."""
    if answer.text is None or (answer.finish_reason == "length" and not cut):
        return Reply(None, answer.finish_reason or "refusal")
    text = answer_part(answer.text, tags)
    return Reply(text) if text is not None else Reply(None, "reasoning")


def _refuse_too_long(context: Context, name: str, questions: Sequence[Question]) -> None:
    tokens = context.tokens(name)
    for question in questions if tokens.context is not None else ():
        length = len(tokens.prompt_ids(question.messages))
        if length + question.max_tokens > (tokens.context or 0):
            raise Refusal(
                f"a question to {name} {context.model(name).path} has {length} tokens; with a reply of {question.max_tokens} that"
                f" is more than its {tokens.context} positions: {question.messages[-1]['content'][-60:]!r}",
                "make max_tokens of that component or stage smaller, or shorten its wording",
            )


def _scored(
    context: Context,
    role: str,
    replies: list[list[Reply]],
    rows: Sequence[Mapping[str, Any]],
    prompts: Slice,
    work: Work,
) -> list[list[Reply]]:
    """The replies with the scorer's log p of each as an answer to the sample's prompt; equal texts of a prompt are scored once."""
    tokens, engine = context.tokens(role), context.engine(role, "score")
    shown = scorer_reading(context.lake, context.recipe, prompts, role)[1]
    texts: dict[int, dict[str, None]] = {}
    asked_of: dict[int, list[int]] = {}
    for row, own in zip(rows, replies, strict=True):
        told = [reply.text for reply in own if reply.text]
        if told:
            texts.setdefault(row["prompt_id"], {}).update(dict.fromkeys(told))
            messages = (row["teacher_messages"] if shown == "teacher_messages" else None) or row["messages"]
            asked_of.setdefault(row["prompt_id"], tokens.prompt_ids(messages))
    completions = {prompt: [tokens.answer_ids(text) for text in own] for prompt, own in texts.items()}
    refuse_too_long(context, role, asked_of, completions)
    totals: dict[tuple[int, str], tuple[float, int]] = {}
    work.tally.device = engine.device
    for scored in engine.score([ScoreRequest(p, asked_of[p], c) for p, c in completions.items()]):
        for text, values in zip(texts[scored.group_id], scored.logprobs, strict=True):
            totals[scored.group_id, text] = sum(values), len(values)
        work.tally.add(0, len(asked_of[scored.group_id]), sum(map(len, scored.logprobs)))
    return [
        [_with_total(reply, totals.get((row["prompt_id"], reply.text or ""))) for reply in own]
        for row, own in zip(rows, replies, strict=True)
    ]


def _with_total(reply: Reply, total: tuple[float, int] | None) -> Reply:
    return reply if total is None else replace(reply, total=total[0], n_tokens=total[1])
