"""The shape of a row of the tables of mistakes (`mutations_*.py`), and short ways to name the tests that must notice it.

A row: the file, a text that stands in it exactly once, the wrong text, what that breaks, and the tests."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Mutation(NamedTuple):
    """One mistake in one formula."""

    file: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...]


def named(file: str, *tests: str) -> tuple[str, ...]:
    """Single tests of a file, so that a row does not wait for the others; without names the whole file."""
    return tuple(f"{file}::{test}" for test in tests) or (file,)


def located(row: Mutation) -> Mutation:
    """A row whose file is a folder, with the one module of it that holds the text."""
    folder = Path(__file__).resolve().parents[2] / row.file
    hits = [path for path in sorted(folder.glob("*.py")) if path.read_text(encoding="utf-8").count(row.old) == 1]
    return row._replace(file=f"{row.file}/{hits[0].name}") if len(hits) == 1 else row
