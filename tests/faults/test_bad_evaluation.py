"""Benchmarks, corpora that are benchmarks, pages and tables of raters, each as a row with what its sentence must say.

`refuses` (conftest.py) asserts the rest for each row: exit code 2, at most three lines on stderr, a next step that can be typed,
no half-written file, whatever was published unchanged, and a lake that verifies."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

Broken = Callable[[Any], object]
ITEMS = "factory 'stages=[evaluate]' benchmarks.own.kind=items"
QUIZ = f"{ITEMS} benchmarks.own.path=quiz.jsonl"
FOQA = "factory 'stages=[evaluate]' 'benchmarks.foqa={kind: foqa, path: foqa}'"
ROW = {
    "id": "a",
    "title": "t",
    "context": "Tórshavn er í Streymoy.",
    "question": "Hvar ?",
    "answers": {"text": ["Streymoy"]},
}


def rows(*found: tuple[Any, ...]) -> pytest.MarkDecorator:
    """Parametrise over rows (name, how it is broken or None, command line, what it says…)."""
    cases = [pytest.param(broken, line, says, id=name) for name, broken, line, *says in found]
    return pytest.mark.parametrize(("broken", "line", "says"), cases)


def lines(name: str, *objects: dict[str, Any]) -> Broken:
    return lambda place: place.write(name, "".join(json.dumps(o, ensure_ascii=False) + "\n" for o in objects))


def folder(**splits: list[dict[str, Any]]) -> Broken:
    """A folder foqa/ with these splits."""

    def broken(place: Any) -> None:
        (place.root / "foqa").mkdir()
        for name, objects in splits.items():
            lines(f"foqa/{name}.jsonl", *objects)(place)

    return broken


@rows(
    ("kind", None, "factory 'stages=[evaluate]' benchmarks.own.kind=itmes", "did you mean 'items'"),
    ("setting", None, f"{ITEMS} benchmarks.own.pth=x", "did you mean 'path'"),
    ("no metrics", None, QUIZ, "no metrics"),
    ("metric", None, f"{QUIZ} 'benchmarks.own.metrics=[exakt]'", "did you mean 'exact'"),
    ("labels", None, f"{QUIZ} 'benchmarks.own.metrics=[mcc]'", "labels"),
    ("file", None, f"{QUIZ} 'benchmarks.own.metrics=[exact]'", "quiz.jsonl"),
    (
        "broken line",
        lambda p: p.write("quiz.jsonl", "{"),
        f"{QUIZ} 'benchmarks.own.metrics=[exact]'",
        "quiz.jsonl line 1",
    ),
    ("empty", lines("quiz.jsonl"), f"{QUIZ} 'benchmarks.own.metrics=[exact]'", "quiz.jsonl"),
    ("no question", lines("quiz.jsonl", {"svar": "ja"}), f"{QUIZ} 'benchmarks.own.metrics=[exact]'", "messages"),
    (
        "template",
        lines("quiz.jsonl", {"references": "ja"}),
        f"{QUIZ} 'benchmarks.own.metrics=[exact]' 'benchmarks.own.template=\"{{{{ q\"'",
        "template",
    ),
    ("foqa, no folder", None, FOQA, "foqa"),
    ("foqa, a split is missing", folder(train=[ROW]), FOQA, "test"),
    ("foqa, no answers", folder(train=[ROW], test=[{k: v for k, v in ROW.items() if k != "answers"}]), FOQA, "answers"),
    ("foqa, iterations", folder(train=[ROW], test=[ROW]), FOQA.replace("foqa}", "foqa, iterations: 0}"), "iterations"),
    (
        "euroeval is not installed",
        None,
        "factory 'stages=[evaluate]' 'benchmarks.board={kind: euroeval, command: nowhere/euroeval}'",
        "euroeval",
    ),
    (
        "a corpus that is a benchmark",
        None,
        "factory 'stages=[corpus]' corpus.plain.path=openlanguagedata/flores_plus",
        "is a benchmark only",
    ),
    (
        "a file to keep clear of",
        None,
        "factory 'stages=[corpus]' 'corpus.plain.clear_of=[nowhere.jsonl]'",
        "nowhere.jsonl",
    ),
)
def test_a_benchmark_that_cannot_be_measured(refuses, place, broken, line, says):
    if broken:
        broken(place)
    refuses(line.replace("{{{{", "{{"), *says)


@rows(
    ("one policy", None, "data pairs student --benchmark task --lake lake", "two"),
    ("no evaluation", None, "data pairs student teacher --benchmark task --lake lake", "task"),
    ("language", None, "data pairs a b --benchmark task --lake lake --language xx", "xx"),
    ("no table", None, "data ratings nowhere.csv --lake lake", "nowhere.csv"),
    ("no columns", lambda p: p.write("r.csv", "a,b\n1,2\n"), "data ratings r.csv --lake lake", "r.csv"),
    (
        "no text",
        lambda p: (p.root / "r.csv").write_bytes(b"\xff\xfe\x00\x81"),
        "data ratings r.csv --lake lake",
        "r.csv",
    ),
    ("no judgements", None, "data sql 'FROM win_rates'", "win_rates"),
    ("no intervals", None, "data sql 'FROM differences'", "differences"),
)
def test_judgements_that_cannot_be_asked_or_read(refuses, place, broken, line, says):
    if broken:
        broken(place)
    refuses(line, *says)
