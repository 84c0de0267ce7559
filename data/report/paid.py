"""What was paid, beside what it bought: costs by stage and recipe, and the figures of every policy that was measured.

Reads `cost_table`, `leaderboard`, `runs`. Writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data.report.parts import Figures, Section, Table, Words, table
from data.report.source import Source

MOST = 10  # figures beside a policy; all of them stand under Evaluation
Key = tuple[str, str]  # benchmark and metric


def section(source: Source) -> Section | str:
    """Costs and figures, or that nothing was booked yet."""
    costs = source.rows("SELECT * FROM cost_table ORDER BY seconds DESC") if source.lake.journal("costs") else []
    found = bought(source)
    if not costs and not found.rows:
        return "no stage and no training has booked a cost, and nothing was measured."
    parts: list[Any] = [_totals(costs), found] if costs and found.rows else [found] if found.rows else [_totals(costs)]
    if costs:
        parts.append(table("Paid, by stage and recipe", costs))
        if all(row["money"] is None for row in costs):
            parts.append(Words("No API was billed. Device time is in seconds; it has no price here.", quiet=True))
    return Section("paid", "What was paid, and what it bought", parts)


def _totals(costs: Sequence[dict[str, Any]]) -> Figures:
    def total(name: str, training: bool | None = None) -> Any:
        held = [row[name] for row in costs if row[name] is not None and training in (None, row["stage"] == "training")]
        return sum(held) if held else None

    rows = [
        ("tokens read", total("tokens_in")), ("tokens written or scored", total("tokens_out")),
        ("seconds in the factory", total("seconds", False)), ("seconds of training", total("seconds", True)),
        ("USD billed", total("money")),
    ]  # fmt: skip
    return Figures([(name, value) for name, value in rows if value is not None])


def bought(source: Source, policies: Sequence[str] | None = None) -> Table:
    """A row a policy: its training, and its evaluations' figures; last probes where nothing was evaluated."""
    rows = [row for row in source.leaderboard if row["source"] != "published"]
    best = "evaluation" if any(row["source"] == "evaluation" for row in rows) else "probe"
    keys: list[Key] = list(dict.fromkeys((row["benchmark"], row["metric"]) for row in rows if row["source"] == best))[
        :MOST
    ]
    values = {(row["policy"], row["benchmark"], row["metric"]): row["value"] for row in rows}
    runs = {run.name: run for run in source.runs}
    named = list(dict.fromkeys(row["policy"] for row in rows)) if policies is None else policies
    lines = []
    for policy in named:
        run = runs.get(policy)
        line: dict[str, Any] = {
            "policy": policy,
            "training s": run.seconds if run else None,
            "steps": run.steps if run else None,
        }
        lines.append(line | {f"{b} · {m}": values.get((policy, b, m)) for b, m in keys})
    note = "Means over items, or measures of the whole set; intervals stand under Evaluation."
    return table("Bought, by policy", lines, note=note, verbatim=True)
