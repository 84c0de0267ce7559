"""From prompts to checkpoints: what every run was trained from, and what that was made from.

Reads manifests, `runs`, `models`. Writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from data.report.chart import graph
from data.report.parts import Drawings, Section, Table, Words
from data.report.source import Source

BOXES = 60  # more than that nobody follows
DRAWN = ("prompts", "answers", "samples", "corpus")  # tables whose slices are boxes; what lies between is in the tables


def section(source: Source) -> Section | str:
    """A drawing and a table a run; slices alone where nothing was trained; or that the lake is empty."""
    if not source.slices:
        return "the lake has no slices."
    parts: list[Any] = [*_drawing(source)]
    for run in reversed(source.runs):
        origin = (
            f"averaged from {', '.join(run.averaged)}"
            if run.averaged
            else f"trained from {source.model_name(run.policy)}"
        )
        title = f"Run {run.name}, {origin}"
        parts.append(_table(source, title, _before(source, run.slices)))
    if not source.runs:
        parts.append(_table(source, "Slices", list(source.slices), folded=False))
    return Section("lineage", "Lineage", parts)


def _before(source: Source, paths: Iterable[str]) -> list[str]:
    """These slices and all that they were made from, parents first; slices that are gone are named all the same."""
    found: dict[str, None] = {}

    def visit(path: str, above: tuple[str, ...]) -> None:
        if path in found or path in above:
            return
        for parent in source.slices[path].parents if path in source.slices else ():
            visit(parent, (*above, path))
        found[path] = None

    for path in paths:
        visit(path, ())
    return list(found)


def _table(source: Source, title: str, paths: Sequence[str], folded: bool = True) -> Table:
    rows: list[list[Any]] = []
    for path in paths:
        held = source.slices.get(path)
        if held is None:
            rows.append([path, None, None, "gone", None, None])
            continue
        models = ", ".join(f"{role} {source.model_name(name)}" for role, name in sorted(held.models.items()))
        made = held.created[:19].replace("T", " ")
        rows.append([path, held.label, held.rows, made, models or None, "\n".join(held.parents)])
    names = ("slice", "label", "rows", "made (UTC)", "models", "made from")
    return Table(title, names, rows, wraps=frozenset({"made from", "models"}), folded=folded)


def _drawing(source: Source) -> list[Any]:
    """Boxes of texts, pools and runs, and arrows between them."""
    nodes: dict[str, tuple[str, str]] = {}
    edges: dict[tuple[str, str], None] = {}
    trained = {run.model_id: run.name for run in source.runs if run.model_id}
    labels = Counter((held.table, held.label) for held in source.slices.values())

    def box(path: str) -> None:
        held = source.slices.get(path)
        if path in nodes or held is None:
            return
        nodes[path] = (
            held.table,
            f"{held.table} {held.label if labels[held.table, held.label] < 2 else path.split('/')[1]}",
        )
        for parent in _drawn(source, _before(source, held.parents)):
            box(parent)
            edges[parent, path] = None
        for model in held.models.values():
            if model in trained:
                edges[f"run {trained[model]}", path] = None

    for run in source.runs:
        nodes[f"run {run.name}"] = ("run", f"run {run.name}")
        if run.averaged:  # its parents' slices are theirs
            edges |= {(f"run {name.removeprefix('run:')}", f"run {run.name}"): None for name in run.averaged}
            continue
        for path in _drawn(source, run.slices):
            box(path)
            edges[path, f"run {run.name}"] = None
        if run.policy in trained:
            edges[f"run {trained[run.policy]}", f"run {run.name}"] = None
    edges = {edge: None for edge in edges if all(end in nodes for end in edge)}
    if not source.runs or len(nodes) > BOXES:
        return [Words(f"{len(nodes)} slices and runs are too many to draw.", quiet=True)] if source.runs else []
    return [Drawings("What was made from what", [("", graph(nodes, _direct(list(edges))))], wide=True)]


def _drawn(source: Source, paths: Iterable[str]) -> list[str]:
    return [path for path in paths if path.split("/")[0] in DRAWN]


def _direct(edges: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without the arrows that only shorten a way over others."""
    after: dict[str, set[str]] = {}
    for a, b in edges:
        after.setdefault(a, set()).add(b)

    def reaches(a: str, b: str, seen: set[str]) -> bool:
        return any(c == b or (c not in seen and reaches(c, b, seen | {c})) for c in after.get(a, ()))

    return [(a, b) for a, b in edges if not any(c != b and reaches(c, b, {a, c}) for c in after[a])]
