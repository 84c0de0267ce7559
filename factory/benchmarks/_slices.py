"""What kinds of benchmarks share: keys of their slices, rows of `evaluations`, greedy answers. Reads and writes no file itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from data.contract import EVALUATIONS
from data.keys import digest
from data.lake import Key, Shard
from data.manifest import Slice
from data.refusal import Refusal
from factory.benchmarks import Benchmark
from factory.context import Context, Work
from factory.engines import Draw, GroupRequest, TokenSampling


def named(context: Context, role: str, item: Benchmark, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a key: whom, by which benchmark, with what."""
    return {"policy": role.removeprefix("run:"), "benchmark": item.name, "spec": dict(spec)}


def key_under(
    context: Context,
    role: str,
    item: Benchmark,
    parent: Slice,
    spec: Mapping[str, Any],
    models: Mapping[str, str] | None = None,
) -> Key:
    """Key of a slice that measures the rows of a table; `models`: whom its metrics ask."""
    settings = named(context, role, item, {"kind": item.kind, **asdict(item.settings), **spec})
    if item.settings.limit is not None:  # which items are the first depends on the shards before
        settings["among"] = digest([shard.key for shard in parent.shards])
    return Key(settings, (parent,), {"policy": context.row(role)["model_id"], **(models or {})})


def make_own(
    context: Context,
    role: str,
    item: Benchmark,
    spec: Mapping[str, Any],
    rows: Sequence[Any],
    compute: Callable[[Sequence[Any], Work], pa.Table],
) -> Slice:
    """The slice of a benchmark that brings its own items (JSON values), named by their contents: a moved file changes nothing."""
    settings = named(context, role, item, {"kind": item.kind, **spec})
    size = context.settings.shard_groups
    shards = [rows[i : i + size] for i in range(0, len(rows), size)]
    contents = tuple(digest([settings, shard]) for shard in shards)

    def one(shard: Shard, work: Work) -> pa.Table:
        return compute(shards[shard.index], work)

    return context.make(
        "evaluate",
        "evaluations",
        Key(settings, (), {"policy": context.row(role)["model_id"]}, contents),
        context.recipe.name,
        one,
        total=len(rows),
        unit="items",
        model=context.model(role).path,
        ability="generate",
    )


def refuse_too_long(context: Context, role: str, item: Benchmark, id_: str, length: int, longest: int) -> None:
    """Refuse a prompt that leaves no room for its answer."""
    limit = context.tokens(role).context
    if limit is not None and length + longest > limit:
        raise Refusal(
            f"benchmark {item.name}: item {id_} has {length} tokens; with an answer of {longest} that is more than the {limit}"
            f" positions of {context.model(role).path}",
            f"benchmarks.{item.name}.shots with fewer examples, or benchmarks.{item.name}.max_tokens={max(limit - length, 1)}",
        )


def first(context: Context, parent: Slice, id_: str, item: Benchmark) -> set[int]:
    """Ids of the benchmark's items: the first of its split, in the table's order."""
    rows = context.lake.read(parent, [id_, "split"])
    ids = rows.filter(pc.equal(rows.column("split"), item.settings.split)).column(id_).to_pylist()
    return set(ids[: item.settings.limit])


def stop(context: Context, role: str) -> list[str]:
    """Further texts that end an answer: those that end the pool's samples. A teacher ends where its model says."""
    return [] if role == "teacher" else list(context.recipe.sampling.stop)


def drawn(
    context: Context, role: str, prompts: Mapping[int, Sequence[int]], longest: int, stop_ids: Sequence[int], work: Work
) -> dict[int, Draw]:
    """Greedy answers: id → what the policy says behind these prompt ids."""
    engine = context.engine(role, "generate")
    work.tally.device = engine.device
    sampling = TokenSampling(temperature=0.0, max_tokens=longest, stop_ids=tuple(stop_ids))
    found = {}
    for group in engine.generate([GroupRequest(id_, ids, [0], sampling) for id_, ids in prompts.items()]):
        found[group.group_id] = group.samples[0]
        work.done(1, 0, len(group.samples[0].token_ids))
    work.tally.add(tokens_in=sum(map(len, prompts.values())))
    return found


class Measured(NamedTuple):
    """One row of `evaluations`."""

    item: str
    prediction: str | None
    gold: Sequence[str] | None
    metrics: Mapping[str, float]
    iteration: int | None = None


def table(context: Context, role: str, item: Benchmark, rows: Sequence[Measured]) -> pa.Table:
    """Rows of `evaluations` of one policy and benchmark."""
    shared = {"policy": role.removeprefix("run:"), "model_id": context.row(role)["model_id"], "benchmark": item.name}
    return pa.Table.from_pylist(
        [{**shared, **one._asdict(), "metrics": list(one.metrics.items())} for one in rows],
        schema=EVALUATIONS.schema,
    )
