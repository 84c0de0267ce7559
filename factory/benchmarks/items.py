"""Greedy answers to questions of a file or hub data set, measured by named metrics: for whatever has no kind of its own.

Covers similarity of sentences (spearman), trivia (exact, f1), logic (accuracy, mcc, macro_f1), word problems (numeric), translation
(chrf, bleu), entities as JSON. Examples come before the question, as turns for a model with a chat template, else as one text; then
the answer ends at a blank line. Workers read the file too. Refuses unknown metrics, missing labels, and what `_rows.py` refuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Literal

import pyarrow as pa

from data.manifest import Slice
from data.reasoning import answer_part
from data.refusal import Refusal, in_range, nearest
from factory.benchmarks import Benchmark, Planned, Sizes
from factory.benchmarks._metrics import METRICS, WITH_LABELS
from factory.benchmarks._rows import Question, as_text, as_turns, examples, questions
from factory.benchmarks._slices import Measured, drawn, make_own, refuse_too_long, stop, table
from factory.config import FactoryRecipe
from factory.context import Context, Work
from factory.rewards.text import answer_span
from factory.sources import is_file

VERSION = 1
SEEN = 200  # questions whose length an estimate measures


@dataclass(frozen=True)
class Settings:
    """Which questions, what comes before them, and by what their answers are measured."""

    path: str = ""
    """Hub id, or path of a .jsonl, .json, .parquet or .csv file."""
    config: str | None = None
    """Configuration name of a hub data set."""
    split: str = "train"
    """Split of a hub data set."""
    columns: dict[str, str] = field(default_factory=dict)
    """messages (a text or messages), references (a text, number, object or list), id, answer_pattern → the source's column."""
    template: str | None = None
    """Jinja over a row's columns that gives the question, in place of a column."""
    metrics: tuple[str, ...] = ()
    """exact, f1, chrf, bleu, accuracy, mcc, macro_f1, numeric, spearman, entities."""
    labels: tuple[str, ...] = ()
    """What an answer may be, for accuracy, mcc and macro_f1."""
    shots: int = 0
    """Examples before each question: the first rows of `examples`."""
    examples: str | None = None
    """File of the same columns; null: the split train of the hub data set."""
    chat: Literal["auto", "yes", "no"] = "auto"
    """Whether the model is asked in turns; auto: where its tokenizer has a chat template."""
    limit: int | None = None
    """Only the first so many questions."""
    max_tokens: int | None = None
    """Longest answer; null: as the pool's samples."""

    def __post_init__(self) -> None:
        in_range("benchmarks.NAME.limit", self.limit, 1)
        in_range("benchmarks.NAME.max_tokens", self.max_tokens, 1)
        in_range("benchmarks.NAME.shots", self.shots, 0)
        for metric in self.metrics:
            if metric not in METRICS:
                raise ValueError(f"no metric is called {metric!r}; {nearest(metric, METRICS)}")
        if not self.metrics:
            raise ValueError(f"there are no metrics; known: {', '.join(METRICS)}")
        if WITH_LABELS & set(self.metrics) and len(self.labels) < 2:
            raise ValueError("labels are at least two where accuracy, mcc or macro_f1 is asked for")


@dataclass(frozen=True)
class Examples:
    """Where examples come from."""

    path: str
    config: str | None
    split: str
    columns: dict[str, str]
    template: str | None


def check(recipe: FactoryRecipe, item: Benchmark) -> None:
    """Refuse a file without a question, and examples that are nowhere. The hub is asked when it is the benchmark's turn."""
    if is_file(item.settings.path):
        next(questions(item.settings, f"benchmarks.{item.name}", 1))
        _examples(item)


def texts(item: Benchmark) -> Iterator[str]:
    """Every question and right answer."""
    for one in questions(item.settings, f"benchmarks.{item.name}", item.settings.limit):
        yield one.text
        yield from one.references


def planned(recipe: FactoryRecipe, item: Benchmark, sizes: Sizes) -> Planned | None:
    """Each question read once with its examples, each answer as long as it may be. None for a hub data set."""
    if not is_file(item.settings.path):
        return None
    found = list(questions(item.settings, f"benchmarks.{item.name}", item.settings.limit))
    pool = _examples(item)
    shown = [as_text(one, examples(pool, item.settings.shots, one)) for one in islice(found, SEEN)]
    length = sum(map(sizes.count, shown)) / len(shown)
    longest = item.settings.max_tokens or recipe.sampling.max_tokens
    return Planned(len(found), len(found) * length, len(found) * longest)


def make(context: Context, role: str, item: Benchmark) -> Slice:
    """One row a question."""
    chosen = item.settings
    longest = chosen.max_tokens or context.recipe.sampling.max_tokens
    chat = chosen.chat == "yes" or (chosen.chat == "auto" and context.tokens(role).template is not None)
    pool = _examples(item)
    rows = []
    for one in questions(chosen, f"benchmarks.{item.name}", chosen.limit):
        before = examples(pool, chosen.shots, one)
        rows.append({**asdict(one), "shown": as_turns(one, before) if chat else as_text(one, before)})
    spec: dict[str, Any] = {
        "version": VERSION,
        "metrics": list(chosen.metrics),
        "labels": list(chosen.labels),
        "max_tokens": longest,
        "stop": stop(context, role),
    }
    if tags := context.recipe.reasoning.tags(role):
        spec["reasoning"] = list(tags)

    def compute(shard: Sequence[dict[str, Any]], work: Work) -> pa.Table:
        return _answered(context, role, item, shard, longest, work)

    return make_own(context, role, item, spec, rows, compute)


def _examples(item: Benchmark) -> list[Question]:
    """So many examples that one may be left out, where it is the question itself."""
    chosen, what = item.settings, f"benchmarks.{item.name}.examples"
    if not chosen.shots:
        return []
    source = Examples(chosen.examples or chosen.path, chosen.config, "train", chosen.columns, chosen.template)
    if chosen.examples is None and chosen.split == "train":
        raise Refusal(f"{what}: {chosen.shots} examples are wanted, and no file of them is named", f"{what}=FILE.jsonl")
    found = list(questions(source, what, chosen.shots + 1))
    if len(found) < chosen.shots:
        raise Refusal(
            f"{what}: {source.path} has {len(found)} rows for {chosen.shots} examples",
            f"{what[:-9]}.shots={len(found)}",
        )
    return found


def _answered(
    context: Context, role: str, item: Benchmark, rows: Sequence[dict[str, Any]], longest: int, work: Work
) -> pa.Table:
    tokens = context.tokens(role)
    prompts: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        text = isinstance(row["shown"], str)
        prompts[number] = list(tokens.tokenizer(row["shown"]).input_ids) if text else tokens.prompt_ids(row["shown"])
        refuse_too_long(context, role, item, row["id"], len(prompts[number]), longest)
    draws = drawn(context, role, prompts, longest, context.stop_ids(role, stop(context, role)), work)
    found = []
    for number, row in enumerate(rows):
        said = tokens.text(draws[number].token_ids).strip()
        thinks = context.recipe.reasoning.tags(role)  # whose blank lines end no answer
        said = up_to_a_blank_line(said) if isinstance(row["shown"], str) and not thinks else said
        answer = answer_part(said, thinks) or ""
        found.append(Measured(row["id"], said, row["references"], measured(answer, row, item.settings)))
    return table(context, role, item, found)


def up_to_a_blank_line(said: str) -> str:
    """Where a model that continues text ends its answer: behind it comes the next question, of its own making."""
    return said.split("\n\n", 1)[0].strip()


def measured(said: str, row: dict[str, Any], settings: Settings) -> dict[str, float]:
    """The numbers of one answer: of its part behind the thinking, within <answer> tags, or as the row's pattern finds it."""
    answer = answer_span(said, row["answer_pattern"]) or ""
    return {
        k: v for name in settings.metrics for k, v in METRICS[name](answer, row["references"], settings.labels).items()
    }
