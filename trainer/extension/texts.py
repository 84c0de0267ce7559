"""Documents to learn tokens from, and held-out ones to measure on: a recipe's corpora in the lake, or one file.

Reads `corpus`, or a .jsonl or text file. Refuses sources without text and without held-out documents."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.keys import digest, nfc
from data.refusal import Refusal, nearest

if TYPE_CHECKING:
    from data.config import Recipe

EVERY = 20  # of a file that names no split, every so manieth document is held out


@dataclass(frozen=True)
class Texts:
    """Two lists of documents, and what they were read from."""

    train: list[str]
    held_out: list[str]
    source: str
    """Slices of the lake, or the file with the hash of its bytes: what changes when the documents do."""
    slices: list[str]


def of_lake(recipe: Recipe, tokenizer: str, corpus: str | None) -> Texts:
    """The recipe's corpora in the start's tokens, or the one of that name."""
    from data import pool
    from data.lake import Lake

    lake = Lake.open(recipe.lake)
    found = {slice_.label: slice_ for slice_ in pool.find_corpora(lake, recipe, tokenizer)}
    if corpus is not None and corpus not in found:
        raise Refusal(f"no corpus named {corpus} in recipe {recipe.name}: {nearest(corpus, found)}", "corpus=NAME")
    chosen = [slice_ for name, slice_ in found.items() if corpus in (None, name)]
    split: dict[str, list[str]] = {"train": [], "held_out": []}
    for slice_ in chosen:
        for row in lake.read(slice_, ["text", "split"]).to_pylist():
            split[row["split"]].append(row["text"])
    paths = [slice_.path for slice_ in chosen]
    again = "factory.corpus.NAME.held_out=0.05, then python -m factory … 'stages=[corpus]'"
    return _whole(Texts(split["train"], split["held_out"], ", ".join(paths), paths), again)


def of_file(path: str) -> Texts:
    """A .jsonl file by its columns text and split, any other by its lines; without a column split, every 20th is held out."""
    try:
        content = Path(path).read_bytes()
        lines = [line for line in content.decode("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"text={path} is no text file: {error}", "text=FILE") from error
    rows = [_row(line, f"{path} document {n}", Path(path).suffix == ".jsonl") for n, line in enumerate(lines, 1)]
    held = [split == "held_out" if split else n % EVERY == 0 for n, (_, split) in enumerate(rows, 1)]
    train = [text for (text, _), out in zip(rows, held, strict=True) if not out]
    rest = [text for (text, _), out in zip(rows, held, strict=True) if out]
    again = f'mark documents with "split": "held_out", or give {EVERY} of them'
    return _whole(Texts(train, rest, f"{path} {digest(rows)}", []), again)


def _row(line: str, where: str, is_json: bool) -> tuple[str, str | None]:
    """(text, split) of one document."""
    if not is_json:
        return nfc(line), None
    try:
        row = json.loads(line)
        return nfc(row["text"]), row.get("split")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refusal(f"{where} is no object with a text: {error!r}", "correct that line") from error


def _whole(texts: Texts, again: str) -> Texts:
    for name, documents in (("train", texts.train), ("held-out", texts.held_out)):
        if not any(documents):
            raise Refusal(f"{texts.source} has no {name} document", again)
    return texts
