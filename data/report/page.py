"""The report's page: its sections in order, in one HTML file that asks no network.

Reads page.html, page.css and page.js beside it, and what the sections read. Everything a model or a user wrote is escaped by jinja2
(autoescape) and stands in the document, never in a script; a content security policy allows this page's own script and style by
their sha256 and nothing else. Writes one file. Refuses a place that cannot be written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from data.human.page import sha256_source
from data.refusal import Refusal
from data.report import ablations, evaluation, lineage, paid, pool, samples, training
from data.report.parts import Section, number, sort_key
from data.report.source import Source

HERE = Path(__file__).parent
SECTIONS: dict[str, tuple[str, Callable[[Source], Section | str]]] = {
    "paid": ("What was paid, and what it bought", paid.section),
    "evaluation": ("Evaluation", evaluation.section),
    "ablations": ("Runs side by side", ablations.section),
    "training": ("Training", training.section),
    "pool": ("Pool and reward", pool.section),
    "samples": ("Samples", samples.section),
    "lineage": ("Lineage", lineage.section),
}
"""Name → (title, function). A new section: its file, and its line here."""


def write(source: Source, out: Path) -> int:
    """Write the page; returns its size in bytes."""
    content = build(source).encode("utf-8", "replace")
    new = not out.exists()
    try:
        out.write_bytes(content)
    except OSError as error:
        if new:
            with contextlib.suppress(OSError):
                out.unlink(missing_ok=True)
        raise Refusal(
            f"{out} cannot be written: {error.strerror}", "--out, with a file in a folder that exists"
        ) from error
    return len(content)


def build(source: Source) -> str:
    """The page's HTML."""
    import jinja2

    made = {name: section(source) for name, (_, section) in SECTIONS.items()}
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"number": number, "sort_key": sort_key}
    return environment.get_template("page.html").render(
        lake=source.lake.uri,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        sections=[found for found in made.values() if isinstance(found, Section)],
        absent=[(SECTIONS[name][0], found) for name, found in made.items() if isinstance(found, str)],
        style=style, script=script, style_hash=sha256_source(style), script_hash=sha256_source(script),
    )  # fmt: skip
