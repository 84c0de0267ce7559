"""A reward looked at before anything is trained with it: its parts, its advantages, its best and worst samples, its SQL.

Reads `samples`, `groups`, `prompts`, `rewards` of one pool: the newest that has what the expressions name, unless one is named.
Writes nothing. Refuses what the trainer would refuse: unknown names, an expression that is no scalar, a pool that is not there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from data.advantages import Advantages, advantages, column_values, evaluate, is_truncated, starts_of
from data.expression import Expression, compile_expression
from data.keys import hex_id
from data.lake import Lake
from data.manifest import Slice
from data.refusal import Refusal, nearest
from data.relations import Pool, literal, pools
from data.scalars import read_scalars
from data.segments import PAIRS, Spread, sizes, spread
from data.views import DEMO


@dataclass(frozen=True)
class Judged:
    """A pool under an expression. `columns`: scalars of every sample; `parts`: values by component, and of the `expression`.

    `passed_over`: newer pools, which lack a component that was named."""

    label: str
    pool: Pool
    expression: Expression
    columns: pa.Table
    starts: np.ndarray
    parts: dict[str, np.ndarray]
    advantages: Advantages
    passed_over: tuple[str, ...] = ()

    @property
    def values(self) -> np.ndarray:
        """The expression's value of each sample, (samples,) float64, NaN where there is none."""
        return self.parts["expression"]

    @property
    def order(self) -> np.ndarray:
        """Ordinals of the samples that have a value, best first, equal ones in the pool's order."""
        scored = np.flatnonzero(~np.isnan(self.values))
        return scored[np.argsort(-self.values[scored], kind="stable")]


@dataclass(frozen=True)
class Inspection:
    """What `inspect` shows. `flips` is None without a second expression; `best` and `worst`: see `PoolSamples.distinct`."""

    pool: str
    passed_over: tuple[str, ...]
    components: pa.Table
    correlation: pa.Table
    figures: dict[str, int]
    best: pa.Table
    worst: pa.Table
    flips: pa.Table | None
    flipped: int
    sql: str


def judge(lake: Lake, text: str, pool: str | None = None, *, against: str | None = None) -> Judged:
    """An expression evaluated over one pool: unless named, the newest that has what it and `against` name."""
    label, found, passed_over = _pool_of(lake, [text] if against is None else [text, against], pool)
    expression = compile_expression(text, found.rewards)
    scalars = read_scalars(found.samples, found.rewards)
    starts = starts_of(scalars["group_id"])
    values = evaluate(expression, scalars, starts=starts)
    parts = {name: column_values(scalars[name]) for name in sorted(found.rewards)} | {"expression": values}
    result = advantages(values, ~np.isnan(values), starts, truncated=is_truncated(scalars["finish_reason"]))
    return Judged(label, found, expression, scalars, starts, parts, result, passed_over)


def inspect(lake: Lake, text: str, *, against: str | None = None, pool: str | None = None, rows: int = 5) -> Inspection:
    """Everything about an expression over one pool (as `judge` chooses it). `rows`: samples and groups shown."""
    return inspected(lake, judge(lake, text, pool, against=against), against=against, rows=rows)


def inspected(lake: Lake, judged: Judged, *, against: str | None = None, rows: int = 5) -> Inspection:
    """What `inspect` shows of a pool that is judged already."""
    found, values, starts, order = judged.pool, judged.values, judged.starts, judged.order
    rival = compile_expression(against, found.rewards) if against else None
    reader = PoolSamples(lake, found)
    numbers = {"value": values, "advantage": judged.advantages.vector}
    flips, flipped = None, 0
    if rival:
        other = evaluate(rival, judged.columns, starts=starts)
        groups = np.flatnonzero(flipping(values, other, starts))
        flips, flipped = reader.flips(groups[:rows], starts, values, other), len(groups)
    return Inspection(
        pool=judged.label,
        passed_over=judged.passed_over,
        components=_components(lake, found, judged.parts, starts),
        correlation=_correlation(judged.parts),
        figures=judged.advantages.figures,
        best=reader.rows(reader.distinct(order, judged, rows), numbers),
        worst=reader.rows(reader.distinct(order[::-1], judged, rows), numbers),
        flips=flips,
        flipped=flipped,
        sql=judged.expression.sql_over(f"(SELECT * FROM reward_table WHERE pool = {literal(judged.label)})", SQL_KEYS),
    )


SQL_KEYS = ("pool", "group_id", "sample_index")


def pool_named(lake: Lake, name: str | None = None) -> tuple[str, Pool]:
    """Label and pool of this name, the newest unless given. Refuses a lake without pools and an unknown label."""
    found = pools(lake)
    if not found:
        raise Refusal(f"no pool yet in {lake.uri}", DEMO)
    if name is not None and name not in found:
        raise Refusal(f"no pool named {name}: {nearest(name, found)}", "python -m data tables")
    label = name or max(found, key=lambda key: found[key].samples.created)
    return label, found[label]


def _pool_of(lake: Lake, texts: Sequence[str], name: str | None) -> tuple[str, Pool, tuple[str, ...]]:
    """Label and pool that expressions are evaluated over, and the labels of newer pools that lack a component they name."""
    newest, _ = pool_named(lake, name)
    held = pools(lake)
    known = {label for pool in held.values() for label in pool.rewards}
    order = sorted(held, key=lambda label: held[label].samples.created, reverse=True)
    nowhere = f", which no pool has ({', '.join(order)})"
    named = {n for text in texts for n in compile_expression(text, known, unknown=nowhere).names & known}
    having = [label for label in order if named <= set(held[label].rewards)]
    if name is None and having:
        return having[0], held[having[0]], tuple(order[: order.index(having[0])])
    if newest in having:
        return newest, held[newest], ()
    lacks = {label: ", ".join(sorted(named - set(held[label].rewards))) for label in order}
    if not having:
        each = "; ".join(f"pool {label} lacks {names}" for label, names in lacks.items())
        raise Refusal(
            f"no pool has all that the expression names: {each}", "python -m factory recipe=RECIPE 'stages=[rewards]'"
        )
    words = ["python", "-m", "data", "inspect", texts[0], *(w for t in texts[1:] for w in ("--against", t))]
    raise Refusal(
        f"the expression names the unknown column {lacks[newest]}: pool {newest} does not have it, {', '.join(having)} does",
        shlex.join([*words, "--pool", having[0], "--lake", lake.uri]),
    )


def _components(lake: Lake, pool: Pool, parts: dict[str, np.ndarray], starts: np.ndarray) -> pa.Table:
    """A row a component (and the expression): range, moments, what is missing, groups without spread."""
    lines = []
    for name, values in parts.items():
        known = values[~np.isnan(values)]
        groups = spread(values, starts)
        lines.append(
            {
                "component": name,
                "min": float(known.min()) if len(known) else None,
                "mean": float(known.mean()) if len(known) else None,
                "max": float(known.max()) if len(known) else None,
                "std": float(known.std()) if len(known) else None,
                "missing": len(values) - len(known),
                "invalid": _invalid(lake, pool, name),
                "zero_variance": _share_without_spread(groups),
            }
        )
    return pa.Table.from_pylist(lines)


def _share_without_spread(groups: Spread) -> float | None:
    comparable = groups.count >= 2
    return float((groups.std[comparable] == 0).mean()) if comparable.any() else None


def _invalid(lake: Lake, pool: Pool, name: str) -> int | None:
    """Samples that the component itself called invalid; None for the expression."""
    if name not in pool.rewards:
        return None
    return int(np.count_nonzero(~lake.read(pool.rewards[name], ["valid"])["valid"].to_numpy()))


def _correlation(parts: dict[str, np.ndarray]) -> pa.Table:
    """Pearson's r over samples that have both; null where one of them is constant."""
    lines = []
    for name, x in parts.items():
        line: dict[str, str | float | None] = {"component": name}
        for other, y in parts.items():
            both = ~np.isnan(x) & ~np.isnan(y)
            a, b = x[both], y[both]
            flat = len(a) < 2 or a.min() == a.max() or b.min() == b.max()
            line[other] = None if flat else float(np.corrcoef(a, b)[0, 1])
        lines.append(line)
    return pa.Table.from_pylist(lines)


def flipping(a: np.ndarray, b: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Groups in which two samples stand in opposite order under `a` and `b`, (groups,) bool. Ties and NaN do not count."""
    found = np.zeros(len(starts), bool)
    lengths = sizes(starts, len(a))
    for size in np.unique(lengths):
        groups = np.flatnonzero(lengths == size)
        step = max(1, PAIRS // int(size) ** 2)
        for first in range(0, len(groups), step):
            some = groups[first : first + step]
            rows = starts[some, None] + np.arange(size)
            up = a[rows][:, None, :] < a[rows][:, :, None]
            down = b[rows][:, None, :] > b[rows][:, :, None]
            found[some] = (up & down).any((1, 2))
    return found


class PoolSamples:
    """Single samples of a pool with their prompts, read from the shards that hold them."""

    def __init__(self, lake: Lake, pool: Pool):
        self.lake, self.samples = lake, pool.samples
        self.prompts: dict[int, str] = {}
        if pool.groups and pool.prompts:
            prompts = lake.read(pool.prompts, ["prompt_id", "messages"]).to_pylist()
            asked = {p["prompt_id"]: _last_user(p["messages"]) for p in prompts}
            groups = lake.read(pool.groups, ["group_id", "prompt_id"]).to_pylist()
            self.prompts = {g["group_id"]: asked.get(g["prompt_id"], "") for g in groups}

    def distinct(self, order: np.ndarray, judged: Judged, rows: int) -> np.ndarray:
        """Ordinals of the first samples of an order, one a group and no text twice; those with an advantage come first.

        Copies of one text of a group that teaches nothing say nothing about a reward. Gives up after eight times as many."""
        vector, starts = judged.advantages.vector, judged.starts
        group = np.repeat(np.arange(len(starts)), sizes(starts, len(vector)))
        ranked = np.concatenate([order[vector[order] != 0], order[vector[order] == 0]])
        _, first = np.unique(group[ranked], return_index=True)
        candidates = ranked[np.sort(first)][: 8 * rows]
        found: dict[str, int] = {}
        for some in (candidates[i : i + rows] for i in range(0, len(candidates), rows)):
            for ordinal, sample in zip(some.tolist(), self._at(some), strict=True):
                found.setdefault(sample["text"], ordinal)
            if len(found) >= rows:
                break
        return np.array(list(found.values())[:rows], np.int64)

    def rows(self, ordinals: np.ndarray, numbers: dict[str, np.ndarray]) -> pa.Table:
        """These samples in this order, with numbers of theirs beside."""
        lines = []
        for ordinal, sample in zip(ordinals.tolist(), self._at(ordinals), strict=True):
            line = {"group_id": hex_id(sample["group_id"]), "sample_index": sample["sample_index"]}
            line |= {name: _number(values[ordinal]) for name, values in numbers.items()}
            lines.append(line | {"prompt": self.prompts.get(sample["group_id"]), "text": sample["text"]})
        schema = [("group_id", pa.string()), ("sample_index", pa.uint8()), *((name, pa.float64()) for name in numbers)]
        return pa.Table.from_pylist(lines, pa.schema([*schema, ("prompt", pa.string()), ("text", pa.string())]))

    def flips(self, groups: np.ndarray, starts: np.ndarray, a: np.ndarray, b: np.ndarray) -> pa.Table:
        """Each group's best sample under both expressions."""
        lines = []
        ends = starts + sizes(starts, len(a))
        for group in groups:
            rows = np.arange(starts[group], ends[group])
            best = [int(rows[np.nanargmax(values[rows])]) for values in (a, b)]
            ours, theirs = self._at(np.array(best))
            lines.append(
                {
                    "group_id": hex_id(ours["group_id"]),
                    "prompt": self.prompts.get(ours["group_id"]),
                    "best": ours["text"],
                    "value": _number(a[best[0]]),
                    "best_against": theirs["text"],
                    "value_against": _number(b[best[1]]),
                }
            )
        kinds = {"value": pa.float64(), "value_against": pa.float64()}
        names = ("group_id", "prompt", "best", "value", "best_against", "value_against")
        return pa.Table.from_pylist(lines, pa.schema([(name, kinds.get(name, pa.string())) for name in names]))

    def _at(self, ordinals: np.ndarray) -> list[dict[str, Any]]:
        return rows_at(self.lake, self.samples, ordinals, ["text"])


def rows_at(lake: Lake, slice_: Slice, ordinals: np.ndarray, columns: Sequence[str]) -> list[dict[str, Any]]:
    """These rows of a slice keyed by sample, in this order, with both keys; only the shards that hold them are read."""
    ends = np.cumsum([shard.rows for shard in slice_.shards])
    shards = np.searchsorted(ends, ordinals, "right")
    found: dict[int, dict[str, Any]] = {}
    for shard in np.unique(shards):
        table = lake.read_shard(slice_, int(shard), [*SQL_KEYS[1:], *columns])
        first = int(ends[shard]) - len(table)
        for ordinal in ordinals[shards == shard].tolist():
            found[ordinal] = table.slice(ordinal - first, 1).to_pylist()[0]
    return [found[ordinal] for ordinal in ordinals.tolist()]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _last_user(messages: Sequence[dict[str, str]]) -> str:
    return next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")


def _passed_over(found: Inspection) -> str:
    return (
        f", the newest that has these columns ({', '.join(found.passed_over)} lacks some)" if found.passed_over else ""
    )


def as_text(found: Inspection) -> str:
    """The inspection for people."""
    from data.show import as_text as shown

    figures = ", ".join(f"{name} {count}" for name, count in found.figures.items())
    parts = [
        f"pool {found.pool}{_passed_over(found)}\n",
        shown(found.components, "components"),
        shown(found.correlation, "correlation over samples"),
        f"advantages (mean): {figures}\n",
        shown(found.best, "best samples, one a group, those with an advantage first"),
        shown(found.worst, "worst samples, likewise"),
    ]
    if found.flips is not None:
        parts.append(f"groups whose order the other expression reverses: {found.flipped}\n")
        parts += [shown(found.flips, "first of them, best sample under each")] if found.flipped else []
    return "\n".join([*parts, f"SQL\n{found.sql}\n"])
