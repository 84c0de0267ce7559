"""What policies make of held-out text: one slice of `evaluations` for each policy and benchmark.

Kind `prompts`: greedy answers to held-out prompts, measured by components that need no teacher's answer; one that asks a model
(judge, bilingual) asks it here too, over the ledger where it is behind an endpoint. Kind `likelihood`: bits and bytes of held-out
documents. A document's first token is context only: the begin token where the tokenizer puts one, else its first
token of text, whose bytes are then not counted. The end token counts on neither side, so that tokenizers compare. A document longer
than the context is cut into windows, each with one token of the window before it as context."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data.contract import EVALUATIONS
from data.keys import digest, hex_id
from data.lake import Key, Shard
from data.manifest import Slice
from data.pool import find_corpora
from data.refusal import Refusal, nearest
from factory.config import Benchmark
from factory.context import Context, Work
from factory.engines import GroupRequest, ScoreRequest, TokenSampling
from factory.rewards import Batch, Component, component
from factory.stages.asking import with_replies
from factory.stages.rewards import PROMPT_COLUMNS, batch
from factory.stages.samples import prompt_ids
from factory.writers import asked

KINDS = ("prompts", "likelihood")
NOT_HERE = frozenset({"answers", "scores"})  # no stage sees a held-out answer


def run(context: Context) -> list[Slice]:
    """Evaluate every policy of the recipe on every benchmark."""
    settings = context.settings
    if not settings.benchmarks:
        context.say("evaluate: the recipe names no benchmark")
        return []
    made = []
    for role in settings.policies or [context.recipe.policy]:
        for name, benchmark in settings.benchmarks.items():
            if benchmark.kind not in KINDS:
                raise Refusal(
                    f"benchmarks.{name}.kind is {benchmark.kind!r}: {nearest(benchmark.kind, KINDS)}",
                    "correct the recipe",
                )
            evaluate = _prompts if benchmark.kind == "prompts" else _likelihood
            made.append(evaluate(context, role, name, benchmark))
    return made


def check_metrics(name: str, benchmark: Benchmark) -> list[Component]:
    """The components that measure a benchmark of prompts. Refuses none, and those that compare with a teacher's answer."""
    if not benchmark.metrics:
        raise Refusal(
            f"benchmark {name} has no metrics",
            f"benchmarks.{name}.metrics={{exact: {{use: similarity, metric: exact}}}}",
        )
    metrics = [component(spec, metric) for metric, spec in benchmark.metrics.items()]
    for metric in metrics:
        if missing := sorted(metric.needs & NOT_HERE):
            raise Refusal(
                f"benchmark {name}: metric {metric.name} needs {', '.join(missing)}, and no stage sees a held-out answer",
                f"compare with references: benchmarks.{name}.metrics.{metric.name}.to=references",
            )
    return metrics


def _key(
    context: Context,
    role: str,
    name: str,
    benchmark: Benchmark,
    parent: Slice,
    spec: Mapping[str, Any],
    models: Mapping[str, str] | None = None,
) -> Key:
    """What a slice depends on; `models`: whom its metrics ask."""
    settings = {"policy": role.removeprefix("run:"), "benchmark": name, "spec": {**asdict(benchmark), **spec}}
    if benchmark.limit is not None:  # which items are the first depends on the shards before
        settings["among"] = digest([shard.key for shard in parent.shards])
    return Key(settings, (parent,), {"policy": context.row(role)["model_id"], **(models or {})})


def _prompts(context: Context, role: str, name: str, benchmark: Benchmark) -> Slice:
    metrics = check_metrics(name, benchmark)
    prompts = context.prompts()
    longest = benchmark.max_tokens or context.recipe.sampling.max_tokens
    spec: dict[str, Any] = {"max_tokens": longest, "metrics": {m.name: m.identity() for m in metrics}}
    if stop := _stop(context, role):
        spec["stop"] = stop
    asks = {metric.name: asked(metric) for metric in metrics if metric.by is not None}
    if asks:
        spec["asked"] = asks
    chosen = _first(context, prompts, "prompt_id", benchmark)
    if not chosen:
        raise Refusal(f"{prompts.path} has no {benchmark.split} prompts for benchmark {name}", "prompts.held_out=0.1")

    def compute(shard: Shard, work: Work) -> pa.Table:
        rows = [r for r in shard.parent_rows(columns).to_pylist() if r["prompt_id"] in chosen]
        return _answered(context, role, name, prompts, rows, longest, metrics, work)

    columns = [*PROMPT_COLUMNS, "teacher_messages"]
    models = {f"{m}.{as_}": context.row(who)["model_id"] for m, roles in asks.items() for as_, who in roles.items()}
    key = _key(context, role, name, benchmark, prompts, spec, models)
    model = context.model(role).path
    made = context.make(
        "evaluate",
        "evaluations",
        key,
        context.recipe.name,
        compute,
        total=len(chosen),
        unit="prompts",
        model=model,
        ability="generate",
        asks=[who for roles in asks.values() for who in roles.values()],
    )
    context.remark_bill(made)
    return made


def _stop(context: Context, role: str) -> list[str]:
    """Further texts that end an answer: those that end the pool's samples. A teacher ends where its model says."""
    return [] if role == "teacher" else list(context.recipe.sampling.stop)


def _first(context: Context, parent: Slice, id_: str, benchmark: Benchmark) -> set[int]:
    """Ids of the benchmark's items: the first of its split, in the slice's order."""
    rows = context.lake.read(parent, [id_, "split"])
    ids = rows.filter(pc.equal(rows.column("split"), benchmark.split)).column(id_).to_pylist()
    return set(ids[: benchmark.limit])


def _answered(
    context: Context,
    role: str,
    name: str,
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
    ids = prompt_ids(context, role, shown, longest)
    engine, tokens = context.engine(role, "generate"), context.tokens(role)
    work.tally.device = engine.device
    sampling = TokenSampling(
        temperature=0.0, max_tokens=longest, stop_ids=tuple(context.stop_ids(role, _stop(context, role)))
    )
    requests = [GroupRequest(r["prompt_id"], i, [0], sampling) for r, i in zip(rows, ids, strict=True)]
    texts: dict[int, dict[str, Any]] = {}
    for group in engine.generate(requests):
        draw = group.samples[0]
        texts[group.group_id] = {
            "text": tokens.text(draw.token_ids).strip(),
            "finish_reason": draw.finish_reason,
            "n_tokens": len(draw.token_ids),
        }
        work.done(1, 0, len(draw.token_ids))
    work.tally.add(tokens_in=sum(len(i) for i in ids))
    answered = [texts[r["prompt_id"]] for r in rows]
    inputs = batch(answered, rows, {}, [{}] * len(rows))
    batches = [with_replies(context, metric, inputs, rows, prompts, work, "evaluate") for metric in metrics]
    values = _measured(metrics, batches)
    return _table(context, role, name, [
        (hex_id(r["prompt_id"]), a["text"], r["references"], v) for r, a, v in zip(rows, answered, values, strict=True)
    ])  # fmt: skip


def _measured(metrics: list[Component], batches: list[Batch]) -> list[dict[str, float]]:
    """One dict an item, of a batch a metric; a metric without a value is left out, never 0."""
    found: list[dict[str, float]] = [{} for _ in range(len(batches[0]))]
    for metric, inputs in zip(metrics, batches, strict=True):
        for item, reward in zip(found, metric.score(inputs), strict=True):
            if reward.value is not None:
                item[metric.name] = reward.value
    return found


def _table(
    context: Context, role: str, name: str, items: list[tuple[str, str | None, list[str] | None, dict[str, float]]]
) -> pa.Table:
    shared = {"policy": role.removeprefix("run:"), "model_id": context.row(role)["model_id"], "benchmark": name}
    rows = [
        {**shared, "item": item, "prediction": prediction, "gold": gold, "metrics": list(metrics.items())}
        for item, prediction, gold, metrics in items
    ]
    return pa.Table.from_pylist(rows, schema=EVALUATIONS.schema)


def _likelihood(context: Context, role: str, name: str, benchmark: Benchmark) -> Slice:
    corpus = _corpus(context, name, benchmark)
    chosen = _first(context, corpus, "document_id", benchmark)
    if not chosen:
        raise Refusal(
            f"{corpus.path} has no {benchmark.split} documents for benchmark {name}", "corpus.NAME.held_out=0.1"
        )

    def compute(shard: Shard, work: Work) -> pa.Table:
        rows = [r for r in shard.parent_rows(["document_id", "text"]).to_pylist() if r["document_id"] in chosen]
        measured = _bits(context, role, {r["document_id"]: r["text"] for r in rows}, work)
        return _table(context, role, name, [(hex_id(d), None, None, v) for d, v in measured.items()])

    key, model = _key(context, role, name, benchmark, corpus, {}), context.model(role).path
    return context.make(
        "evaluate",
        "evaluations",
        key,
        context.recipe.name,
        compute,
        total=len(chosen),
        unit="documents",
        model=model,
        ability="score",
    )


def _corpus(context: Context, name: str, benchmark: Benchmark) -> Slice:
    found = find_corpora(context.lake, context.recipe, context.row("student")["tokenizer"])
    labels = [s.label for s in found]
    wanted = benchmark.corpus or (labels[0] if len(labels) == 1 else "")
    if wanted not in labels:
        raise Refusal(
            f"benchmark {name} measures corpus {wanted!r}: {nearest(wanted, labels)}",
            f"benchmarks.{name}.corpus={labels[0]}",
        )
    return found[labels.index(wanted)]


def _bits(context: Context, role: str, documents: Mapping[int, str], work: Work) -> dict[int, dict[str, float]]:
    """document_id → bits of all predicted tokens, and the bytes of text that they are."""
    tokens, requests = context.tokens(role), []
    found = {}
    for id_, text in documents.items():
        ids, context_bytes = tokens.document(text)
        found[id_] = {"bits": 0.0, "bytes": float(len(text.encode()) - context_bytes)}
        requests += [ScoreRequest(id_, window[:1], [window[1:]]) for window in windows(ids, tokens.context)]
    if requests:
        engine = context.engine(role, "score")
        work.tally.device = engine.device
        for scored in engine.score(requests):
            found[scored.group_id]["bits"] -= sum(scored.logprobs[0]) / math.log(2)
            work.tally.add(0, 1, len(scored.logprobs[0]))
    work.done(len(documents))
    return found


def windows(ids: list[int], context: int | None) -> Iterator[list[int]]:
    """A document cut so that each piece fits; a piece begins with the last token of the piece before it.

    >>> list(windows([1, 2, 3, 4, 5], 3))
    [[1, 2, 3], [3, 4, 5]]
    """
    step = (context or max(len(ids), 2)) - 1
    for start in range(0, len(ids) - 1, step):
        yield ids[start : start + step + 1]
