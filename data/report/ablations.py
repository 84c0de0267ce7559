"""Runs of one recipe side by side: the settings in which they differ, and what each reached; apart, what was not trained.

Reads `runs` and `leaderboard`. Writes nothing. An average or an extended model has no training configuration: beside trained runs
every setting would differ, so those stand in a table of their own, with what they were made from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data.report.paid import bought
from data.report.parts import Section, Table
from data.report.source import Run, Source

MOST = 16  # settings that differ and are shown
NAMES = frozenset({"trainer.run", "trainer.resume", "trainer.reuse", "name", "lake", "runs"})  # what changes no weights
FIRST = (
    "trainer.objective", "reward", "where", "trainer.losses", "trainer.optimiser.lr", "trainer.steps", "seed", "trainer.seed",
    "trainer.replay", "policy", "pool", "trainer.clip", "trainer.optimiser", "trainer", "components",
)  # fmt: skip
"""Settings by what a reader asks first, each with all that lies within it; the rest follows as the recipe has it."""
MADE = ("average", "extend")  # the sections that runs have in which nothing was trained


def section(source: Source) -> Section | str:
    """A table a recipe of which two trained runs or more differ, and one of what was not trained; or that there are none."""
    by_recipe: dict[str, list[Run]] = {}
    for run in source.runs:
        if isinstance(run.settings.get("trainer"), Mapping):
            by_recipe.setdefault(run.recipe or "no recipe", []).append(run)
    tables = [_side_by_side(source, recipe, runs) for recipe, runs in by_recipe.items() if len(runs) > 1]
    found = [table for table in [*tables, _made(source)] if table is not None]
    return (
        Section("ablations", "Runs side by side", found) if found else "no two runs of one recipe differ in a setting."
    )


def made_from(run: Run) -> dict[str, Any]:
    """How a model was made that nothing was trained for, by dotted key; empty for a training."""
    held = [found for found in (run.settings.get(name) for name in MADE) if isinstance(found, Mapping)]
    apart = {"run", *NAMES}
    return {key: value for found in held[:1] for key, value in flat(found).items() if key not in apart and _said(value)}


def _side_by_side(source: Source, recipe: str, runs: Sequence[Run]) -> Table | None:
    settings = {run.name: flat(run.settings) for run in runs}
    keys = differing(list(settings.values()))
    if not keys:
        return None
    rows = [[run.name, *(settings[run.name].get(key) for key in keys[:MOST])] for run in runs]
    long = frozenset(key for key in keys if any(len(str(found.get(key))) > 30 for found in settings.values()))
    more = f" {len(keys) - MOST} more settings differ." if len(keys) > MOST else ""
    note = f"Settings in which these runs differ, then what each reached.{more}"
    names = [_typed(key) for key in keys[:MOST]]
    return _with_reached(source, f"Recipe {recipe}", ["run", *names], rows, note, frozenset(map(_typed, long)))


def _made(source: Source) -> Table | None:
    """Averages and the like: of what, by which numbers, and what they reached."""
    made = {run.name: settings for run in source.runs if (settings := made_from(run))}
    if not made:
        return None
    keys = list(dict.fromkeys(key for settings in made.values() for key in settings))[:MOST]
    rows = [[name, *(settings.get(key) for key in keys)] for name, settings in made.items()]
    note = "Made from the weights of other models. Nothing was trained, so they stand in no comparison of settings."
    return _with_reached(
        source, "Not trained: averages, and models with tokens of their own", ["run", *keys], rows, note
    )


def _said(value: Any) -> bool:
    return value not in (None, "[]", "{}")


def _with_reached(
    source: Source,
    title: str,
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    note: str,
    long: frozenset[str] = frozenset(),
) -> Table:
    """These rows, whose first cell is a run, with the figures that the run reached behind."""
    reached = bought(source, [row[0] for row in rows])
    begins = 1 + sum(name in ("training s", "steps") for name in reached.names)
    lines = [[*row, *line[begins:]] for row, line in zip(rows, reached.rows, strict=True)]
    return Table(title, [*names, *reached.names[begins:]], lines, note, long)


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
    """Keys whose values are not all alike: those of FIRST before the others, each as the runs name them.

    >>> differing([{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 1, "b": 2, "c": 0}])
    ['b', 'c']
    >>> differing([{"pool": "p", "trainer.losses.bc": 0, "seed": 1, "reward": "x"}, {"seed": 2}])
    ['reward', 'trainer.losses.bc', 'seed', 'pool']
    """
    keys = dict.fromkeys(key for one in settings for key in one if key not in NAMES)
    return sorted((key for key in keys if len({repr(one.get(key)) for one in settings}) > 1), key=_place)


def _typed(key: str) -> str:
    """A setting as one would type it behind `python -m trainer`: its own section goes without saying."""
    return key.removeprefix("trainer.")


def _place(key: str) -> int:
    return next((i for i, name in enumerate(FIRST) if key == name or key.startswith(f"{name}.")), len(FIRST))
