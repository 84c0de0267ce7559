"""Faroese and its neighbours: which real sentences train, which measure, the tricks that must not pay, and the recipe of the docs.

Reads FAROESE_TEXT and docs/faroese.md. What trains: half of lid/ (by hash) and SIB-200; what measures: the other half, OFT without
the 300 sentences of lid/, FarPaHC (ö for ø) and NTREX. None stands on both sides."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from factory.rewards.text import squash, words
from factory.train_language import held_back

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "faroese.md"
FOREIGN = ("is", "da", "nb", "nn", "sv", "en", "de")
CODES = {"fo": "fao", "is": "isl", "da": "dan", "en": "eng"}
LENGTHS = {"1–3": (1, 3), "4": (4, 4), "5–9": (5, 9), "10–19": (10, 19), "≥ 20": (20, 10**6)}
Texts = dict[tuple[str, str], list[str]]
RELIABLE = 5  # words from which the figures are promised

HOUSE = "Hon býr í einum lítlum húsi við sjógvin. "
TRICKS = {
    "one word repeated": "Eg eg eg eg",
    "one word repeated for long": "eg " * 40,
    "two words in turn": "Eg og tú og eg og tú og eg og tú",
    "a sentence repeated": HOUSE * 8,
    "a long sentence repeated": "Í morgin fara vit til Havnar at keypa eina bók og nakað av mati til hundin. " * 8,
    "Icelandic": "Hún býr í litlu húsi við sjóinn og fer á hverjum degi í vinnuna.",
    "Danish": "Hun bor i et lille hus ved havet og går på arbejde hver dag.",
    "names only": "Jógvan Poulsen Marjun Dam Høgni Hoydal Tórshavn Klaksvík",
    "names only, each a sentence": "Jógvan. Marjun. Høgni. Tórunn. Tórshavn. Klaksvík.",
    "names only, with commas": "Jógvan, Marjun, Høgni, Tórunn og Sjúrður",
    "numbers only": "1 2 3 4 5 1957 1.234,5",
    "one word": "Ja.",
    "nothing": "",
    "blank lines": "\n \n",
    "signs": "😀 !!! … ???",
}
WITH_DICTIONARY = {
    "names only, lower-case": "jógvan poulsen marjun dam høgni hoydal tórshavn klaksvík",
    "Faroese letters": "á ð í ó ú ý æ ø",
    "Faroese-looking syllables": "áð øð ýð ið oð uð",
}
"""Tricks that only the dictionary sees."""
PASSING = {
    "a list of words": "hestur bátur fuglur sjógvur vøllur kúgv seyður lundi tjaldur",
    "words in any order": "sjógvin húsi í hon við lítlum býr einum",
    "half Danish": HOUSE + "Hun går på arbejde hver dag.",
}
"""What identification and spelling do not see."""


def folder() -> Path:
    """Where the Faroese text stands, or would."""
    return ROOT / os.environ.get("FAROESE_TEXT", "../shared/faroese")


def _lines(name: str) -> list[str]:
    return (folder() / name).read_text(encoding="utf-8").splitlines()


def _sib(language: str) -> list[str]:
    files = [folder() / "sib200" / f"{CODES[language]}_Latn.{split}.tsv" for split in ("train", "dev")]
    rows = (row for file in files for row in csv.DictReader(_lines(str(file)), delimiter="\t"))
    return [row["text"] for row in rows]


def training() -> dict[str, list[str]]:
    """language → sentences that train the small fastText model."""
    found = {}
    for language in ("fo", *FOREIGN):
        half = [line for line in _lines(f"lid/{language}.txt") if not held_back(line, 0.5)]
        found[language] = [squash(line) for line in half + (_sib(language) if language in CODES else [])]
    return found


def measuring() -> Texts:
    """(set, language) → different sentences that trained nothing."""
    found = {("lid", lang): [x for x in _lines(f"lid/{lang}.txt") if held_back(x, 0.5)] for lang in ("fo", *FOREIGN)}
    known = set(map(squash, _lines("lid/fo.txt")))
    found["OFT", "fo"] = [line for line in _lines("ud/ud_faroese_oft.txt") if squash(line) not in known]
    found["FarPaHC", "fo"] = _lines("ud/ud_faroese_farpahc.txt")
    pairs = [json.loads(line) for line in _lines("parallel/ntrex128_500.jsonl")]
    for language, code in CODES.items():
        found["NTREX", language] = [row[code] for row in pairs]
    trained = {line for lines in training().values() for line in lines}
    return {key: [x for x in dict.fromkeys(map(squash, lines)) if x not in trained] for key, lines in found.items()}


def n_words(text: str) -> int:
    """Words but numbers, as `language` counts them (repeated ones too)."""
    return sum(not word[0].isdigit() for word in words(text))


def recall(verdicts: Sequence[float | None], faroese: bool) -> float:
    """Share of right decisions: called Faroese where it is, not so where it is not. No verdict is no Faroese."""
    called = np.array([value == 1.0 for value in verdicts])
    return float(called.mean() if faroese else 1 - called.mean())


def verdicts(texts: Sequence[str], **identifier: Any) -> list[float | None]:
    """1 where a text's most probable language is Faroese, else 0; short texts too."""
    from factory.rewards import Batch, component

    spec = {"use": "language", "output": "verdict", "min_words": 1, **identifier}
    return [reward.value for reward in component(spec).score(Batch.of_texts(list(texts)))]


def of_language(texts: Texts, language: str) -> list[str]:
    """The sentences of one language in all sets."""
    return [line for (_, found), lines in texts.items() if found == language for line in lines]


def long_enough(texts: Texts) -> Texts:
    """Those with five words and more."""
    return {key: [line for line in lines if n_words(line) >= RELIABLE] for key, lines in texts.items()}


def balanced(texts: Texts, names: Sequence[str], **identifier: Any) -> float:
    """Mean of the recall of Faroese in these sets and of the mean recall of the foreign languages, each weighing the same."""
    own = recall(verdicts([line for name in names for line in texts[name, "fo"]], **identifier), True)
    others = [recall(verdicts(of_language(texts, language), **identifier), False) for language in FOREIGN]
    return (own + float(np.mean(others))) / 2


def recipes() -> list[dict[str, Any]]:
    """The recipes that docs/faroese.md shows, in their order: with the dictionary, without it, where right answers are short."""
    import yaml

    return [
        yaml.safe_load(block)
        for block in re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    ]


def rewards(
    recipe: Mapping[str, Any], texts: Sequence[str], changed: Mapping[str, Mapping[str, Any]], key: str = "reward"
) -> np.ndarray:
    """(texts,) float64: a recipe's expression, through its components and SQL; NaN is null. `changed`: settings by component."""
    from data.advantages import evaluate
    from data.expression import compile_expression
    from factory.rewards import Batch, component

    batch, columns = Batch.of_texts(list(texts)), {}
    for name, spec in recipe["components"].items():
        found = component({**spec, **changed.get(name, {})}, name).score(batch)
        columns[name] = pa.array([reward.value for reward in found], pa.float64())
    expression = compile_expression(recipe[key], list(columns))
    return evaluate(expression, pa.table(columns | {"group_id": pa.array([0] * len(batch))}))
