"""docs/evidence.md: a table goes between the two marks of its name, whatever else the page says stays."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "evidence.md"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def put(name: str, text: str) -> None:
    """Replace what stands between the marks. Raises ValueError where the page has none of that name."""
    marks = f"<!-- {name} -->", f"<!-- end {name} -->"
    page = PAGE.read_text(encoding="utf-8")
    new, found = re.subn(
        f"{marks[0]}.*?{marks[1]}", lambda _: f"{marks[0]}\n\n{text}\n\n{marks[1]}", page, count=1, flags=re.S
    )
    if not found:
        raise ValueError(f"{PAGE} has no place called {name}")
    PAGE.write_text(new, encoding="utf-8")


def parser(told: str | None, seeds: Sequence[int]) -> argparse.ArgumentParser:
    """What every measurement takes: the worlds of its tables, and whether they go into the page."""
    found = argparse.ArgumentParser(description=(told or "").splitlines()[0])
    found.add_argument(
        "--seeds",
        type=lambda text: [int(part) for part in text.split(",")],
        default=list(seeds),
        help="worlds of the tables",
    )
    found.add_argument("--write", action="store_true", help="put the tables into docs/evidence.md")
    return found


def tell(tables: Mapping[str, str], options: argparse.Namespace, note: str = "", seeds: str = "Worlds") -> None:
    """Print each table with the worlds it is from; into the page where that was asked for."""
    for name, text in tables.items():
        said = f"{text}\n\n{note}{seeds} {', '.join(map(str, options.seeds))}."
        print(f"\n{said}")
        if options.write:
            put(name, said)
