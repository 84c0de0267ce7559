"""From figures to the classes that page.css gives a colour. Pure."""

from __future__ import annotations

import math

SURPRISE = (0.1, 0.5, 1.0, 2.0, 4.0)  # nats: bounds of the five shades


def shade(advantage: float, scale: float) -> str:
    """Class of an advantage: n4 … n1 below 0, z, p1 … p4 above.

    >>> [shade(a, 2.0) for a in (-9, -0.1, 0, 1, 2)]
    ['n4', 'n1', 'z', 'p2', 'p4']
    """
    level = min(4, math.ceil(4 * abs(advantage) / scale)) if advantage and scale else 0
    return "z" if not level else f"{'p' if advantage > 0 else 'n'}{level}"


def surprise_shade(nats: float | None) -> str:
    """Class of a surprise: s0 … s5, or u for what is not known.

    >>> [surprise_shade(x) for x in (None, 0.05, 0.7, 12)]
    ['u', 's0', 's2', 's5']
    """
    return "u" if nats is None or math.isnan(nats) else f"s{sum(nats >= bound for bound in SURPRISE)}"
