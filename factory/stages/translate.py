"""Prompts to the teacher's language, answers back: for a teacher that reads or writes another language than the student.

Reads `prompts` and `answers`. Writes `prompts` with `teacher_messages` (for the stage prompts), and `answers` with a translation
behind each answer, by any engine; lineage in `derived_from`, `method` and `translator_id`. A translation that was cut or refused
has no text. Whether a translation is good enough is for the recipe's `where` to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from data.config import Translate
from data.contract import PROMPTS
from data.lake import Key, Shard
from data.manifest import Slice
from data.pool import command, find_answers
from data.refusal import Refusal
from data.writers import translated_prompts
from factory.context import Context, Work
from factory.rewards import Question, Reply
from factory.rewards._prompting import TRANSLATE, check_wording, filled, language, user
from factory.stages.asking import ask
from factory.stages.derived import Rows, of, own_words, publish

VERSION = 1
STAGE = "translate"


def run(context: Context) -> list[Slice]:
    """Translate the recipe's answers into the language of their prompts."""
    settings = context.recipe.translate
    if settings is None:
        context.say("translate: the recipe has no `translate`, the teacher speaks the student's language")
        return []
    prompts = context.prompts()
    base = find_answers(context.lake, context.recipe, prompts, before=STAGE)
    if base is None:
        raise Refusal(f"{prompts.path} has no answers to translate", command(context.recipe, "answers,translate"))
    writer = context.row(settings.by)["model_id"]

    def add(rows: Rows, asked: Mapping[int, dict[str, Any]], work: Work) -> Rows:
        targets = [asked[row["prompt_id"]]["language"] for row in rows]
        pairs = [(r, t) for r, t in zip(rows, targets, strict=True) if own_words(r) and t != settings.language]
        replies = answers_back(context, settings, [r["text"] for r, _ in pairs], [t for _, t in pairs], work)
        return [
            of(row, text=reply.text, language=target, method=STAGE, translator_id=writer)
            if reply.text is not None
            else of(row, text=None, language=target, method=STAGE, translator_id=writer, finish_reason=reply.why)
            for (row, target), reply in zip(pairs, replies, strict=True)
        ]

    made = publish(context, STAGE, base, prompts, add, {}, VERSION)
    _say_missing(context, made[0])
    return made


def answers_back(
    context: Context, settings: Translate, texts: Sequence[str], targets: Sequence[str | None], work: Work
) -> list[Reply]:
    """The teacher's texts in their targets' languages, over `via` where one is named."""
    found = [Reply(text) for text in texts]
    hops: list[tuple[str, Sequence[str | None]]] = [(settings.language, targets)]
    if settings.via is not None:
        hops = [(settings.language, [settings.via] * len(texts)), (settings.via, targets)]
    for source, into in hops:
        here = [i for i, reply in enumerate(found) if reply.text is not None]
        questions = [_question(settings, found[i].text or "", source, into[i]) for i in here]
        for i, reply in zip(here, ask(context, settings.by, STAGE, questions, work), strict=True):
            found[i] = reply
    return found


def _question(settings: Translate, text: str, source: str | None, target: str | None) -> Question:
    wording = settings.wording or TRANSLATE
    values = {"text": text, "source": language(source), "target": language(target)}
    return Question(user(filled(wording, values)), settings.max_tokens)


def check(settings: Translate) -> None:
    """Refuse a wording that cannot be filled."""
    try:
        check_wording(settings.wording or TRANSLATE, ("text", "source", "target"), {"text"})
    except ValueError as error:
        raise Refusal(f"translate.wording: {error}", "translate.wording=null") from error


def prompts_translated(context: Context, base: Slice) -> Slice:
    """The prompts with the teacher's side in its language; held-out prompts are no teacher's, and given teacher_messages stay."""
    settings = context.recipe.translate
    assert settings is not None
    writer = context.row(settings.by)["model_id"]
    spec = {"source": base.settings["source"], "translated": translated_prompts(context.recipe), "version": VERSION}

    def compute(shard: Shard, work: Work) -> pa.Table:
        rows = shard.parent_rows().to_pylist()
        wanted = [row for row in rows if _wants(row, settings)]
        flat = [(m["content"], row["language"]) for row in wanted for m in row["messages"]]
        questions = [_question(settings, text, source, settings.language) for text, source in flat]
        replies = iter(ask(context, settings.by, STAGE, questions, work))
        for row in wanted:
            texts = [next(replies).text for _ in row["messages"]]
            if None not in texts:
                told = zip(row["messages"], texts, strict=True)
                row["teacher_messages"] = [{"role": m["role"], "content": text} for m, text in told]
        work.done(len(wanted))
        return pa.Table.from_pylist(rows, schema=PROMPTS.schema)

    key, label = Key(spec, (base,), {"translator": writer}), base.label
    total = base.rows - int(base.notes.get("held_out", 0))
    made = context.make(
        STAGE,
        "prompts",
        key,
        label,
        compute,
        total=total,
        unit="prompts",
        notes=base.notes,
        ability="answer",
        asks=[settings.by],
    )
    context.remark_bill(made)
    rows = context.lake.read(made, ["split", "language", "teacher_messages"]).to_pylist()
    if missing := sum(_wants(row, settings) for row in rows):
        context.remark(
            made, f"{missing:,} of {total:,} prompts have no translation: the teacher is shown the student's"
        )
    return made


def _wants(row: Mapping[str, Any], settings: Translate) -> bool:
    """Whether a prompt is to be translated for the teacher."""
    return row["split"] == "train" and row["teacher_messages"] is None and row["language"] != settings.language


def _say_missing(context: Context, made: Slice) -> None:
    rows = context.lake.read(made, ["text", "method"]).to_pylist()
    translated = [row for row in rows if row["method"] == STAGE]
    if missing := sum(row["text"] is None for row in translated):
        context.remark(
            made, f"no translation for {missing:,} of {len(translated):,} answers (cut, refused or filtered)"
        )
