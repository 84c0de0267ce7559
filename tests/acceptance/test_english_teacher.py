"""The demo's world with teachers answering only in English: translated, restated, checked, and what behaviour cloning makes of it.

Four small models are made by the demo's own command: two teachers (the second wrong about three facts in ten), a translator, and a
student that can restate. Counts are printed; `pytest -s` shows them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from data.keys import hex_id
from data.lake import Lake

sys.path.insert(0, str(Path(__file__).parent))  # pytest imports by path: the folder is no package
from conftest import Place
from english_models import BC, made


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, tuple[str, ...]]:
    """The lake of that world, and the words of its commands."""
    place = Place(tmp_path_factory.mktemp("english"))
    return place, made(place)


def answers(place: Place) -> list[dict[str, Any]]:
    """Every answer of the last step with its components."""
    lake = Lake.open(place.lake)
    base = next(s for s in reversed(lake.slices("answers")) if "rephrase" in s.settings)
    rows = lake.read(base).to_pylist()
    for label in ("agreement", "language", "back", "bilingual", "right"):
        slice_ = lake.slices("answer_rewards", label=label)[-1]
        assert slice_.parents[0] == base.path
        for row, value in zip(rows, lake.read(slice_, ["value"]).column(0).to_pylist(), strict=True):
            row[label] = value
    return rows


def mean(rows: list[dict[str, Any]], name: str) -> float:
    known = [row[name] for row in rows if row[name] is not None]
    return sum(known) / len(known)


def test_every_derived_answer_names_what_it_was_made_from(english: Any) -> None:
    rows = answers(english[0])
    own = {f"{hex_id(r['prompt_id'])}/{r['candidate']}": r for r in rows if r["derived_from"] is None}
    made = [row for row in rows if row["derived_from"] is not None]
    counts = {m: sum(r["method"] == m for r in rows) for m in ("direct", "translate", "rephrase")}
    print(f"answers: {counts}")
    assert (
        len(set(counts.values())) == 1 and len(own) == counts["direct"]
    )  # of two teachers, each translated and restated once
    assert all(own[row["derived_from"]]["teacher"] == row["teacher"] for row in made)
    assert all((row["translator_id"] is not None) == (row["method"] == "translate") for row in rows)
    assert mean(list(own.values()), "language") <= 0.3 and mean([r for r in made if r["text"]], "language") >= 0.9


def test_planted_wrong_answers_are_mostly_caught(english: Any) -> None:
    rows = answers(english[0])
    translated = [row for row in rows if row["method"] == "translate" and row["text"]]
    wrong = [row for row in translated if row["right"] < 1]
    right = [row for row in translated if row["right"] == 1]
    caught = [row for row in wrong if row["agreement"] < 1]
    lost = [row for row in right if row["agreement"] < 1]
    print(
        f"translated: {len(right)} right, of which {len(lost)} are lost; {len(wrong)} wrong, of which {len(caught)} are caught"
    )
    assert len(wrong) >= 0.1 * len(translated) and len(caught) >= 0.9 * len(wrong)
    print(f"bilingual: right {mean(right, 'bilingual'):.2f}, wrong {mean(wrong, 'bilingual'):.2f} nats a token")
    assert mean(right, "bilingual") > mean(wrong, "bilingual") + 0.5
    print(f"back_translation: translated {mean(translated, 'back'):.3f}")
    assert mean(translated, "back") > 0.9


def test_the_check_finds_restatements_that_say_something_else(english: Any) -> None:
    rows = answers(english[0])
    same = {r["derived_from"]: r["text"] for r in rows if r["method"] == "translate"}
    restated = [row for row in rows if row["method"] == "rephrase" and row["text"]]
    wrong = [row for row in restated if row["text"] != same[row["derived_from"]]]
    caught = [row for row in wrong if row["check_score"] is None or row["check_score"] < 1]
    passed = sum(row["check_score"] == 1 for row in restated)
    print(f"restated: {len(restated)}, {len(wrong)} wrong, of which the check catches {len(caught)}; {passed} pass it")
    assert len(wrong) >= 0.1 * len(restated) and len(caught) >= 0.8 * len(wrong)
    assert passed >= 0.5 * len(restated)


def test_translated_answers_keep_the_language_that_raw_answers_lose(english: Any) -> None:
    place, words = english
    raw = ("translate=null", "rephrase=null", "co_teachers=[]", "replay.bc=teacher", "run=raw")
    place.factory(*words, *raw[:3], "stages=[answers]")
    place.trainer(*words, *BC, *raw)
    place.trainer(*words, *BC, "run=translated")
    place.factory(*words, "stages=[evaluate]", "factory.policies=[student,run:raw,run:translated]")
    rows = place.sql(
        "SELECT policy, avg(metrics['language']) AS language, avg(metrics['exact']) AS exact FROM evaluations GROUP BY 1"
    )
    found = {row["policy"]: row for row in rows}
    for name, row in found.items():
        print(f"{name}: language {row['language']:.2f}, exact {row['exact']:.2f}")
    assert found["raw"]["language"] <= 0.3 and found["translated"]["language"] >= 0.8
    assert found["translated"]["exact"] > found["student"]["exact"]
