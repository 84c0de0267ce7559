"""How well Faroese is told from its neighbours, and what the tricks earn: the tables of docs/faroese.md.

Reads FAROESE_TEXT and the recipes of docs/faroese.md; trains a small fastText model into a temporary folder; takes the dictionary
from FAROESE_DICTIONARY or where `make dictionary` puts it. With --write the tables go into that page. Refuses to measure without
the text or the dictionary."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "factory" / "rewards")]

from told_apart import (  # noqa: E402
    FOREIGN,
    LENGTHS,
    PAGE,
    PASSING,
    TRICKS,
    WITH_DICTIONARY,
    Texts,
    balanced,
    folder,
    long_enough,
    measuring,
    n_words,
    of_language,
    recall,
    recipes,
    rewards,
    training,
    verdicts,
)

DICTIONARY = ROOT / "build" / "bench" / "npm" / "node_modules" / "dictionary-fo" / "index.dic"
Identifiers = dict[str, dict[str, Any]]


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and with --write put the tables between the marks of the page."""
    from factory.train_language import train

    if not folder().is_dir():
        raise SystemExit(f"no Faroese text in {folder()}; next: FAROESE_TEXT=FOLDER")
    dictionary = os.environ.get("FAROESE_DICTIONARY", str(DICTIONARY))
    if not Path(dictionary).is_file():
        raise SystemExit(f"no dictionary {dictionary}; next: make dictionary")
    with tempfile.TemporaryDirectory() as held:
        model = Path(held) / "model.bin"
        train(training(), model)
        identifiers: Identifiers = {"py3langid": {}, "small fastText": {"method": "fasttext", "file": str(model)}}
        size = f"fastText model: {model.stat().st_size / 1e6:.1f} MB, {sum(map(len, training().values()))} sentences."
        told = "\n\n".join([size, *tables(measuring(), identifiers, dictionary)])
    print(told)
    if "--write" in arguments:
        block = f"<!-- measured -->\n{told}\n<!-- end measured -->"
        page = re.sub("<!-- measured -->.*<!-- end measured -->", lambda _: block, PAGE.read_text("utf-8"), flags=re.S)
        PAGE.write_text(page, encoding="utf-8")
    return 0


def tables(texts: Texts, identifiers: Identifiers, dictionary: str) -> Iterator[str]:
    """Markdown: recall by set, balanced accuracy, recall by length, words known, tricks."""
    long = long_enough(texts)
    yield _table(["recall", "sentences", *identifiers], _recalls(long, identifiers))
    yield _table(["balanced accuracy, Faroese of", *identifiers], _balanced(long, identifiers))
    both = [f"{name}: recall of {kind}" for name in identifiers for kind in ("Faroese", "foreign")]
    yield _table(["words", "sentences, Faroese", "foreign", *both], _lengths(texts, identifiers))
    yield _table(
        ["words that the dictionary knows", "mean", "5th percentile", "95th percentile"], _spelling(long, dictionary)
    )
    full, bare, _ = recipes()
    spelt = {"spelling": {"dictionary": dictionary}}
    ways: dict[str, Callable[[list[str]], np.ndarray]] = {}
    for name, identifier in identifiers.items():
        ways[f"{name}, dictionary"] = lambda lines, i=identifier: rewards(full, lines, spelt | {"language": i})
        ways[f"{name}, none"] = lambda lines, i=identifier: rewards(bare, lines, {"language": i})
    yield _table(["the recipe's value", *ways], _earned(long, ways))


def _recalls(texts: Texts, identifiers: Identifiers) -> Iterator[list[str]]:
    for (name, language), lines in texts.items():
        found = [recall(verdicts(lines, **spec), language == "fo") for spec in identifiers.values()]
        yield [f"{language}, {name}", str(len(lines)), *(f"{value:.3f}" for value in found)]


def _balanced(texts: Texts, identifiers: Identifiers) -> Iterator[list[str]]:
    sets = {name: [name] for name, language in texts if language == "fo"} | {
        "all together": [name for name, language in texts if language == "fo"]
    }
    for told, names in sets.items():
        yield [told, *(f"{balanced(texts, names, **spec):.3f}" for spec in identifiers.values())]


def _lengths(texts: Texts, identifiers: Identifiers) -> Iterator[list[str]]:
    own, other = of_language(texts, "fo"), [line for language in FOREIGN for line in of_language(texts, language)]
    for told, (low, high) in LENGTHS.items():
        kept = [[line for line in lines if low <= n_words(line) <= high] for lines in (own, other)]
        yield _length_row(told, kept, identifiers)
    for size in (3, 4):
        cut = [[" ".join(line.split()[:size]) for line in lines if len(line.split()) > size] for lines in (own, other)]
        yield _length_row(f"first {size} of longer ones", cut, identifiers)


def _length_row(told: str, kept: list[list[str]], identifiers: Identifiers) -> list[str]:
    found = [f"{recall(verdicts(lines, **spec), own):.3f}" if len(lines) >= 20 else "–"
             for spec in identifiers.values() for lines, own in zip(kept, (True, False), strict=True)]  # fmt: skip
    return [told, *(str(len(lines)) for lines in kept), *found]


def _spelling(texts: Texts, dictionary: str) -> Iterator[list[str]]:
    recipe = {"components": {"spelling": {"use": "spelling", "dictionary": dictionary}}, "reward": "spelling"}
    for (name, language), lines in texts.items():
        values = rewards(recipe, lines, {})
        values = values[~np.isnan(values)]
        yield [f"{language}, {name}", f"{values.mean():.3f}", *(f"{np.quantile(values, q):.3f}" for q in (0.05, 0.95))]


def _earned(texts: Texts, ways: dict[str, Callable[[list[str]], np.ndarray]]) -> Iterator[list[str]]:
    real = {name: lines for (name, language), lines in texts.items() if language == "fo"}
    for name, lines in real.items():
        yield [f"Faroese, {name}: 5th percentile (median)",
               *(f"{np.quantile(v, 0.05):.3f} ({np.median(v):.3f})" for v in (way(lines) for way in ways.values()))]  # fmt: skip
    for language in FOREIGN:
        lines = of_language(texts, language)
        yield [f"real {language}: 99th percentile", *(f"{np.quantile(way(lines), 0.99):.3f}" for way in ways.values())]
    for mark, tricks in (("", TRICKS), (" †", WITH_DICTIONARY), (" ‡", PASSING)):
        values = [way(list(tricks.values())) for way in ways.values()]
        for row, trick in enumerate(tricks):
            yield [trick + mark, *(f"{found[row]:.3f}" for found in values)]


def _table(head: list[str], rows: Iterator[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
