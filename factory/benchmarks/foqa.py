"""FoQA by EuroEval's own protocol, on the hub's data set or local files of its schema: F1 and exact match, 0 to 100.

As EuroEval at f37841c8d538 does it for a generative model (files and functions: `_foqa.py`, `_foqa_tokens.py`): 10 iterations,
each of resampled splits; 4 examples; base models continue one text, chat models answer turns; greedy, 32 tokens; the answer
lower-cased; the metric squad_v2, which counts a question that an iteration drew twice once. The figure is the mean over iterations
(`squad_f1_mean`, `squad_em_mean`), ± 1.96 standard errors (`…_radius`). One row a question and iteration.

Left out: models that reason first (8,192 tokens there), a model's own generation settings, and the probe for the stop text <sep>
(name it in `stop` where a model writes it). Refuses a chat question that alone is longer than the context; EuroEval cuts it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from data.manifest import Slice
from data.refusal import Refusal, in_range
from factory.benchmarks import Benchmark, Planned, Sizes
from factory.benchmarks._foqa import Splits, as_text, as_turns, few_shot, read_splits, resampled
from factory.benchmarks._foqa_tokens import Reading
from factory.benchmarks._slices import Measured, drawn, make_own, table
from factory.benchmarks._squad import scores
from factory.config import FactoryRecipe
from factory.context import Context, Work
from factory.sources import is_file

VERSION = 1
SEEN = 100  # prompts whose length an estimate measures


@dataclass(frozen=True)
class Settings:
    """Where the questions are. What the protocol fixes has its values as defaults; other ones give figures of another benchmark."""

    path: str = "EuroEval/foqa"
    """Hub id; a folder with train, val and test as .jsonl, .json, .parquet or .csv; or one such file with a column `split`."""
    config: str | None = None
    """Configuration name of a hub data set."""
    evaluated: Literal["test", "val"] = "test"
    """Split that is asked; val while something is being developed."""
    iterations: int = 10
    """How often everything is resampled and asked."""
    shots: int = 4
    """Examples before each question."""
    max_tokens: int = 32
    """Longest answer."""
    chat: Literal["auto", "yes", "no"] = "auto"
    """Whether the model is asked in turns; auto: where its tokenizer has a chat template."""
    stop: tuple[str, ...] = ()
    """Further texts that end an answer."""

    def __post_init__(self) -> None:
        in_range("benchmarks.NAME.iterations", self.iterations, 1)
        in_range("benchmarks.NAME.shots", self.shots, 0)
        in_range("benchmarks.NAME.max_tokens", self.max_tokens, 1)


def check(recipe: FactoryRecipe, item: Benchmark) -> None:
    """Refuse splits that are not there, before any work. The hub is asked when it is the benchmark's turn."""
    if _local(item):
        _splits(item)


def texts(item: Benchmark) -> Iterator[str]:
    """Context, question and answers of what is asked; examples are no secret."""
    for row in _splits(item)[item.settings.evaluated]:
        yield row["context"]
        yield row["question"]
        yield from row["answers"]["text"]


def planned(recipe: FactoryRecipe, item: Benchmark, sizes: Sizes) -> Planned | None:
    """Every prompt of every iteration read once, each answer as long as it may be. None for a hub data set."""
    if not _local(item):
        return None
    rows = _rows(item, chat=False)
    length = sum(sizes.count(row["shown"]) for row in rows[:SEEN]) / len(rows[:SEEN])
    return Planned(len(rows), len(rows) * length, len(rows) * item.settings.max_tokens)


def make(context: Context, role: str, item: Benchmark) -> Slice:
    """The questions of all iterations."""
    chosen, tokens = item.settings, context.tokens(role)
    chat = chosen.chat == "yes" or (chosen.chat == "auto" and tokens.template is not None)
    if chat and tokens.template is None:
        raise Refusal(f"{context.model(role).path} has no chat template", f"benchmarks.{item.name}.chat=no")
    rows = _rows(item, chat)
    reading = Reading(tokens, chat, chosen.max_tokens, chosen.stop)
    prompts: dict[int, dict[str, list[int]]] = {}

    def of_iteration(number: int) -> dict[str, list[int]]:
        if number not in prompts:
            own = [row for row in rows if row["iteration"] == number]
            ids = reading.prompts([row["shown"] for row in own])
            prompts[number] = {row["id"]: one for row, one in zip(own, ids, strict=True)}
        return prompts[number]

    def compute(shard: Sequence[dict[str, Any]], work: Work) -> pa.Table:
        ids = {number: of_iteration(row["iteration"])[row["id"]] for number, row in enumerate(shard)}
        draws = drawn(context, role, ids, reading.longest, context.stop_ids(role, []), work)
        said = [reading.answer(draws[number].token_ids) for number in range(len(shard))]
        return table(context, role, item, [_scored(row, text) for row, text in zip(shard, said, strict=True)])

    spec = {"version": VERSION, "max_tokens": chosen.max_tokens, "chat": chat, "stop": list(chosen.stop)}
    return make_own(context, role, item, spec, rows, compute)


def _scored(row: dict[str, Any], said: str) -> Measured:
    f1, em = scores(said.lower(), [answer.lower() for answer in row["answers"]])
    metrics = {"squad_f1": 100 * f1, "squad_em": 100 * em, "iteration": float(row["iteration"])}
    return Measured(row["id"], said, row["answers"], metrics, row["iteration"])


def _local(item: Benchmark) -> bool:
    return Path(item.settings.path).exists() or is_file(item.settings.path)


def _splits(item: Benchmark) -> Splits:
    what, path = f"benchmarks.{item.name}", item.settings.path
    splits = read_splits(path, item.settings.config, what)
    for name in (item.settings.evaluated, *(["train"] if item.settings.shots else [])):
        if name not in splits:
            raise Refusal(f"{what}: {path} has no split {name}", f"put {name}.jsonl beside the others in the folder")
    return splits


def _rows(item: Benchmark, chat: bool) -> list[dict[str, Any]]:
    """Each iteration's questions, every id once, behind the iteration's examples."""
    chosen, rows = item.settings, []
    for number, splits in enumerate(resampled(_splits(item), chosen.iterations, chosen.evaluated)):
        before = few_shot(splits["train"], number, chosen.shots, f"benchmarks.{item.name}") if chosen.shots else []
        for row in {row["id"]: row for row in splits["test"]}.values():
            shown = as_turns(row, before) if chat else as_text(row, before)
            rows.append({"id": row["id"], "iteration": number, "shown": shown, "answers": list(row["answers"]["text"])})
    return rows
