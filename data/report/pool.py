"""A pool under a reward, as `python -m data inspect` shows it, with histograms: components, correlation, lengths, groups, SQL.

Reads `samples` (scalars), `groups`, `prompts`, `rewards` of one pool. Writes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from data.inspection import Judged, inspected
from data.report.chart import histogram
from data.report.parts import Code, Drawings, Figures, Section, Words, table
from data.report.source import Source, policy_of

TEXTS = frozenset({"prompt", "text"})
CHOSEN = "One a group and no text twice; those with an advantage first."
CHARTS = 24  # histograms of components


def section(source: Source) -> Section | str:
    """The pool, or that there is none."""
    judged = source.judged
    if judged is None:
        return "the lake has no pool of samples."
    found = inspected(source.lake, judged)
    text, origin = source.expression
    parts: list[Any] = [
        Words(
            f"Pool {judged.label} ({judged.pool.samples.path}), drawn from {source.model_name(policy_of(judged.pool))}."
        ),
        Code(text, f"Reward expression, {origin}"),
        _figures(judged),
        _no_spread(judged),
        table("Components, and the expression", found.components),
        Drawings("Rewards by component, and the advantage they make", _rewards(judged)),
        Drawings("Lengths", [("tokens of a sample", histogram(_lengths(judged)))]),
        table("Best samples", found.best, note=CHOSEN, folded=True, wraps=TEXTS),
        table("Worst samples", found.worst, note=CHOSEN, folded=True, wraps=TEXTS),
    ]
    if len(judged.parts) > 2:
        parts.append(table("Correlation over samples", found.correlation, verbatim=True))
    return Section("pool", "Pool and reward", [*parts, Code(found.sql, "The expression as SQL")])


def _lengths(judged: Judged) -> np.ndarray:
    lengths: np.ndarray = judged.columns["n_tokens"].to_numpy().astype(np.float64)
    return lengths


def _figures(judged: Judged) -> Figures:
    lengths, counts = _lengths(judged), judged.advantages.figures
    shown = ("samples", "groups", "groups_kept", "in_loss", "invalid")
    rows: list[tuple[str, Any]] = [(name.replace("_", " "), counts[name]) for name in shown]
    if len(lengths):
        rows += [("tokens, mean", float(lengths.mean())), ("tokens, longest", int(lengths.max()))]
    ends = pc.value_counts(judged.columns["finish_reason"].cast("string")).to_pylist()
    named = sorted((end["values"] or "", end["counts"]) for end in ends)
    return Figures([*rows, *((f"ended by {name}" if name else "end unknown", count) for name, count in named)])


def _no_spread(judged: Judged) -> Words:
    counts = judged.advantages.figures
    lost, alone = counts["zero_variance"], counts["too_few"]
    if not lost and not alone:
        return Words("Every group has spread under this reward.", quiet=True)
    share = lost / counts["groups"]
    said = f"{lost} of {counts['groups']} groups ({share:.0%}) have zero variance: equal rewards teach nothing."
    return Words(said + (f" {alone} more have fewer than two valid samples." if alone else ""), quiet=True)


def _rewards(judged: Judged) -> list[tuple[str, Any]]:
    shown = [(name, histogram(values)) for name, values in list(judged.parts.items())[-CHARTS:]]
    kept = judged.advantages.vector[judged.advantages.in_loss].astype(np.float64)
    shown.append(("advantage, of samples in the loss", histogram(kept, "c1")))
    return [(name, drawing) for name, drawing in shown if drawing]
