"""Frozen best-of-N: which of each prompt's samples and teacher answers is good enough, and best.

Reads the pool, `answers` and the components that the recipe's `reward` and `where` name. Writes `selections`. The filter comes
before the ranking (data/selection.py); the trainer's own best-of-N is the same function, live. One shard is in memory at a time,
unless the expression compares the whole pool (zscore_all). Refuses a component that is not there."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from data.contract import SELECTIONS
from data.expression import compile_expression
from data.keys import digest
from data.lake import Key, Shard
from data.manifest import Slice
from data.pool import find_answer_tokens, find_answers, find_rewards
from data.selection import Candidates, best_of_n
from factory.context import Context, Work


def run(context: Context) -> Slice | None:
    """Publish the recipe's selection."""
    recipe = context.recipe
    if not recipe.reward:
        context.say("selections: the recipe has no reward, nothing to rank by")
        return None
    pool, source = context.pool(), candidates(context)
    parents = [pool.prompts, source.samples, source.groups, *source.rewards.values()]
    parents += [s for s in (source.answers, source.answer_tokens) if s is not None]
    parents += source.answer_rewards.values()
    settings = {"reward": recipe.reward, "where": recipe.where}
    labels = {*source.rewards, *source.answer_rewards}
    steps = [s for text in (recipe.reward, recipe.where) if text for s in compile_expression(text, labels).steps]
    # the whole pool decides, so every shard depends on all of it
    whole = any(step.function == "zscore_all" for step in steps)
    if whole:
        settings["pool"] = digest([[shard.key for shard in parent.shards] for parent in parents])
    whole = whole or len({len(parent.shards) for parent in parents}) > 1
    selected: list[pa.Table] = []

    def compute(shard: Shard, work: Work) -> pa.Table:
        if not whole:
            rows = best_of_n(context.lake, _shard_of(source, shard.index), recipe.reward or "", recipe.where)
        else:
            if not selected:
                selected.append(best_of_n(context.lake, source, recipe.reward or "", recipe.where))
            here = shard.parent_rows(["prompt_id"]).column(0)
            rows = selected[0].filter(pc.is_in(selected[0]["prompt_id"], value_set=here.combine_chunks()))
        work.done(len(rows))
        return rows.select(SELECTIONS.schema.names)

    total = source.samples.rows + (source.answers.rows if source.answers else 0)
    made = context.make(
        "selections",
        "selections",
        Key(settings, tuple(parents)),
        recipe.pool_label,
        compute,
        total=total,
        unit="candidates",
    )
    rows = context.lake.read(made, ["prompt_id", "chosen"])
    prompts, chosen = pc.count_distinct(rows["prompt_id"]).as_py(), pc.sum(rows["chosen"]).as_py() or 0
    context.remark(made, f"{chosen:,} of {prompts:,} prompts have a candidate that passes")
    return made


def candidates(context: Context) -> Candidates:
    """The slices that candidates and their components come from."""
    recipe, lake, pool = context.recipe, context.lake, context.pool()
    answers = find_answers(lake, recipe, pool.prompts)
    tokens = find_answer_tokens(lake, recipe, answers, pool.prompts, context.row("student")) if answers else None
    return Candidates(
        pool.samples,
        pool.groups,
        _components(context, pool.samples),
        answers,
        tokens,
        _components(context, answers) if answers else {},
    )


def _shard_of(source: Candidates, index: int) -> Candidates:
    """The candidates of one shard of the prompts: groups are whole in it."""

    def cut(slice_: Slice) -> Slice:
        return replace(slice_, shards=slice_.shards[index : index + 1])

    return Candidates(
        cut(source.samples),
        cut(source.groups),
        {name: cut(slice_) for name, slice_ in source.rewards.items()},
        cut(source.answers) if source.answers else None,
        cut(source.answer_tokens) if source.answer_tokens else None,
        {name: cut(slice_) for name, slice_ in source.answer_rewards.items()},
    )


def _components(context: Context, base: Slice) -> dict[str, Slice]:
    """Slices of the components that the expressions name; imported rewards answer to their label."""
    recipe, table = context.recipe, "rewards" if base.table == "samples" else "answer_rewards"
    there = context.lake.slices(table)
    imported = {s.label: s for s in there if s.parents[0] == base.path and "import" in s.settings}
    columns = {s.label for s in context.lake.slices("rewards") if "import" in s.settings}
    known = set(recipe.components) | columns
    names = {n for text in (recipe.reward, recipe.where) if text for n in compile_expression(text, known).names} & known
    found = {n: find_rewards(context.lake, recipe, n, base) for n in sorted(names) if n in recipe.components}
    return found | {n: imported[n] for n in sorted(names) if n in imported and n not in found}
