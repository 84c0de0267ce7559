"""Log-probabilities of the pool's own tokens under the teacher, under the policy rescored, and under the recipe's `scorers`.

Reads the pool. Writes `scores`: the teacher at temperature 1 on its own chat template and on `teacher_messages`, the policy at
the pool's temperature on the prompt it was sampled from, each further scorer at temperature 1 on what its `shown` says; the
student where a component names it. A scorer with other tokens reads the samples' texts (`scores_across`). Refuses prompts too
long for a scorer."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from data.config import Recipe
from data.contract import SCORES
from data.keys import hex_id
from data.lake import Shard
from data.manifest import Slice
from data.pool import Pool, find_own_answers, scorer_reading, scores_key
from data.refusal import Refusal
from data.scorers import scorer_of
from factory.context import Context, Work
from factory.engines import ScoreRequest
from factory.stages.scores_across import COLUMNS, aligner, say_unaligned, scored_across


def run(context: Context) -> list[Slice]:
    """Score the recipe's pool by its teacher, where it has one, by its policy, and by its further scorers."""
    pool, made = context.pool(), {}
    if context.recipe.teacher is not None and context.recipe.teacher.endpoint is not None:
        context.say(f"scores: {context.recipe.teacher.path} answers behind an endpoint and scores no texts; others do")
    if context.recipe.teacher is not None:
        _two_teachers(context, pool)
    for scorer in scorers(context.recipe):
        temperature, shown = scorer_reading(context.lake, context.recipe, pool.prompts, scorer)
        key = (context.row(scorer)["model_id"], temperature, shown)
        if key not in made:  # at temperature 1 the initial policy is the student
            made[key] = _score(context, pool, scorer, temperature, shown)
    return list(made.values())


def scorers(recipe: Recipe) -> list[str]:
    """Names of the models that score a recipe's pool; the student among them where a component names it."""
    asked = {scorer_of(spec) for spec in recipe.components.values()}
    # a server gives no scores of others' texts
    scoring = recipe.teacher is not None and recipe.teacher.endpoint is None
    teacher = ["teacher"] if scoring else []
    return [*teacher, "policy", *recipe.scorers, *(["student"] if "student" in asked else [])]


def _two_teachers(context: Context, pool: Pool) -> None:
    """Answers of one teacher beside scores of another leave a lasting bias (arXiv 2604.13010): said, or refused if strict."""
    answers = find_own_answers(context.lake, context.recipe, pool.prompts)
    if answers is None:
        return
    scoring = _names(context, _scoring(context.recipe))
    answering = _names(context, ["teacher", *context.recipe.co_teachers])
    if not scoring:
        return
    if answers.models.get("teacher") == "imported":
        told = f"{answers.path} is imported, the scores are by {' and '.join(scoring.values())}"
    elif scoring.keys() != answering.keys():
        told = f"answers are by {' and '.join(answering.values())}, the scores by {' and '.join(scoring.values())}"
    else:
        return
    told += ": two teachers leave a lasting bias"
    if context.settings.strict:
        raise Refusal(told, "strict=false, or let one teacher do both")
    context.say(f"warning: {told}")


def _scoring(recipe: Recipe) -> list[str]:
    """Whose opinion of the samples is a reward: the scorers of `teacher_loglik` and `bilingual`, else the teacher."""
    named = [s for s in recipe.components.values() if s.get("use") in ("teacher_loglik", "bilingual")]
    scores = recipe.teacher is not None and recipe.teacher.endpoint is None
    return list(dict.fromkeys(map(scorer_of, named))) or (["teacher"] if scores else [])


def _names(context: Context, roles: list[str]) -> dict[str, str]:
    """model_id → name of models that this recipe has."""
    return {context.row(role)["model_id"]: context.row(role)["name"] for role in roles}


def same_tokens(context: Context, role: str = "teacher") -> bool:
    """Whether a model's ids mean the policy's: the files' fingerprints, or at least the vocabularies, are equal."""
    if context.row("policy")["tokenizer"] == context.row(role)["tokenizer"]:
        return True
    return context.tokens("policy").vocabulary == context.tokens(role).vocabulary


def refuse_other_tokens(context: Context, instead: str) -> None:
    """What is told id by id needs a teacher of the student's own ids. `instead` is what works without it."""
    if same_tokens(context):
        return
    student, teacher = context.row("policy"), context.row("teacher")
    ours, theirs = (context.tokens(role).vocabulary for role in ("policy", "teacher"))
    raise Refusal(
        f"teacher {teacher['name']} and student {student['name']} have different tokenizers"
        f" ({len(theirs)} and {len(ours)} tokens); what is told token by token needs the same one",
        instead,
    )


def _score(context: Context, pool: Pool, role: str, temperature: float, shown: str) -> Slice:
    scorer = context.row(role)["model_id"]
    across = functools.cache(lambda: None if role == "policy" or same_tokens(context, role) else aligner(context, role))

    def compute(shard: Shard, work: Work) -> pa.Table:
        if (pair := across()) is None:
            return _scored(context, pool, shard, role, temperature, shown, work)

        def score(completions: Mapping[int, list[list[int]]]) -> Mapping[int, list[list[float]]]:
            prompts = prompts_for(context, pool, shard.index, role, shown)
            refuse_too_long(context, role, prompts, completions)
            return score_groups(context, role, prompts, completions, temperature, work)

        return scored_across(pair, shard.parent_rows(COLUMNS), scorer, score)

    key, label = scores_key(pool, scorer, temperature, shown), f"{pool.samples.label}-{role}"
    model = context.model(role).path
    ability = ability_of(role)
    made = context.make(
        "scores", "scores", key, label, compute, total=pool.samples.rows, unit="samples", model=model, ability=ability
    )
    say_unaligned(context, made)
    return made


def ability_of(role: str) -> str:
    """What an engine must give to score for a role: the policy is rescored, by the forward path that will train it."""
    return "rescore" if role == "policy" else "score"


def _scored(
    context: Context, pool: Pool, shard: Shard, role: str, temperature: float, shown: str, work: Work
) -> pa.Table:
    samples = shard.parent_rows(["group_id", "sample_index", "token_ids"]).to_pylist()
    if not samples:
        return SCORES.schema.empty_table()
    prompts = prompts_for(context, pool, shard.index, role, shown)
    completions: dict[int, list[list[int]]] = {}
    for row in samples:
        completions.setdefault(row["group_id"], []).append(row["token_ids"])
    refuse_too_long(context, role, prompts, completions)
    logprobs = score_groups(context, role, prompts, completions, temperature, work)
    scorer = context.row(role)["model_id"]
    rows = [
        {
            "group_id": row["group_id"],
            "sample_index": row["sample_index"],
            "scorer": scorer,
            "logprobs": values,
            "total": sum(values),
            "alignment": "same_tokenizer",
            "n_scorer_tokens": len(values),
            "unaligned_share": 0.0,
        }
        for row, values in zip(samples, (v for group in completions for v in logprobs[group]), strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SCORES.schema)


def score_groups(
    context: Context,
    role: str,
    prompts: Mapping[int, list[int]],
    completions: Mapping[int, list[list[int]]],
    temperature: float,
    work: Work,
) -> dict[int, list[list[float]]]:
    """group_id → log p of every completion's tokens."""
    engine = context.engine(role, ability_of(role))
    work.tally.device = engine.device
    found = {}
    for scored in engine.score([ScoreRequest(g, prompts[g], c) for g, c in completions.items()], temperature):
        found[scored.group_id] = scored.logprobs
        tokens = sum(len(v) for v in scored.logprobs)
        work.done(len(scored.logprobs), len(prompts[scored.group_id]), tokens)
    return found


def prompts_for(context: Context, pool: Pool, index: int, role: str, shown: str) -> dict[int, list[int]]:
    """group_id → the prompt's ids as the scorer reads them; the policy reads what it was sampled from."""
    groups = context.lake.read_shard(pool.groups, index, ["group_id", "prompt_id", "prompt_token_ids"]).to_pylist()
    if role == "policy":
        return {row["group_id"]: row["prompt_token_ids"] for row in groups}
    columns = ["prompt_id", "messages", "teacher_messages"]
    asked: dict[int, Any] = {}
    for row in context.lake.read_shard(pool.prompts, index, columns).to_pylist():
        asked[row["prompt_id"]] = (row["teacher_messages"] if shown == "teacher_messages" else None) or row["messages"]
    tokens = context.tokens(role)
    return {row["group_id"]: tokens.prompt_ids(asked[row["prompt_id"]]) for row in groups}


def refuse_too_long(
    context: Context, role: str, prompts: Mapping[int, list[int]], completions: Mapping[int, list[list[int]]]
) -> None:
    """Refuse a text that a role could read only in part."""
    limit = context.tokens(role).context
    if limit is None:
        return
    for group, samples in completions.items():
        longest = max((len(sample) for sample in samples), default=0)
        if len(prompts[group]) + longest > limit:
            raise Refusal(
                f"group {hex_id(group)}: {role} {context.model(role).path} would see a prompt of {len(prompts[group])} tokens and a"
                f" sample of {longest}, more than its {limit} positions; a cut context gives scores of another text",
                "shorten that prompt or its teacher_messages, or give a teacher with a longer context",
            )
