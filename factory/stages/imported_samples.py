"""An imported pool as groups and samples of the policy, and its reward columns as components."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from data.config import sampling_settings
from data.contract import REWARDS, SAMPLES
from data.keys import id64
from data.lake import Key, Shard
from data.manifest import Slice
from data.refusal import Refusal
from factory.config import ImportSource
from factory.context import Context, Work
from factory.stages.imported_rows import Completions, Imported, by_prompt
from factory.stages.imported_survey import Survey, column_of, content, survey
from factory.stages.samples import group_table, prompt_ids, round_of
from factory.stages.scores import score_groups


def import_samples(context: Context, name: str, source: ImportSource) -> list[Slice]:
    """Publish the pool, and one slice of rewards for each reward column."""
    prompts = context.prompts()
    with by_prompt(context, prompts, name, source) as completions:
        seen = survey(name, completions, source.rewards)
        groups = _groups(context, prompts, completions, seen, source)
        samples = _samples(context, groups, completions, seen.rescored)
        if seen.rescored:
            context.remark(
                samples, "no log-probabilities came with it; the policy's own stand in, logprobs_mode is rescored"
            )
        parents = (samples, groups, prompts)
        return [
            groups,
            samples,
            *(_rewards(context, column, parents, completions, seen.rewards[column]) for column in source.rewards),
        ]


def _groups(context: Context, prompts: Slice, completions: Completions, seen: Survey, source: ImportSource) -> Slice:
    recipe, policy = context.recipe, context.row("policy")
    sampling = {k: v for k, v in sampling_settings(recipe).items() if k != "n"}
    settings = {
        "import": {"kind": "samples", "temperature": recipe.sampling.temperature},
        "sampling": sampling,
        "seed": recipe.seed,
    }
    key = Key(settings, (prompts,), {"policy": policy["model_id"]}, tuple(seen.contents))
    mode = "rescored" if seen.rescored else "processed"

    def compute(shard: Shard, work: Work) -> pa.Table:
        table, own = shard.parent_rows(["prompt_id", "messages"]), completions.shard(shard.index)
        wanted = [i for i, p in enumerate(table.column("prompt_id").to_pylist()) if p in own]
        table = table.take(pa.array(wanted, pa.int64()))
        ids = prompt_ids(context, "policy", table, 1)
        rows = [
            {
                "group_id": id64("group", p, policy["model_id"], settings, list(map(content, own[p]))),
                "prompt_id": p,
                "prompt_token_ids": tokens,
            }
            for p, tokens in zip(table.column("prompt_id").to_pylist(), ids, strict=True)
        ]
        work.done(len(rows))
        return group_table(rows, policy["model_id"], sampling, context.tokens("policy").end, mode, "imported")

    total, notes = len(completions.per_prompt), {"path": source.path}
    return context.make("import", "groups", key, recipe.pool_label, compute, total=total, unit="prompts", notes=notes)


def _samples(context: Context, groups: Slice, completions: Completions, rescored: bool) -> Slice:
    recipe = context.recipe
    settings = {"import": groups.settings["import"], "sampling": groups.settings["sampling"], "seed": recipe.seed}
    key = Key(settings, (groups,), dict(groups.models))
    round_ = round_of(context)

    def compute(shard: Shard, work: Work) -> pa.Table:
        there = shard.parent_rows(["group_id", "prompt_id", "prompt_token_ids"]).to_pylist()
        of_prompt = completions.shard(shard.index)
        own = {g["group_id"]: of_prompt[g["prompt_id"]] for g in there}
        ids = {g: [token_ids(context, row) for row in rows] for g, rows in own.items()}
        if rescored and there:
            prompts = {g["group_id"]: g["prompt_token_ids"] for g in there}
            logprobs = score_groups(context, "policy", prompts, ids, recipe.sampling.temperature, work)
        else:
            logprobs = {g: [row.logprobs or [] for row in rows] for g, rows in own.items()}
            work.done(sum(len(rows) for rows in own.values()))
        rows = [
            _row(context, g, i, row, ids[g][i], logprobs[g][i], round_)
            for g, imported in own.items()
            for i, row in enumerate(imported)
        ]
        return pa.Table.from_pylist(rows, schema=SAMPLES.schema)

    model = context.model("policy").path if rescored else None
    return context.make(
        "import",
        "samples",
        key,
        recipe.pool_label,
        compute,
        total=completions.rows,
        unit="samples",
        model=model,
        notes=groups.notes,
    )


def token_ids(context: Context, row: Imported) -> list[int]:
    """The completion's ids: as given, else its text with the end token, unless it was cut or has a log-probability too few."""
    tokens = context.tokens("policy")
    if row.token_ids is not None:
        ids = [int(i) for i in row.token_ids]
        if not ids or min(ids) < 0 or max(ids) >= len(tokens.tokenizer):
            raise Refusal(
                f"{row.where}: token_ids are empty or not all below {len(tokens.tokenizer)}, the size of the student's vocabulary",
                "leave the column out: the text is then encoded",
            )
    else:
        ids = tokens.answer_ids(row.text, ended=row.finish_reason != "length")
        if row.logprobs is not None and len(row.logprobs) == len(ids) - 1 and ids[-1] in tokens.end:
            ids = ids[:-1]
    if not ids:
        raise Refusal(f"{row.where}: the completion has no token, not even an end token", "remove that row")
    if row.logprobs is not None and len(row.logprobs) != len(ids):
        raise Refusal(
            f"{row.where}: {len(row.logprobs)} log-probabilities for {len(ids)} tokens; they belong to another tokenizer or text",
            "give `token_ids` beside them, or leave them out: the policy then rescores the completions",
        )
    return ids


def _row(
    context: Context, group_id: int, index: int, row: Imported, ids: list[int], logprobs: list[float], round_: int
) -> dict[str, Any]:
    ended = ids[-1] in context.tokens("policy").end
    return {
        "group_id": group_id,
        "sample_index": index,
        "token_ids": ids,
        "n_tokens": len(ids),
        "text": row.text,
        "behaviour_logprobs": logprobs,
        "finish_reason": row.finish_reason,
        "stop_token": ids[-1] if ended else None,
        "origin": "imported",
        "round": round_,
    }


def _rewards(
    context: Context, column: str, parents: tuple[Slice, ...], completions: Completions, contents: list[str]
) -> Slice:
    """parents: samples, groups and prompts. contents: a digest of each shard's values."""
    key = Key({"import": {"column": column}}, parents, {}, tuple(contents))

    def compute(shard: Shard, work: Work) -> pa.Table:
        rows = shard.parent_rows(["group_id", "sample_index"]).to_pylist()
        values = column_of(completions.shard(shard.index), column)
        work.done(len(rows))
        filled = [{**r, "value": v, "valid": v is not None} for r, v in zip(rows, values, strict=True)]
        return pa.Table.from_pylist(filled, schema=REWARDS.schema)

    return context.make("import", "rewards", key, column, compute, total=parents[0].rows, unit="samples")
