"""What several seeds say together: means, paired differences, and intervals over worlds.

A world is a seed's facts, models, pool and training together, so worlds are independent and what varies between them is all that
varies. The interval is Student's t over worlds (few, so no bootstrap): mean ± t(.975, n − 1)·s/√n."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean over worlds with its 95 % interval; no width where there is one world."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def counted(self) -> str:
        """As a count: whole, in thousands."""
        return f"{self.mean:,.0f} [{self.low:,.0f}, {self.high:,.0f}]"

    @property
    def signed(self) -> str:
        """As a difference: with its sign, and bold where the interval leaves 0 out."""
        said = f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"
        return f"**{said}**" if self.low > 0 or self.high < 0 else said


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of one value a world.

    >>> str(interval([1.0, 2.0, 3.0]))
    '2.000 [-0.484, 4.484]'
    """
    from scipy.stats import t

    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def difference(values: Sequence[float], against: Sequence[float]) -> Interval:
    """The mean of value − against, world by world.

    >>> difference([1.0, 2.0, 3.0], [0.0, 1.0, 2.0]).mean
    1.0
    """
    return interval([a - b for a, b in zip(values, against, strict=True)])
