"""Curves of runs over each other, how far each had left its pool when it ended, and what that says.

Reads `run_curves`, `runs`, and of runs that still train their folder. Writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.report.chart import lines
from data.report.parts import Drawings, Legend, Section, Table, Words, table
from data.report.source import Run, Source
from data.verdict import WEIGHTED, verdict

RUNS, CHARTS = 12, 60  # newest runs over each other; metrics drawn
LAST = 10  # recorded steps that a drift figure is the mean of: one step's batch is small
FIRST = ("probe/", "loss/", "drift/token_ess", "drift/token_kl", "drift/sequence_ess", "drift/clipped", "kl_k3")
DRIFT = ("token_ess", "token_kl", "clipped", "broken", "sequence_ess", "sequence_kl", "k_hat")


def section(source: Source) -> Section | str:
    """Curves and drift, or that no run has written metrics."""
    drawn = {run for series in source.curves.values() for run in series}
    names = [run.name for run in source.runs if run.name in drawn]
    names = [*sorted(drawn - set(names)), *names][-RUNS:]
    if not names:
        return "no run has written metrics."
    main = [name for name in sorted(source.curves) if _is_first(name)]
    rest = [name for name in sorted(source.curves) if not _is_first(name)]
    parts: list[Any] = [_states(source)] if source.runs else []
    if len(drawn) > RUNS:
        parts.append(Words(f"Curves of the {RUNS} newest of {len(drawn)} runs.", quiet=True))
    parts += [Legend(names), Drawings("Curves", _charts(source, main, names))]
    if rest:
        parts.append(Drawings("More curves", _charts(source, rest, names), folded=True))
    return Section("training", "Training", [*parts, *_drift(source, names)])


def _is_first(name: str) -> bool:
    return any(name == start or (start.endswith("/") and name.startswith(start)) for start in FIRST)


def _charts(source: Source, metrics: Sequence[str], names: Sequence[str]) -> list[tuple[str, Any]]:
    shown = []
    for metric in metrics[:CHARTS]:
        series = source.curves[metric]
        drawing = lines({k: series[name] for k, name in enumerate(names) if name in series})
        if drawing:
            shown.append((metric, drawing))
    return shown


def _states(source: Source) -> Table:
    rows = [
        {
            "run": run.name, "recipe": run.recipe, "status": run.status, "why it ended": run.reason, "steps": run.steps,
            "seconds": run.seconds, "objective": _trainer(run).get("objective"), "reward": run.reward,
        }
        for run in source.runs
    ]  # fmt: skip
    return table("Runs", rows, wraps=frozenset({"why it ended", "reward"}))


def _trainer(run: Run) -> dict[str, Any]:
    found = run.settings.get("trainer")
    return found if isinstance(found, dict) else {}


def _drift(source: Source, names: Sequence[str]) -> list[Any]:
    """The drift table with a verdict a run, where any run replayed a pool."""
    runs = {run.name: run for run in source.runs}
    rows = []
    for name in names:
        figures = {key: _mean_of_last(source.curves.get(f"drift/{key}", {}).get(name)) for key in DRIFT}
        if figures["token_ess"] is None or name not in runs:
            continue
        words, notes = _verdict(runs[name], {key: value for key, value in figures.items() if value is not None})
        rows.append({"run": name, **figures, "verdict": words, "note": notes})
    if not rows:
        return []
    note = (
        f"Means over the last {LAST} steps that have the figure, of the samples of those steps. "
        "python -m trainer.drift run=NAME measures the final weights on the pool."
    )
    return [table("Drift from the pool", rows, note=note, wraps=frozenset({"verdict", "note"}))]


def _mean_of_last(points: Sequence[tuple[float, float]] | None) -> float | None:
    held = [value for _, value in points or () if np.isfinite(value)]
    return float(np.mean(held[-LAST:])) if held else None


def _verdict(run: Run, figures: dict[str, float]) -> tuple[str, str | None]:
    """The words of `python -m trainer.drift`, for these figures."""
    sampling = run.settings.get("sampling")
    samples = sampling.get("n") if isinstance(sampling, dict) else None
    objective = str(_trainer(run).get("objective"))
    named = {"sequence_k_hat": figures["k_hat"]} if "k_hat" in figures else {}
    weighted = any(name in objective for name in WEIGHTED)
    found = verdict(figures | named, sample_weights=weighted, samples=int(samples or 1))
    return found.words, "; ".join(found.notes) or None
