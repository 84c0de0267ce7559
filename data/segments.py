"""Statistics of groups that stand together in one vector: sums over segments, without a sort and without SQL.

Pure functions of numpy arrays. A value that is NaN is absent: in no numerator and no denominator. `starts` holds the row at which
each group begins, ascending from 0; no group is empty. Large vectors are worked off in blocks of whole groups, which stay in the
cache and share the cores."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from data.refusal import Refusal, nearest

BLOCK_ROWS = 1 << 17
PAIRS = 1 << 20  # comparisons held at once by pairwise ranks
ROUNDING = (
    1e-9  # relative; far above what equal values leave in a standard deviation, far below a spread that means something
)


@dataclass(frozen=True)
class Spread:
    """Per group: how many values are there, their mean (0 for none) and population standard deviation.

    Where all values are equal, `mean` is that value and `std` 0, exactly, whatever rounding left of the sums."""

    count: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def sizes(starts: np.ndarray, rows: int) -> np.ndarray:
    """Rows of each group."""
    return np.diff(starts, append=rows)


def per_row(per_group: np.ndarray, starts: np.ndarray, rows: int) -> np.ndarray:
    """A group's number at each of its rows."""
    return np.repeat(per_group, sizes(starts, rows))


def at_rows(operation: np.ufunc, values: np.ndarray, per_group: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """operation(value, its group's number), (rows,). Groups of one size need no number per row."""
    rows, groups = len(values), len(starts)
    if groups and rows % groups == 0 and bool((starts == np.arange(0, rows, rows // groups)).all()):
        return operation(values.reshape(groups, -1), per_group[:, None]).reshape(rows)
    return operation(values, per_row(per_group, starts, rows))


def spread(values: np.ndarray, starts: np.ndarray) -> Spread:
    """Count, mean and population standard deviation of each group, over values that are not NaN."""
    if not len(values):
        return Spread(*(np.zeros(0) for _ in range(3)))
    here = ~np.isnan(values)
    complete = bool(here.all())
    count = (
        sizes(starts, len(values)).astype(np.float64) if complete else np.add.reduceat(here, starts, dtype=np.float64)
    )
    known = values if complete else np.where(here, values, 0.0)
    divisor = np.maximum(count, 1.0)
    mean = np.add.reduceat(known, starts) / divisor
    deviation = at_rows(np.subtract, known, mean, starts)
    np.multiply(deviation, deviation, out=deviation)
    if not complete:
        deviation[~here] = 0.0
    std = np.sqrt(np.add.reduceat(deviation, starts) / divisor)
    if bool((suspect := (std > 0) & (std <= ROUNDING * np.abs(mean))).any()):
        lowest = np.fmin.reduceat(values, starts)
        equal = suspect & (lowest == np.fmax.reduceat(values, starts))
        std[equal], mean[equal] = 0.0, lowest[equal]
    return Spread(count, mean, std)


def blocks(starts: np.ndarray, rows: int) -> Iterator[tuple[slice, slice]]:
    """Slices of groups and of rows, about BLOCK_ROWS rows each, whole groups."""
    cuts = np.unique(np.searchsorted(starts, np.arange(0, rows, BLOCK_ROWS)))
    for first, last in itertools.pairwise([*cuts, len(starts)]):
        end = rows if last == len(starts) else int(starts[last])
        if last > first:
            yield slice(int(first), int(last)), slice(int(starts[first]), end)


GroupFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]
Result = TypeVar("Result")


def over_blocks(work: Callable[[slice, slice], Result], starts: np.ndarray, rows: int) -> list[Result]:
    """work(groups, rows) for every block, on as many threads as there are cores; results in order."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as threads:
        return list(threads.map(lambda block: work(*block), blocks(starts, rows)))


def by_block(function: GroupFunction, values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """A function of (values, starts) that looks at one group at a time, over a long vector. (rows,) float64."""
    out = np.empty(len(values), np.float64)

    def work(groups: slice, rows: slice) -> None:
        out[rows] = function(values[rows], starts[groups] - rows.start)

    over_blocks(work, starts, len(values))
    return out


def zscore_group(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(x − mean)/σ within the group, 0 where the group has no spread. GDPO's per-reward normalisation, without its ε:
    the scale of a component drops out altogether."""
    found = spread(values, starts)
    inverse = np.divide(1.0, found.std, out=np.zeros_like(found.std), where=found.std > 0)
    return at_rows(np.multiply, at_rows(np.subtract, values, found.mean, starts), inverse, starts)


def mean_group(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The group's mean, at rows without a value too; NaN where the group has none."""
    found = spread(values, starts)
    return per_row(np.where(found.count > 0, found.mean, np.nan), starts, len(values))


def zscore_all(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(x − mean)/σ over the whole vector, 0 where it has no spread. `starts` is not looked at."""
    known = values[~np.isnan(values)]
    if not len(known):
        return values.copy()
    if known.min() == known.max():
        return np.where(np.isnan(values), np.nan, 0.0)
    return (values - known.mean()) / known.std()


def ordered(values: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row, how many values of its group are smaller, and how many equal (itself included). NaN rows: 0, 0."""
    less, equal = np.zeros(len(values)), np.zeros(len(values))
    all_sizes = sizes(starts, len(values))
    for size in np.unique(all_sizes):
        groups = starts[all_sizes == size]
        step = max(1, PAIRS // int(size) ** 2)
        for first in range(0, len(groups), step):
            rows = groups[first : first + step, None] + np.arange(size)
            one = values[rows]
            less[rows] = (one[:, None, :] < one[:, :, None]).sum(2)
            equal[rows] = (one[:, None, :] == one[:, :, None]).sum(2)
    return less, equal


def rank_group(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Mean ranks within the group, scaled to [−1, 1]; 0 in a group of one."""
    less, equal = ordered(values, starts)
    rank = less + (equal - 1) / 2  # 0 for the smallest
    others = per_row(spread(values, starts).count, starts, len(values)) - 1
    scaled = np.divide(2 * rank, others, out=np.ones(len(values)), where=others > 0) - 1
    return np.where(np.isnan(values), np.nan, scaled)


def log_quantile_group(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """log F̂ in the group, F̂ the share of its values that are no higher: 0 for the best, log(1/G) for the only worst.

    BOND (arXiv 2407.14622 §3–4): best-of-N of π draws y with probability ∝ π(y)·F(y)^{N−1} where no text has much of π's mass
    and few are equal, so (N−1)·log F is the reward whose optimum at KL weight 1 it is. F̂ is `selections.quantile`. Differs from
    the advantage `quantile`, which takes N = G and centres: here the recipe's factor says N."""
    less, equal = ordered(values, starts)
    count = per_row(spread(values, starts).count, starts, len(values))
    share = np.divide(less + equal, count, out=np.full(len(values), np.nan), where=(count > 0) & ~np.isnan(values))
    return np.log(share)


FUNCTIONS: dict[str, GroupFunction] = {
    "zscore_group": zscore_group,
    "zscore_all": zscore_all,
    "rank_group": rank_group,
    "log_quantile_group": log_quantile_group,
    "mean_group": mean_group,
}


def apply(name: str, values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """A group function of expressions by its name. (rows,) float64."""
    if name not in FUNCTIONS:
        raise Refusal(f"no group function {name}: {nearest(name, FUNCTIONS)}", 'python -m data inspect "EXPRESSION"')
    if name == "zscore_all":  # the whole pool is its one group
        return zscore_all(values, starts)
    return by_block(FUNCTIONS[name], values, starts)
