"""Measures of a whole set of items, which no mean over items is: a ratio of sums, a correlation.

Reads and writes nothing. A benchmark's items carry the parts (`evaluations.metrics`); the leaderboard shows the measure in
their place, and its interval resamples items and measures anew. Adding one: its function, and its line in MEASURES."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measure:
    """One measure: names of the parts that each item must carry, and the number that arrays over items make.

    `compute` takes a float64 array over items for each name (NaN: null) and gives NaN where the set has no value."""

    needs: tuple[str, ...]
    compute: Callable[[Mapping[str, np.ndarray]], float]


def bits_per_byte(parts: Mapping[str, np.ndarray]) -> float:
    """Bits of all items over bytes of all items, so that long documents count by their length.

    >>> bits_per_byte({"bits": np.array([30.0, 10.0]), "bytes": np.array([10.0, 6.0])})
    2.5
    """
    held = ~(np.isnan(parts["bits"]) | np.isnan(parts["bytes"]))
    length = parts["bytes"][held].sum()
    return float(parts["bits"][held].sum() / length) if length else float("nan")


MEASURES: dict[str, Measure] = {"bits_per_byte": Measure(("bits", "bytes"), bits_per_byte)}


def measured(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What a benchmark whose items carry these names is shown by: measure → its parts, and every other name → itself.

    >>> measured(["bits", "bytes", "exact"])
    {'bits_per_byte': ('bits', 'bytes'), 'exact': ('exact',)}
    """
    there = set(names)
    whole = {name: m.needs for name, m in MEASURES.items() if there.issuperset(m.needs)}
    parts = {part for needs in whole.values() for part in needs}
    return whole | {name: (name,) for name in sorted(there - parts)}
