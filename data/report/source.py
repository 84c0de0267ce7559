"""What the report's sections ask: a lake, the folder of its runs, the pool that is looked at and the reward it is judged by.

Reads views by SQL, manifests, and in the folder of runs `run.json` and `metrics.jsonl` of runs that the lake has no rows of yet.
Writes nothing. Refuses an unknown pool label and an expression that is none; what the lake lacks is empty."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data.expression import compile_expression
from data.inspection import Judged, judge, pool_named
from data.lake import Lake
from data.manifest import Slice
from data.refusal import Refusal
from data.relations import Pool, pools
from data.show import plain_rows

LENGTH = "n_tokens"
"""What a pool without components is ordered by."""


@dataclass(frozen=True)
class Run:
    """A run as its row of `runs` has it, or as its folder does while it trains."""

    name: str
    recipe: str | None
    status: str
    reason: str | None
    settings: Mapping[str, Any]
    slices: tuple[str, ...]
    policy: str | None
    model_id: str | None
    steps: int | None
    seconds: float | None

    @property
    def reward(self) -> str | None:
        """The reward expression it trained on; None where it read no reward."""
        found = self.settings.get("reward")
        return str(found) if found and any(path.startswith("samples/") for path in self.slices) else None

    @property
    def averaged(self) -> tuple[str, ...]:
        """The models whose weights went into an average, in their order; none for a training."""
        given = self.settings.get("average")
        held = given if isinstance(given, dict) else {}
        return tuple(str(name) for name in (held.get("a"), held.get("b"), *(held.get("models") or ())) if name)


@dataclass(frozen=True)
class Source:
    """Everything that sections read. `pool` and `reward`: as they were asked for, None for the newest."""

    lake: Lake
    runs_folder: Path
    pool: str | None = None
    reward: str | None = None

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The answer of one SELECT, ids as hex digits."""
        return plain_rows(self.lake.sql(query))

    @cached_property
    def runs(self) -> list[Run]:
        """Every run of the lake, then those that only the folder knows, each oldest first."""
        if not self.lake.journal("runs"):
            return self._living(set())
        newest = "SELECT * FROM runs QUALIFY row_number() OVER (PARTITION BY run ORDER BY created_at DESC) = 1 ORDER BY created_at"
        found = [
            _run(row["run"], row | {n: _json(row[n]) for n in ("configuration", "slices")}) for row in self.rows(newest)
        ]
        return found + self._living({run.name for run in found})

    def _living(self, known: set[str]) -> list[Run]:
        """Runs of the folder that the lake has no row of, and that read this lake's slices."""
        found = []
        for path in sorted(self.runs_folder.glob("*/run.json")):
            record = _json(path.read_text(encoding="utf-8"))
            slices = record.get("slices") if isinstance(record, dict) else None
            if path.parent.name not in known and slices and all(self.lake.has(str(name)) for name in slices):
                found.append(_run(path.parent.name, record))
        return found

    @cached_property
    def curves(self) -> dict[str, dict[str, list[tuple[float, float]]]]:
        """Metric → run → (step, value) in rising steps, of every run that has any."""
        found: dict[str, dict[str, list[tuple[float, float]]]] = {}
        held: set[str] = set()
        if self.lake.journal("metrics"):
            query = (
                "SELECT name, run, list(step ORDER BY step) AS s, list(value ORDER BY step) AS v "
                "FROM run_curves WHERE value IS NOT NULL GROUP BY ALL"
            )
            for name, run, steps, values in zip(*self.lake.sql(query).to_pydict().values(), strict=True):
                found.setdefault(name, {})[run] = list(zip(steps, values, strict=True))
                held.add(run)
        for run in (run.name for run in self.runs if run.name not in held):
            for name, points in _metrics(self.runs_folder / run / "metrics.jsonl").items():
                found.setdefault(name, {})[run] = points
        return found

    @cached_property
    def leaderboard(self) -> list[dict[str, Any]]:
        """Rows of the view, or none."""
        if not self.lake.slices("evaluations") and not self.lake.journal("metrics"):
            return []
        return self.rows("SELECT * FROM leaderboard ORDER BY benchmark, metric, source, policy")

    @cached_property
    def judged(self) -> Judged | None:
        """The pool under its reward; None where the lake has no pool and none was asked for."""
        if self.pool is None and not pools(self.lake):
            return None
        return judge(self.lake, self.expression[0], self.pool)

    @cached_property
    def expression(self) -> tuple[str, str]:
        """(the reward expression, where it is from): asked for, of the newest run on this pool, or what the pool has."""
        label, pool = pool_named(self.lake, self.pool)
        if self.reward is not None:
            return self.reward, "as asked for"
        for run in reversed(self.runs):
            if run.reward and pool.samples.path in run.slices and _compiles(run.reward, pool):
                return run.reward, f"the reward of run {run.name}"
        if pool.rewards:
            return _quoted(min(pool.rewards)), f"the first component of pool {label}, which no run has read"
        return LENGTH, f"pool {label} has no component yet, so its samples are ordered by length"

    @cached_property
    def slices(self) -> dict[str, Slice]:
        """Every complete slice of the lake by `table/name`."""
        from data.contract import TABLES

        return {s.path: s for name, table in TABLES.items() if not table.journal for s in self.lake.slices(name)}

    @cached_property
    def models(self) -> dict[str, dict[str, Any]]:
        """Rows of `models` by model_id."""
        rows = self.rows("SELECT * FROM models") if self.lake.slices("models") else []
        return {row["model_id"]: row for row in rows}

    def model_name(self, model_id: str | None) -> str:
        """A model's name, or its id where the lake has no row of it."""
        return str(self.models.get(model_id or "", {}).get("name") or model_id or "unknown")


def policy_of(pool: Pool) -> str | None:
    """models.model_id of the policy that drew a pool, as the manifests say."""
    named = [s.models.get("policy") for s in (pool.samples, pool.groups) if s]
    return next((name for name in named if name), None)


def _compiles(text: str, pool: Pool) -> bool:
    """Whether the pool has what a run's reward names: a component may have been made of other samples since."""
    try:
        compile_expression(text, pool.rewards)
    except Refusal:
        return False
    return True


def _quoted(label: str) -> str:
    return label if label.isidentifier() else '"' + label.replace('"', '""') + '"'


def _run(name: str, row: Mapping[str, Any]) -> Run:
    settings, slices = row.get("configuration"), row.get("slices")
    return Run(
        name, row.get("recipe"), str(row.get("status")), row.get("reason"), settings if isinstance(settings, dict) else {},
        tuple(map(str, slices)) if isinstance(slices, list) else (), row.get("policy"), row.get("model_id"), row.get("steps"),
        row.get("seconds"),
    )  # fmt: skip


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _metrics(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Metric → (step, value) of a run that is training; its last line may be half written."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        values = _json(line)
        if isinstance(values, dict) and "step" in values:
            for name, value in values.items():
                if name != "step" and isinstance(value, int | float):
                    found.setdefault(name, []).append((values["step"], float(value)))
    return found
