"""How sure a benchmark's figures are: bootstrap intervals of each policy's, and of the differences between policies.

Rows of `evaluations` in, rows of `intervals` out; reads and writes nothing itself. Items are drawn again with replacement
(Efron 1979), all rows of an item together: a question asked ten times is not ten questions. A difference is taken over the items
that both policies have a value for, and both are measured on the same draws, so that what is hard for both cancels. Whole-set
measures (measures.py) are worked out anew on each draw. A null is left out, and `n` says how many items are left."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from data.measures import MEASURES, Measure, measured

LEVEL = 0.95
RESAMPLES = 2000
SEED = 0
SETTINGS = {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED, "method": "percentile"}
"""What intervals depend on beside the evaluations: part of their key. Percentiles, so that p and interval say the same."""
AT_ONCE = 4_000_000  # drawn item numbers in memory: 32 MB
SAME = 1e-12  # relative; draws that differ by less differ by rounding

Values = dict[str, np.ndarray]  # name → float64 (items, rows), NaN where there is none
Statistic = Callable[[np.ndarray], np.ndarray]  # item numbers (draws, items drawn) → (figures, draws)
Asked = tuple[str, ...]  # a policy, or two whose difference is asked for


def interval_rows(evaluations: pa.Table) -> list[dict[str, Any]]:
    """Rows of `intervals` for one benchmark: of each policy and metric, and of each two policies, the later name minus the earlier.

    evaluations: rows of the table `evaluations` of one benchmark, with policy, benchmark, item, gold and metrics."""
    policies = _policies(evaluations)
    benchmarks = set(evaluations.column("benchmark").to_pylist())
    if len(benchmarks) > 1:
        raise ValueError(f"one benchmark at a time, not {', '.join(sorted(benchmarks))}")
    shown = {policy: measured(values) for policy, values in policies.items()}
    rows = []
    for metric in sorted({name for names in shown.values() for name in names}):
        parts = {
            policy: _whole(policies[policy], shown[policy][metric]) for policy in policies if metric in shown[policy]
        }
        rows += [{"benchmark": next(iter(benchmarks)), "metric": metric, **row} for row in _metric(metric, parts)]
    return sorted(rows, key=lambda row: (row["policy"], row["metric"], row["against"] or ""))


def _policies(evaluations: pa.Table) -> dict[str, Values]:
    """policy → its values, over the same items for all. The same number with other right answers is another item."""
    names, ids = evaluations.column("policy").to_pylist(), evaluations.column("item").to_pylist()
    asked = [
        "\0".join([id_, *(gold or ())]) for id_, gold in zip(ids, evaluations.column("gold").to_pylist(), strict=True)
    ]
    items, number = np.unique(np.array(asked, object), return_inverse=True)
    found: dict[str, list[tuple[int, dict[str, float | None]]]] = {}
    for policy, item, metrics in zip(names, number.tolist(), evaluations.column("metrics").to_pylist(), strict=True):
        found.setdefault(policy, []).append((item, dict(metrics)))
    return {policy: _values(found[policy], len(items)) for policy in sorted(found)}


def _values(rows: Sequence[tuple[int, Mapping[str, float | None]]], items: int) -> Values:
    seen = np.zeros(items, int)
    places = []
    for item, _ in rows:
        places.append((item, seen[item]))
        seen[item] += 1
    values = {name: np.full((items, seen.max()), np.nan) for _, metrics in rows for name in metrics}
    for place, (_, metrics) in zip(places, rows, strict=True):
        for name, value in metrics.items():
            values[name][place] = np.nan if value is None else value
    return values


def _whole(values: Values, needs: Sequence[str]) -> Values:
    """The parts of one metric; a row that lacks one of them has none."""
    lacking = np.logical_or.reduce([np.isnan(values[name]) for name in needs])
    return {name: np.where(lacking, np.nan, values[name]) for name in needs}


def _metric(metric: str, parts: Mapping[str, Values]) -> Iterator[dict[str, Any]]:
    """Rows of one metric. What is asked of the same items is drawn together: mostly everything, once."""
    has = {policy: ~np.isnan(next(iter(values.values()))).all(axis=1) for policy, values in parts.items()}
    asked: dict[bytes, list[Asked]] = {}
    for one in [*((policy,) for policy in parts), *combinations(parts, 2)]:
        asked.setdefault(np.logical_and.reduce([has[policy] for policy in one]).tobytes(), []).append(one)
    for mask, figures in asked.items():
        held = np.frombuffer(mask, bool)
        if not held.any():
            continue
        involved = sorted({policy for one in figures for policy in one})
        cut = [{name: array[held] for name, array in parts[policy].items()} for policy in involved]
        whole = metric in MEASURES and set(cut[0]) == set(MEASURES[metric].needs)
        of_all = whole_set(MEASURES[metric], cut) if whole else means([values[metric] for values in cut])
        statistic = _differences(of_all, [tuple(map(involved.index, one)) for one in figures])
        n = int(held.sum())
        for one, figure in zip(figures, resampled(statistic, n), strict=True):
            yield {
                "policy": one[-1],
                "against": one[0] if len(one) == 2 else None,
                "n": n,
                **figure.row(len(one) == 2),
            }


@dataclass(frozen=True)
class Figure:
    """A figure over all items, the ends of its interval, and its draws; None where under two items leave nothing to draw."""

    value: float
    low: float = math.nan
    high: float = math.nan
    draws: np.ndarray | None = None

    def row(self, difference: bool) -> dict[str, float | None]:
        """Columns of `intervals`. Draws that are all alike, or not all defined, say nothing of the truth: null."""
        value = self.value if math.isfinite(self.value) else None
        if (
            self.draws is None
            or not np.isfinite(self.draws).all()
            or np.ptp(self.draws) <= SAME * max(1.0, abs(self.value))
        ):
            return {"value": value, "low": None, "high": None, "p": None}
        return {"value": value, "low": self.low, "high": self.high, "p": p_value(self.draws) if difference else None}


def p_value(draws: np.ndarray) -> float:
    """Two-sided: twice the share of draws on the other side of 0, the figure itself counted among them, so never 0.

    Davison and Hinkley 1997, §4.2 (the +1).

    >>> p_value(np.array([1.0, 2.0, 3.0, -1.0, 2.0, 2.0, 1.0, 1.0, 4.0]))
    0.4
    """
    other = min((draws <= 0).sum(), (draws >= 0).sum())
    return float(min(1.0, 2 * (1 + other) / (1 + len(draws))))


def resampled(statistic: Statistic, n: int) -> list[Figure]:
    """Each of a statistic's figures over n items, with its percentile interval over RESAMPLES draws of n of them."""
    from scipy.stats import DegenerateDataWarning, bootstrap

    values = statistic(np.arange(n)[None])[:, 0].tolist()
    if n < 2:
        return [Figure(value) for value in values]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # Figure.row answers draws that are all alike
        drawn = bootstrap(
            (np.arange(n),),
            lambda index, axis: statistic(index),
            vectorized=True,
            method="percentile",
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            batch=max(1, AT_ONCE // n),
            rng=np.random.default_rng(SEED),
        )
    ends = drawn.confidence_interval
    columns = zip(values, ends.low.tolist(), ends.high.tolist(), drawn.bootstrap_distribution, strict=True)
    return [Figure(*column) for column in columns]


def _differences(of_all: Statistic, figures: Sequence[tuple[int, ...]]) -> Statistic:
    """Figures of policies by number, and differences of two: the second's minus the first's, on the same draw."""

    def statistic(index: np.ndarray) -> np.ndarray:
        values = of_all(index)
        return np.stack([values[f[-1]] - values[f[0]] if len(f) == 2 else values[f[0]] for f in figures])

    return statistic


def means(values: Sequence[np.ndarray]) -> Statistic:
    """Mean over rows of the items drawn, of each policy: sums and counts by item, weighted by how often an item was drawn."""
    sums = np.stack([np.nansum(array, axis=1) for array in values], axis=1)
    counts = np.stack([(~np.isnan(array)).sum(axis=1) for array in values], axis=1).astype(float)

    def statistic(index: np.ndarray) -> np.ndarray:
        draws, n = len(index), len(sums)
        places = index + np.arange(draws)[:, None] * n
        times = np.bincount(places.ravel(), minlength=draws * n).reshape(draws, n).astype(float)
        return ((times @ sums) / (times @ counts)).T

    return statistic


def whole_set(measure: Measure, policies: Sequence[Values]) -> Statistic:
    """A measure of the rows of the items drawn, of each policy."""

    def one(values: Values, items: np.ndarray) -> float:
        rows = {name: array[items].ravel() for name, array in values.items()}
        there = ~np.isnan(next(iter(rows.values())))
        return measure.compute({name: array[there] for name, array in rows.items()})

    return lambda index: np.array([[one(values, items) for items in index] for values in policies])
