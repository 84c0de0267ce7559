"""What a set of measured items amounts to: the one place that says how per-item numbers of `evaluations.metrics` become one number.

A measure names the per-item columns that it needs and a function over them, so that items can be drawn again and measured again
(an interval). Reads and writes nothing. Arrays are over items, float64, NaN where an item has no value; an item that lacks one of the
needed columns is left out, never counted as 0. No item left: NaN. What no measure needs is averaged (`mean`).

>>> measured({"exact": np.array([1.0, 0.0, np.nan]), "bits": np.array([8.0, 4.0, 0.0]), "bytes": np.array([4.0, 2.0, 0.0])})
{'exact': 0.5, 'bits_per_byte': 2.0}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Measure:
    """One number of a set of items."""

    needs: tuple[str, ...]
    """Names in `evaluations.metrics` that it is made of; they are not averaged themselves."""
    compute: Callable[[Columns], float]
    """Column name → values of the same items, to the number."""

    def __call__(self, columns: Columns) -> float:
        """The number, of the items that have every needed column; NaN where there is none."""
        there = ~np.any([np.isnan(columns[name]) for name in self.needs], axis=0)
        return float(self.compute({name: columns[name][there] for name in self.needs})) if there.any() else float("nan")


def _mean(columns: Columns) -> float:
    return float(columns["value"].mean())


def _bits_per_byte(columns: Columns) -> float:
    """Σ bits / Σ bytes: every byte weighs the same, however the text is cut into documents. 0 bytes: NaN."""
    size = columns["bytes"].sum()
    return float(columns["bits"].sum() / size) if size else float("nan")


MEASURES: dict[str, Measure] = {
    "mean": Measure(("value",), _mean),
    "bits_per_byte": Measure(("bits", "bytes"), _bits_per_byte),
}
"""Name → measure. `mean` is for any column by itself, given as `value`."""


def applicable(names: set[str]) -> list[str]:
    """The measures whose columns are all there, in the registry's order; `mean` is not among them.

    >>> applicable({"bits", "bytes", "exact"})
    ['bits_per_byte']
    """
    return [name for name, measure in MEASURES.items() if name != "mean" and set(measure.needs) <= names]


def averaged(names: set[str]) -> list[str]:
    """The columns that are averaged by themselves: those that no applicable measure is made of.

    >>> averaged({"bits", "bytes", "exact"})
    ['exact']
    """
    return sorted(names - {need for name in applicable(names) for need in MEASURES[name].needs})


def measured(columns: Columns) -> dict[str, float]:
    """Every number of a set of items: the means, then the measures."""
    means = {name: MEASURES["mean"]({"value": columns[name]}) for name in averaged(set(columns))}
    return means | {name: MEASURES[name](columns) for name in applicable(set(columns))}
