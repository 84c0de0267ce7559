"""Every policy's figures with their intervals, and which differences are more than chance.

Reads `leaderboard` and `differences`. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from data.measures import LOWER_IS_BETTER
from data.report.chart import interval
from data.report.parts import Cell, Section, Table, Words, table
from data.report.source import Source

Row = dict[str, Any]
Key = tuple[str, str]  # benchmark and metric
PROBE = "probe"  # the leaderboard's name for figures of a run's probe
FEW = 10  # more pairs than this are behind a click


def section(source: Source) -> Section | str:
    """Figures and differences, or that nothing was evaluated."""
    if not source.leaderboard:
        return "nothing was evaluated, and no run has a probe."
    rows = [row for row in source.leaderboard if row["benchmark"] != PROBE]
    differences = by_metric(_differences(source))
    tables: list[Any] = []
    for key, found in by_metric(rows).items():
        tables += [_figures(key, found), *([_compared(key, differences[key])] if key in differences else [])]
    probes = [row for row in source.leaderboard if row["benchmark"] == PROBE]
    said = (
        "The mark is the figure, the bar its 95 % bootstrap interval; without a bar none is known, or nothing varies."
    )
    parts = [Words(said, quiet=True), *tables] if tables else []
    return Section("evaluation", "Evaluation", [*parts, *([_probes(probes, bool(tables))] if probes else [])])


def by_metric(rows: Iterable[Row]) -> dict[Key, list[Row]]:
    """Rows by benchmark and metric, in their order."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault((row["benchmark"], row["metric"]), []).append(row)
    return found


FIGURES = ("policy", "value", "interval", "low", "high", "n", "source", "origin")
DIFFERENCES = ("policy", "minus", "difference", "interval", "low", "high", "n", "p")


def _figures(key: Key, rows: Sequence[Row]) -> Table:
    """A row a policy, the best value first; their bars share a scale."""
    span, published = _span(rows, "value"), any(row["source"] == "published" for row in rows)
    sign = 1.0 if key[1] in LOWER_IS_BETTER else -1.0
    ordered = sorted(rows, key=lambda row: (row["value"] is None, sign * (row["value"] or 0.0)))
    lines = [row | {"interval": _bar(row, "value", span)} for row in ordered]
    notes = ["Lower is better."] if key[1] in LOWER_IS_BETTER else []
    notes += ["Published figures were not measured here: other prompts, other shots."] if published else []
    names = FIGURES if published else FIGURES[:-2]
    return table(": ".join(key), lines, names, note=" ".join(notes), wraps=frozenset({"origin"}))


def _differences(source: Source) -> list[Row]:
    if not source.lake.slices("intervals"):
        return []
    return [*source.rows("SELECT * FROM differences WHERE policy < against ORDER BY p NULLS LAST, policy, against")]


def _compared(key: Key, rows: Sequence[Row]) -> Table:
    """A row a pair of policies, the surest difference first."""
    span = _span(rows, "difference")
    lines = [row | {"minus": row["against"], "interval": _bar(row, "difference", span, zero=True)} for row in rows]
    note = (
        "Over the items that both have a value for. p is of one pair alone: of twenty that are alike, one is below .05."
    )
    title = f"Differences in {': '.join(key)} ({len(rows)})"
    return table(title, lines, DIFFERENCES, note=note, folded=len(rows) > FEW)


def _probes(rows: Sequence[Row], folded: bool) -> Table:
    names = ("metric", "policy", "value", "step")
    return table("Probes during training, the last of each run", list(rows), names, folded=folded)


def _span(rows: Iterable[Row], name: str) -> tuple[float, float]:
    """The scale that bars share; differences have 0 on it."""
    held = [row[key] for row in rows for key in (name, "low", "high") if row[key] is not None]
    held += [0.0] if name == "difference" else []
    return (min(held), max(held)) if held else (0.0, 1.0)


def _bar(row: Row, name: str, span: tuple[float, float], zero: bool = False) -> Cell | None:
    value = row[name]
    return None if value is None else Cell(value, interval(value, row["low"], row["high"], span, zero))
