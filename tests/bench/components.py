"""Samples a second of the components that are asked to keep up with sampling: language, spelling, similarity.

Reads the Faroese sentences below FAROESE_TEXT, each a sample of its own, none twice; fetches dictionary-fo by npm into build/bench,
once. Seconds are the processor's: one core is meant, and others may work on this one. A word list and a model for `language` are
made from the same sentences. Refuses to measure without the text."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from figures import ROOT, Figure

GOAL = 5000  # samples a second and core
SOURCES = ("lid/fo.txt", "ud/ud_faroese_oft.txt", "ud/ud_faroese_farpahc.txt")
METRICS = ("bleu", "chrf", "rouge_l", "edit", "exact", "positional")
REPETITIONS = 3


def measure() -> list[Figure]:
    """A figure a component and setting; the best of three runs over all samples."""
    from factory.rewards.text import words

    texts = _texts()
    mean = sum(len(words(text)) for text in texts) / len(texts)
    with tempfile.TemporaryDirectory() as folder:
        return [
            Figure(
                name,
                _rate(spec, texts, fresh),
                GOAL,
                "samples/s",
                at_least=True,
                beside=f"{beside}{mean:.0f} words a sample",
            )
            for name, spec, fresh, beside in _variants(Path(folder), texts)
        ]


def _texts() -> list[str]:
    folder = ROOT / os.environ.get("FAROESE_TEXT", "../shared/faroese")
    files = [folder / name for name in SOURCES if (folder / name).is_file()]
    if not files:
        raise SystemExit(f"no Faroese text in {folder}; next: FAROESE_TEXT=FOLDER")
    lines = (line.strip() for file in files for line in file.read_text(encoding="utf-8").splitlines())
    return [text for text in dict.fromkeys(lines) if text]


def _variants(folder: Path, texts: list[str]) -> Iterator[tuple[str, dict[str, Any], bool, str]]:
    """Name, specification, whether the words are to be forgotten before each run, and what is said beside."""
    (folder / "words.txt").write_text("\n".join(texts[::2]), encoding="utf-8")
    spelling = {"use": "spelling", "dictionary": _dictionary()}
    yield "spelling, every word new", spelling, True, ""
    yield "spelling, words seen before", spelling, False, ""
    foreign = {"use": "foreign_words", "own": [_dictionary()], "foreign": [str(folder / "words.txt")]}
    yield "foreign_words, words seen before", foreign, False, ""
    yield "language, word list", {"use": "language", "method": "words", "file": str(folder / "words.txt")}, False, ""
    yield "language, py3langid", {"use": "language"}, False, ""
    yield "language, fastText", _fasttext(folder, texts), False, "a small model; "
    for metric in METRICS:
        yield f"similarity, {metric}", {"use": "similarity", "metric": metric}, False, ""


def _dictionary() -> str:
    folder = ROOT / "build" / "bench" / "npm"
    dictionary = folder / "node_modules" / "dictionary-fo" / "index.dic"
    if not dictionary.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--silent", "--no-audit", "--prefix", str(folder), "dictionary-fo@2.1.0"]
        subprocess.run(install, check=True)
    return str(dictionary)


def _fasttext(folder: Path, texts: list[str]) -> dict[str, Any]:
    import fasttext

    lines = [f"__label__fo {text}" for text in texts[:500]] + [f"__label__xx {text[::-1]}" for text in texts[:500]]
    (folder / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    model = fasttext.train_supervised(
        str(folder / "train.txt"), dim=16, epoch=2, minn=2, maxn=4, bucket=20000, thread=1, verbose=0
    )
    model.save_model(str(folder / "model.bin"))
    return {"use": "language", "method": "fasttext", "file": str(folder / "model.bin")}


def _rate(spec: dict[str, Any], texts: list[str], fresh: bool) -> float:
    from factory.rewards import Batch, component
    from factory.rewards._dictionary import known

    this = component(spec)
    # the reference of a sample is another sentence; sixteen samples have one, as in a group
    references = [[texts[-1 - i // 16]] for i in range(len(texts))]
    batch = Batch.of_texts(texts, references=references)
    this.score(Batch.of_texts(texts[:50], references=references[:50]))  # loads what is loaded once
    taken = []
    for _ in range(REPETITIONS):
        if fresh:
            known(spec["dictionary"]).clear()
        began = time.process_time()
        this.score(batch)
        taken.append(time.process_time() - began)
    return len(texts) / min(taken)
