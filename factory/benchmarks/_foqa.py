"""EuroEval's protocol for reading comprehension in Faroese: which rows, which examples, which words. No model, no lake.

Follows github.com/EuroEval/EuroEval at f37841c8d538 (2026-08-20): `data_loading.load_data` (resampling), `generation_utils`
(`extract_few_shot_examples`, `apply_prompt`), `prompt_templates/reading_comprehension.py` (the Faroese texts). Shuffles are left to
the library `datasets`, as there: `Dataset.shuffle(seed)`. Refuses splits and columns that are missing, ids that come twice, and too
few short contexts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.refusal import Refusal
from factory.sources import SUFFIXES, Rows, is_file

SEED = 4242
SHORT = (512, 1024, 2048, 4096, 8192)  # characters: examples have contexts below the first that leaves enough of them
PREFIX = "Hetta eru tekstir saman við spurningum og svar."
TEMPLATE = "Tekstur: {text}\nSpurningur: {question}\nSvara við í mesta lagi trimum orðum: {label}"
INSTRUCTION = (
    "Tekstur: {text}\n\nSvara hesum spurninginum um tekstin uppiyvir við í mesta lagi trimum orðum.\n\n"
    "Spurningur: {question}"
)

Row = Mapping[str, Any]
Splits = dict[str, list[Row]]
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class _Part:
    """One split of a source."""

    path: str
    config: str | None
    split: str


def read_splits(path: str, config: str | None, what: str) -> Splits:
    """train, val and test of a hub data set, of a folder with a file for each, or of a file with a column `split`."""
    if is_file(path):
        rows: list[Row] = list(Rows(_Part(path, None, "train"), what))
        found: Splits = {name: [r for r in rows if r.get("split") == name] for name in ("train", "val", "test")}
    else:
        found = {}
        for name in ("train", "val", "test"):
            files = [file for suffix in SUFFIXES if (file := Path(path) / f"{name}{suffix}").is_file()]
            if files or not Path(path).is_dir():
                part = _Part(str(files[0]), None, "train") if files else _Part(path, config, name)
                found[name] = list(Rows(part, what))
    splits = {name: rows for name, rows in found.items() if rows}
    for name, rows in splits.items():
        for number, row in enumerate(rows, 1):
            _refuse_other_schema(row, f"{what}: {path}, row {number} of {name}")
        if len({row["id"] for row in rows}) < len(rows):
            raise Refusal(f"{what}: {path} has an id twice in {name}", "give every question its own id")
    return splits


def _refuse_other_schema(row: Row, where: str) -> None:
    answers = row.get("answers")
    texts = answers.get("text") if isinstance(answers, Mapping) else None
    good = all(isinstance(row.get(name), str) for name in ("id", "context", "question"))
    if not good or not isinstance(texts, list) or not texts:
        raise Refusal(f"{where} is not of the form id, context, question, answers: {{text: [...]}}", "correct that row")


def resampled(splits: Splits, iterations: int, evaluated: str) -> list[Splits]:
    """Each iteration's rows: every split drawn again with replacement to its own size, all by one generator.

    `evaluated` takes the place of test before anything is drawn, as EuroEval does it by default with val."""
    import numpy as np

    generator, used = np.random.default_rng(SEED), splits | {"test": splits[evaluated]}
    drawn = {}
    for name in [name for name in ("train", "val", "test") if name in used]:
        size = len(used[name])
        drawn[name] = generator.integers(0, size, size=(iterations, size))
    return [{name: [used[name][j] for j in places[i]] for name, places in drawn.items()} for i in range(iterations)]


def few_shot(train: Sequence[Row], iteration: int, shots: int, what: str) -> list[Row]:
    """The examples of one iteration: short contexts, none twice, shuffled thrice by the iteration's seed.

    May be fewer than `shots` where resampling left fewer different contexts, as in EuroEval."""
    seed = SEED + iteration
    shuffled = _shuffled(train, seed)
    for limit in SHORT:
        short = [row for row in shuffled if len(row["context"]) < limit]
        if len(short) >= shots:
            break
    else:
        raise Refusal(
            f"{what}: under {shots} train rows have a context below {SHORT[-1]} characters", f"{what}.shots=0"
        )
    chosen: list[Row] = []
    for row in _shuffled(short, seed):
        if len(chosen) < shots and all(row["context"] != one["context"] for one in chosen):
            chosen.append(row)
    random.Random(seed).shuffle(chosen)
    return chosen


def _shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    import datasets

    places = datasets.Dataset.from_dict({"place": list(range(len(rows)))}).shuffle(seed=seed)
    return [rows[place] for place in places["place"]]


def _filled(template: str, row: Row, label: str = "") -> str:
    text, question = (row[name].replace("\n", " ").strip() for name in ("context", "question"))
    return template.format(text=text, question=question, label=label)


def _label(row: Row) -> str:
    return str(row["answers"]["text"][0]).replace("\n", " ")


def as_text(row: Row, examples: Sequence[Row]) -> str:
    """What a base model continues: prefix, examples with their answers, the question, a blank line between two."""
    return "\n\n".join([PREFIX, *(_filled(TEMPLATE, one, _label(one)) for one in examples), _filled(TEMPLATE, row)])


def as_turns(row: Row, examples: Sequence[Row]) -> Messages:
    """What a chat model is asked: examples as turns, then the question."""
    turns = []
    for one in examples:
        turns += [{"role": "user", "content": _filled(INSTRUCTION, one)}, {"role": "assistant", "content": _label(one)}]
    return [*turns, {"role": "user", "content": _filled(INSTRUCTION, row)}]
