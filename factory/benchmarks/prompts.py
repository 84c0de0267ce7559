"""Greedy answers to the recipe's held-out prompts, measured by reward components.

Reads `prompts`. A component that asks a model (judge, bilingual) asks it here too, over the ledger where it is behind an endpoint.
Refuses no metrics, metrics that need a teacher's answer or scores, and prompts longer than the policy's context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from data.contract import EVALUATIONS
from data.keys import hex_id
from data.lake import Shard
from data.manifest import Slice
from data.reasoning import answer_part
from data.refusal import Refusal, in_range
from factory.benchmarks import Benchmark, Planned, Sizes
from factory.benchmarks._slices import Measured, drawn, first, key_under, stop, table
from factory.config import FactoryRecipe
from factory.context import Context, Work
from factory.rewards import Batch, Component, component
from factory.stages.asking import with_replies
from factory.stages.rewards import PROMPT_COLUMNS, batch
from factory.stages.samples import prompt_ids
from factory.writers import asked

NOT_HERE = frozenset({"answers", "scores"})  # no stage sees a held-out answer


@dataclass(frozen=True)
class Settings:
    """Which prompts, and by what their answers are measured."""

    split: str = "held_out"
    """Split of the prompts: held_out or train."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Metric name → component by the recipe's grammar, e.g. {exact: {use: similarity, metric: exact}}."""
    limit: int | None = None
    """Only the first so many prompts."""
    max_tokens: int | None = None
    """Longest answer; null: as the pool's samples."""

    def __post_init__(self) -> None:
        in_range("benchmarks.NAME.limit", self.limit, 1)
        in_range("benchmarks.NAME.max_tokens", self.max_tokens, 1)


def check(recipe: FactoryRecipe, item: Benchmark) -> None:
    """Refuse no metrics, and those that compare with a teacher's answer."""
    if not item.settings.metrics:
        raise Refusal(
            f"benchmark {item.name} has no metrics",
            f"benchmarks.{item.name}.metrics={{exact: {{use: similarity, metric: exact}}}}",
        )
    for metric in components(item):
        if missing := sorted(metric.needs & NOT_HERE):
            raise Refusal(
                f"benchmark {item.name}: metric {metric.name} needs {', '.join(missing)}, and no stage sees a held-out answer",
                f"compare with references: benchmarks.{item.name}.metrics.{metric.name}.to=references",
            )


def components(item: Benchmark) -> list[Component]:
    """The components that measure it."""
    return [component(spec, metric) for metric, spec in item.settings.metrics.items()]


def planned(recipe: FactoryRecipe, item: Benchmark, sizes: Sizes) -> Planned:
    """Each prompt read once, each answer as long as it may be."""
    there = sizes.held_out if item.settings.split == "held_out" else sizes.prompts
    items = min(there, item.settings.limit or there)
    return Planned(items, items * sizes.length, items * (item.settings.max_tokens or recipe.sampling.max_tokens))


def make(context: Context, role: str, item: Benchmark) -> Slice:
    """One row a prompt."""
    check(context.recipe, item)
    metrics, prompts = components(item), context.prompts()
    longest = item.settings.max_tokens or context.recipe.sampling.max_tokens
    # `corpus` stands in keys since benchmarks of both kinds had one settings class
    spec: dict[str, Any] = {"corpus": None, "max_tokens": longest, "metrics": {m.name: m.identity() for m in metrics}}
    if words := stop(context, role):
        spec["stop"] = words
    if tags := context.recipe.reasoning.tags(role):
        spec["reasoning"] = list(tags)
    asks = {metric.name: asked(metric) for metric in metrics if metric.by is not None}
    if asks:
        spec["asked"] = asks
    chosen = first(context, prompts, "prompt_id", item)
    if not chosen:
        raise Refusal(
            f"{prompts.path} has no {item.settings.split} prompts for benchmark {item.name}", "prompts.held_out=0.1"
        )

    def compute(shard: Shard, work: Work) -> pa.Table:
        rows = [r for r in shard.parent_rows(columns).to_pylist() if r["prompt_id"] in chosen]
        return _answered(context, role, item, prompts, rows, longest, metrics, work)

    columns = [*PROMPT_COLUMNS, "teacher_messages"]
    models = {f"{m}.{as_}": context.row(who)["model_id"] for m, roles in asks.items() for as_, who in roles.items()}
    made = context.make(
        "evaluate",
        "evaluations",
        key_under(context, role, item, prompts, spec, models),
        context.recipe.name,
        compute,
        total=len(chosen),
        unit="prompts",
        model=context.model(role).path,
        ability="generate",
        asks=[who for roles in asks.values() for who in roles.values()],
    )
    context.remark_bill(made)
    return made


def _answered(
    context: Context,
    role: str,
    item: Benchmark,
    prompts: Slice,
    rows: list[dict[str, Any]],
    longest: int,
    metrics: list[Component],
    work: Work,
) -> pa.Table:
    if not rows:
        return EVALUATIONS.schema.empty_table()
    shown = pa.table(
        {"prompt_id": pa.array([r["prompt_id"] for r in rows], pa.uint64()), "messages": [r["messages"] for r in rows]}
    )
    ids = dict(zip(shown.column("prompt_id").to_pylist(), prompt_ids(context, role, shown, longest), strict=True))
    draws = drawn(context, role, ids, longest, context.stop_ids(role, stop(context, role)), work)
    answered: list[dict[str, Any]] = [
        {
            "text": context.tokens(role).text(draws[r["prompt_id"]].token_ids).strip(),
            "finish_reason": draws[r["prompt_id"]].finish_reason,
            "n_tokens": len(draws[r["prompt_id"]].token_ids),
        }
        for r in rows
    ]
    # a thought that never ended answers nothing: measured as an empty answer, where a reward of it would be null
    tags = context.recipe.reasoning.tags(role)
    said = [{**answer, "text": answer_part(answer["text"], tags) or ""} for answer in answered]
    inputs = {whole: batch(answered if whole else said, rows, {}, [{}] * len(rows)) for whole in (False, True)}
    batches = [with_replies(context, m, inputs[m.whole], rows, prompts, work, "evaluate") for m in metrics]
    values = _measured(metrics, batches)
    told = zip(rows, answered, values, strict=True)
    found = [Measured(hex_id(r["prompt_id"]), a["text"], r["references"], v) for r, a, v in told]
    return table(context, role, item, found)


def _measured(metrics: Sequence[Component], batches: Sequence[Batch]) -> list[dict[str, float]]:
    """One dict an item, of a batch a metric; a metric without a value is left out, never 0."""
    found: list[dict[str, float]] = [{} for _ in range(len(batches[0]))]
    for metric, inputs in zip(metrics, batches, strict=True):
        for item, reward in zip(found, metric.score(inputs), strict=True):
            if reward.value is not None:
                item[metric.name] = reward.value
    return found
