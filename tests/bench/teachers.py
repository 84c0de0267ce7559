"""What translations, restatements, co-teachers and their checks bring where teachers answer in English: docs/recipes.md's tables.

    python tests/bench/teachers.py [--write]

The demo's world cut to eight islands (tests/acceptance/english_world.py): two teachers that answer in English, the second wrong
about three facts in ten, a translator, and a student that restates with planted mistakes. Behaviour cloning alone,
120 steps an arm. Makes everything in a temporary folder, some minutes; with --write the tables go between their marks in
docs/recipes.md."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "acceptance"))

from conftest import Place
from english_models import BC, made
from test_english_teacher import answers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
MARKS = ("<!-- teachers -->", "<!-- end teachers -->")
ALONE = ("co_teachers=[]", "rephrase=null")  # one teacher, translated
SECOND = ("teacher.path=run:w-second", *ALONE)
RAW = ("translate=null", *ALONE, "replay.bc=teacher")
ARMS: dict[
    str, tuple[str, ...]
] = {  # what is copied → words of the trainer, and of the factory where it must make something
    "BC on the teacher's English": RAW,
    "the second teacher alone, translated": (*SECOND, "where=method = 'translate'", "reward=language"),
    "of two teachers, translated, the likeliest to the first (bilingual)": (
        "where=method = 'translate'",
        "reward=bilingual",
    ),
    "of two teachers, translated, where they agree": (
        "where=method = 'translate' and agreement = 1",
        "reward=language",
    ),
    "of two teachers, translated, back again the same": ("where=method = 'translate' and back = 1", "reward=language"),
    "of two teachers, restated by the student": ("where=method = 'rephrase'", "reward=language"),
    "the same, where the check passes": ("where=method = 'rephrase' and check_score = 1", "reward=language"),
    "the same, where check and both teachers agree": (
        "where=method = 'rephrase' and check_score = 1 and agreement = 1",
        "reward=language",
    ),
    "translated or restated, agreement, language and check": (),
}


def main(words: Sequence[str]) -> int:
    """Make the world, train the arms, print the tables."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        shown = made(place)
        rows = answers(place)
        text = "\n\n".join([components(rows), arms(place, shown)])
    print(text)
    if "--write" in words:
        page = PAGE.read_text(encoding="utf-8")
        block = f"{MARKS[0]}\n{text}\n{MARKS[1]}"
        PAGE.write_text(re.sub(f"{MARKS[0]}.*?{MARKS[1]}", lambda _: block, page, flags=re.S), encoding="utf-8")
    return 0


def components(rows: list[dict[str, Any]]) -> str:
    """How each check tells right translations (restatements) from wrong ones."""
    translated = [row for row in rows if row["method"] == "translate" and row["text"]]
    restated = [row for row in rows if row["method"] == "rephrase" and row["text"]]
    checks: list[tuple[str, list[dict[str, Any]], Callable[[dict[str, Any]], bool]]] = [
        ("`agreement` of both teachers = 1", translated, lambda row: row["agreement"] == 1),
        ("`bilingual` > −1 nat a token", translated, lambda row: (row["bilingual"] or -9) > -1),
        ("`back_translation` (chrF) = 1", translated, lambda row: row["back"] == 1),
        ("`rephrase.check` = 1", restated, lambda row: row["check_score"] == 1),
        ("`rephrase.check` = 1 and `agreement` = 1", restated, lambda r: r["check_score"] == 1 and r["agreement"] == 1),
    ]
    lines = ["| check | of | right, passed | wrong, passed |", "|---|---|---|---|"]
    for name, among, passes in checks:
        right, wrong = ([row for row in among if (row["right"] == 1) == good] for good in (True, False))
        kind = "translations" if among is translated else "restatements"
        told = [f"{sum(map(passes, part)):,} of {len(part):,}" for part in (right, wrong)]
        lines.append(f"| {name} | {kind} | {told[0]} | {told[1]} |")
    return "\n".join(lines)


def arms(place: Place, shown: tuple[str, ...]) -> str:
    """Each arm trained and measured on held-out questions."""
    runs = {name: f"arm-{i}" for i, name in enumerate(ARMS)}
    for name, run in runs.items():
        print(f"training: {name}", file=sys.stderr, flush=True)
        if "co_teachers=[]" in ARMS[name]:
            own = [word for word in ARMS[name] if not word.startswith("replay.")]
            stages = "answers" if "translate=null" in own else "answers,translate,rewards"
            place.factory(*shown, *own, f"stages=[{stages}]")
        place.trainer(*shown, *BC, *ARMS[name], f"run={run}")
    policies = ",".join(["student", *(f"run:{run}" for run in runs.values())])
    place.factory(*shown, "stages=[evaluate]", f"factory.policies=[{policies}]")
    means = "avg(metrics['exact']) AS exact, avg(metrics['language']) AS fo, count(*) AS n"
    found = {row["policy"]: row for row in place.sql(f"SELECT policy, {means} FROM evaluations GROUP BY 1")}
    lines = ["| student | exact match | Faroese | held-out questions |", "|---|---|---|---|"]
    first = next(row for policy, row in found.items() if policy not in runs.values())
    for name, row in [("initial student", first), *((name, found[run]) for name, run in runs.items())]:
        lines.append(f"| {name} | {row['exact']:.3f} | {row['fo']:.3f} | {row['n']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
