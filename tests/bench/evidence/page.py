"""docs/evidence.md: a table goes between the two marks of its name, whatever else the page says stays."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
        f"{marks[0]}.*?{marks[1]}", lambda _: f"{marks[0]}\n{text}\n{marks[1]}", page, count=1, flags=re.S
    )
    if not found:
        raise ValueError(f"{PAGE} has no place called {name}")
    PAGE.write_text(new, encoding="utf-8")
