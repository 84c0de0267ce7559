"""What sections are made of; the page's template knows how each is shown. Reads and writes nothing.

Every text may be hostile (models write samples, users write labels): it is escaped by the template, or by Markup.format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from data.show import plain_rows

ROWS = 300  # of a table; the rest is told, and asked by `python -m data sql`


@dataclass(frozen=True)
class Words:
    """A paragraph; `quiet`: a note."""

    text: str
    quiet: bool = False
    kind: str = "words"


@dataclass(frozen=True)
class Code:
    """SQL or a command, to be copied."""

    text: str
    title: str
    kind: str = "code"


@dataclass(frozen=True)
class Figures:
    """A few numbers with their names, side by side."""

    rows: Sequence[tuple[str, Any]]
    kind: str = "figures"


@dataclass(frozen=True)
class Cell:
    """A cell that shows other than what it is sorted by."""

    value: Any
    shown: Markup | str


@dataclass(frozen=True)
class Table:
    """Rows under names; sorted by a click on a name. `wraps`: names of columns whose text may break over lines."""

    title: str
    names: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    wraps: frozenset[str] = frozenset()
    folded: bool = False
    kind: str = "table"

    @property
    def first(self) -> Sequence[Sequence[Any]]:
        """The rows that are shown."""
        return self.rows[:ROWS]

    @property
    def numeric(self) -> list[bool]:
        """Whether a column holds numbers and nulls alone."""
        columns = zip(*self.rows, strict=True) if self.rows else ([] for _ in self.names)
        return [
            all(_is_number(cell) for cell in column) and any(cell is not None for cell in column) for column in columns
        ]

    @property
    def drawn(self) -> list[bool]:
        """Whether a column holds drawings."""
        return [any(isinstance(row[i], Cell) for row in self.rows) for i in range(len(self.names))]


@dataclass(frozen=True)
class Drawings:
    """Charts in a grid, each under its title; `folded`: behind a click; `wide`: one drawing as large as it is."""

    title: str
    charts: Sequence[tuple[str, Markup]]
    note: str = ""
    folded: bool = False
    wide: bool = False
    kind: str = "drawings"


@dataclass(frozen=True)
class Legend:
    """Runs by colour; each can be switched off and on."""

    names: Sequence[str]
    kind: str = "legend"


@dataclass(frozen=True)
class Piece:
    """A token: its text, the colours' classes, its figures in words."""

    text: str
    classes: str = ""
    title: str = ""


@dataclass(frozen=True)
class Sample:
    """One sample: why it is shown, its figures, its prompt, its text in pieces. `hidden`: until it is searched for."""

    tag: str
    key: str
    figures: Sequence[tuple[str, Any]]
    prompt: str | None
    pieces: Sequence[Piece]
    classes: str
    cut: bool = False
    hidden: bool = False


@dataclass(frozen=True)
class Samples:
    """Samples that can be searched; `by_surprise`: whether they can be coloured by a scorer's surprise too."""

    rows: Sequence[Sample]
    by_surprise: str | None
    note: str
    kind: str = "samples"


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    name: str
    title: str
    parts: Sequence[Any] = field(default_factory=tuple)


def _is_number(cell: Any) -> bool:
    value = cell.value if isinstance(cell, Cell) else cell
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def number(value: Any) -> str:
    """A value for people: four digits, thousands apart; null is empty, never 0.

    >>> [number(v) for v in (None, 0, 1234567, 0.045833, 123456.7, 1e-9, float("nan"), True, "a")]
    ['', '0', '1\u202f234\u202f567', '0.04583', '123\u202f457', '1e-09', 'none', 'yes', 'a']
    """
    if isinstance(value, Cell):
        return value.shown
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and not math.isfinite(value):
        return "none"
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1000):
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def sort_key(value: Any) -> str:
    """What the page sorts a cell by: the number itself, or the text; empty for null."""
    value = value.value if isinstance(value, Cell) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(float(value)) if isinstance(value, int | float) else str(value)


def table(title: str, rows: Any, names: Sequence[str] | None = None, *, verbatim: bool = False, **more: Any) -> Table:
    """A Table from an Arrow table or from a list of dictionaries; columns that hold nothing are left out.

    `verbatim`: names of columns are names of something, and keep their underscores."""
    found = rows if isinstance(rows, list) else plain_rows(rows)
    wanted = names or list(found[0] if found else ())
    held = [name for name in wanted if any(row.get(name) is not None for row in found)]
    shown = held if verbatim else [name.replace("_", " ") for name in held]
    return Table(title, shown, [[row.get(name) for name in held] for row in found], **more)
