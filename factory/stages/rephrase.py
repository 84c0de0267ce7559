"""The student says the teacher's answer again in its own language, and a check says whether the content is still the teacher's.

Reads `answers` and `prompts`. Writes `answers` with a restatement behind each answer. Its `check_score` is the value of the
component in `rephrase.check`, by default the teacher's verdict; null: not checked, or a malformed verdict. The recipe's `where`
decides, e.g. "method <> 'rephrase' or check_score = 1". Refuses a check that reads scores of the pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc

from data.manifest import Slice
from data.pool import command, find_answers
from data.refusal import Refusal
from factory.config import FactoryRecipe
from factory.context import Context, Work
from factory.rewards import Batch, Component, Question, component
from factory.rewards._prompting import check_wording, conversation, filled, language, user
from factory.stages.asking import ask, with_replies
from factory.stages.derived import Rows, of, own_words, publish
from factory.stages.rewards import scored_texts
from factory.writers import asked

VERSION = 1
STAGE = "rephrase"
PLACES = ("question", "answer", "language")
WORDING = """Here is a question and its right answer, which may be in another language.

<question>
{question}
</question>
<answer>
{answer}
</answer>

Say the answer in natural {language}, as you would say it yourself. Keep its content whole: names, numbers, every statement, and
nothing else. Write the restated answer alone."""
CHECK = {"use": "judge", "mode": "verdict", "to": "answers"}  # where the recipe names none
RUBRIC = (
    "Does the answer say the same as the reference: the same facts, names and numbers, nothing left out, nothing added?"
    " The language does not matter."
)


def run(context: Context) -> list[Slice]:
    """Restate the recipe's answers and check them."""
    settings = context.recipe.rephrase
    if settings is None:
        context.say("rephrase: the recipe has no `rephrase`")
        return []
    item, prompts = check_of(context.recipe), context.prompts()
    base = find_answers(context.lake, context.recipe, prompts, before=STAGE)
    if base is None:
        raise Refusal(f"{prompts.path} has no answers to restate", command(context.recipe, "answers,rephrase"))

    def add(rows: Rows, prompts_by_id: Mapping[int, dict[str, Any]], work: Work) -> Rows:
        sources = [
            r for r in rows if r["text"] is not None and (own_words(r) if of_own else r["method"] == settings.of)
        ]
        asking = [prompts_by_id[row["prompt_id"]] for row in sources]
        questions = [_question(context.recipe, p, r["text"]) for p, r in zip(asking, sources, strict=True)]
        replies = ask(context, settings.by, STAGE, questions, work)
        texts = [reply.text for reply in replies]
        checks = checked(context, item, [r["text"] for r in sources], texts, asking, prompts, work)
        languages = [prompt["language"] for prompt in asking]
        return [
            of(row, text=reply.text, language=into, method=STAGE, check_score=check)
            | ({"finish_reason": reply.why} if reply.text is None else {})
            for row, reply, into, check in zip(sources, replies, languages, checks, strict=True)
        ]

    of_own = settings.of == "direct"
    made = publish(context, STAGE, base, prompts, add, asked(item), VERSION)
    _say(context, made[0])
    return made


def check_of(recipe: FactoryRecipe) -> Component:
    """The component that checks a restatement. A judge without a rubric of its own is asked about the content alone."""
    assert recipe.rephrase is not None
    try:
        check_wording(recipe.rephrase.wording or WORDING, PLACES, {"answer"})
    except ValueError as error:
        raise Refusal(f"rephrase.wording: {error}", "rephrase.wording=null") from error
    spec = dict(recipe.rephrase.check) or dict(CHECK)
    if spec.get("use") == "judge" and not {"rubric", "rubric_file", "wording"} & spec.keys():
        spec["rubric"] = RUBRIC
    item = component(spec, "rephrase.check")
    if "scores" in item.needs:
        raise Refusal(
            f"rephrase.check: {item.use} reads scores of the pool, and a restated answer has none",
            "rephrase.check={use: judge, mode: verdict, to: answers}",
        )
    return item


def _question(recipe: FactoryRecipe, prompt: Mapping[str, Any], answer: str) -> Question:
    assert recipe.rephrase is not None
    values = {"question": conversation(prompt["messages"]), "answer": answer, "language": language(prompt["language"])}
    return Question(user(filled(recipe.rephrase.wording or WORDING, values)), recipe.rephrase.max_tokens)


def checked(
    context: Context,
    item: Component,
    originals: list[str],
    restated: list[str | None],
    asking: list[dict[str, Any]],
    prompts: Slice,
    work: Work,
) -> list[float | None]:
    """The check's value of each restated text beside the answer that it restates; None where there is none."""
    batch = Batch.of_texts(
        restated,  # type: ignore[arg-type]  # None where nothing was restated: `scored_texts` leaves those out
        prompts=[p["messages"] for p in asking],
        references=[p["references"] or [] for p in asking],
        answers=[[text] for text in originals],
        answer_patterns=[p["answer_pattern"] for p in asking],
        languages=[p["language"] for p in asking],
    )
    if len(batch):
        batch = with_replies(context, item, batch, asking, prompts, work)
    return [reward.value for reward in scored_texts(item, batch)] if len(batch) else []


def _say(context: Context, made: Slice) -> None:
    """Counts of what the check found."""
    rows = context.lake.read(made, ["method", "text", "check_score"])
    rows = rows.filter(pc.equal(rows["method"], STAGE))
    scores = rows["check_score"].drop_null()
    passed = pc.sum(pc.greater_equal(scores, 0.5)).as_py() or 0
    empty = rows["text"].null_count
    context.remark(
        made,
        f"{len(rows):,} answers restated, {passed:,} with a check of .5 or more, {len(scores) - passed:,} below,"
        f" {len(rows) - len(scores) - empty:,} without a verdict, {empty:,} without a text",
    )
