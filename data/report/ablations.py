"""Runs of one recipe side by side: the settings in which they differ, and what each reached.

Reads `runs` and `leaderboard`. Writes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data.report.paid import bought
from data.report.parts import Section, Table
from data.report.source import Run, Source

MOST = 16  # settings that differ and are shown
NAMES = frozenset({"trainer.run", "trainer.resume", "trainer.reuse", "name", "lake", "runs"})  # what changes no weights


def section(source: Source) -> Section | str:
    """A table a recipe of which two runs or more differ, or that there are none."""
    by_recipe: dict[str, list[Run]] = {}
    for run in source.runs:
        by_recipe.setdefault(run.recipe or "no recipe", []).append(run)
    tables = [_side_by_side(source, recipe, runs) for recipe, runs in by_recipe.items() if len(runs) > 1]
    found = [table for table in tables if table is not None]
    return (
        Section("ablations", "Runs side by side", found) if found else "no two runs of one recipe differ in a setting."
    )


def _side_by_side(source: Source, recipe: str, runs: Sequence[Run]) -> Table | None:
    settings = {run.name: flat(run.settings) for run in runs}
    keys = differing(list(settings.values()))
    if not keys:
        return None
    reached = bought(source, [run.name for run in runs])
    begins = 1 + sum(name in ("training s", "steps") for name in reached.names)
    names = ["run", *keys[:MOST], *reached.names[begins:]]
    rows = [
        [run.name, *(settings[run.name].get(key) for key in keys[:MOST]), *line[begins:]]
        for run, line in zip(runs, reached.rows, strict=True)
    ]
    long = frozenset(key for key in keys if any(len(str(found.get(key))) > 30 for found in settings.values()))
    more = f" {len(keys) - MOST} more settings differ." if len(keys) > MOST else ""
    note = f"Settings in which these runs differ, then what each reached.{more}"
    return Table(f"Recipe {recipe}", names, rows, note, long)


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key; lists as JSON.

    >>> flat({"a": {"b": 1, "c": [2]}, "d": None})
    {'a.b': 1, 'a.c': '[2]', 'd': None}
    """
    return dict(_leaves(settings, ""))


def _leaves(settings: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield before + name, json.dumps(value, ensure_ascii=False) if isinstance(value, list | Mapping) else value


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose values are not all alike, in the order in which the runs name them.

    >>> differing([{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 1, "b": 2, "c": 0}])
    ['b', 'c']
    """
    keys = dict.fromkeys(key for one in settings for key in one if key not in NAMES)
    return [key for key in keys if len({repr(one.get(key)) for one in settings}) > 1]
