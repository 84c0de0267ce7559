"""How well a policy fits held-out documents: bits and bytes of each, student beside teacher.

Reads `corpus`. A document's first token is context only: the begin token where the tokenizer puts one, else its first token of
text, whose bytes are then not counted. The end token counts on neither side, so that tokenizers compare. A document longer than the
context is cut into windows, each with one token of the window before it as context. Refuses a corpus that is not there, or has no
such split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data.keys import hex_id
from data.lake import Shard
from data.manifest import Slice
from data.pool import find_corpora
from data.refusal import Refusal, in_range, nearest
from factory.benchmarks import Benchmark, Planned, Sizes
from factory.benchmarks._slices import Measured, first, key_under, table
from factory.config import FactoryRecipe
from factory.context import Context, Work
from factory.engines import ScoreRequest


@dataclass(frozen=True)
class Settings:
    """Which documents."""

    split: str = "held_out"
    """Split of the documents: held_out or train."""
    corpus: str | None = None
    """Name of the corpus whose documents are measured; null: the recipe's only one."""
    limit: int | None = None
    """Only the first so many documents."""

    def __post_init__(self) -> None:
        in_range("benchmarks.NAME.limit", self.limit, 1)


def planned(recipe: FactoryRecipe, item: Benchmark, sizes: Sizes) -> Planned | None:
    """Every document of the corpus's file read once, train documents too where a column says which are held out.

    None for a hub data set, which an estimate does not read."""
    from factory.sources import Rows, is_file

    name = item.settings.corpus or next(iter(recipe.factory.corpus), "")
    source = recipe.factory.corpus.get(name)
    if source is None or not is_file(source.path):
        return None
    share = 1.0 if source.held_out is None else source.held_out if item.settings.split == "held_out" else 1.0
    column, shown, documents, tokens = source.columns.get("text", "text"), 200, 0, 0
    for row in Rows(source, f"corpus.{name}", source.limit):
        documents += 1
        tokens += sizes.count(str(row.get(column) or "")) if documents <= shown else 0
    items = min(math.ceil(documents * share), item.settings.limit or documents)
    return Planned(items, items * tokens / max(min(documents, shown), 1), 0)


def make(context: Context, role: str, item: Benchmark) -> Slice:
    """One row a document, with its bits and bytes."""
    corpus = _corpus(context, item)
    chosen = first(context, corpus, "document_id", item)
    if not chosen:
        raise Refusal(
            f"{corpus.path} has no {item.settings.split} documents for benchmark {item.name}",
            "corpus.NAME.held_out=0.1",
        )

    def compute(shard: Shard, work: Work) -> pa.Table:
        rows = [r for r in shard.parent_rows(["document_id", "text"]).to_pylist() if r["document_id"] in chosen]
        measured = _bits(context, role, {r["document_id"]: r["text"] for r in rows}, work)
        return table(context, role, item, [Measured(hex_id(d), None, None, v) for d, v in measured.items()])

    # both stand in keys since benchmarks of both kinds had one settings class
    spec: dict[str, Any] = {"metrics": {}, "max_tokens": None}
    return context.make(
        "evaluate",
        "evaluations",
        key_under(context, role, item, corpus, spec),
        context.recipe.name,
        compute,
        total=len(chosen),
        unit="documents",
        model=context.model(role).path,
        ability="score",
    )


def _corpus(context: Context, item: Benchmark) -> Slice:
    found = find_corpora(context.lake, context.recipe, context.row("student")["tokenizer"])
    labels = [s.label for s in found]
    wanted = item.settings.corpus or (labels[0] if len(labels) == 1 else "")
    if wanted not in labels:
        raise Refusal(
            f"benchmark {item.name} measures corpus {wanted!r}: {nearest(wanted, labels)}",
            f"benchmarks.{item.name}.corpus={labels[0]}",
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
