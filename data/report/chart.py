"""Charts as inline SVG: curves of runs, a histogram, an interval, a graph of what was made from what.

Pure. Colours are classes of page.css (a style attribute would be refused by the page's security policy), so that they follow light,
dark and print. Texts go through Markup.format, which escapes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from data.report.parts import number

WIDTH, HEIGHT, LEFT, BELOW, ABOVE, RIGHT = 340, 170, 46, 22, 8, 16
POINTS = 120  # of a line: more than that many cannot be told apart on a chart of this width
DOTTED = 12  # lines with fewer points than this show each
BINS = 30
COLOURS = 8  # classes c0 … c7 of page.css; more lines go through them again, dashed

Points = Sequence[tuple[float, float]]


def thinned(points: Points) -> list[tuple[float, float]]:
    """At most POINTS points: means over as many stretches of equal length; the last point stays as it is."""
    if len(points) <= POINTS:
        return list(points)
    stretches = np.array_split(np.array(points[:-1]), POINTS - 1)
    return [*((float(x), float(y)) for x, y in (part.mean(axis=0) for part in stretches)), points[-1]]


def ticks(low: float, high: float, wanted: int = 3) -> list[float]:
    """Round numbers within [low, high], about as many as wanted.

    >>> ticks(0, 1), ticks(3, 148)
    ([0.0, 0.5, 1.0], [50.0, 100.0])
    """
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def lines(series: Mapping[int, Points]) -> Markup:
    """Curves over each other: colour number → (x, y) in rising x. Values that are no number are left out."""
    shown = {k: thinned([p for p in points if math.isfinite(p[1])]) for k, points in series.items()}
    held = [p for points in shown.values() for p in points]
    if not held:
        return Markup()
    xs, ys = [p[0] for p in held], [p[1] for p in held]
    box = _Box(min(xs), max(xs), *_padded(min(ys), max(ys)))
    return _svg([_axes(box), *(_line(box, k, points) for k, points in shown.items() if points)])


def histogram(values: np.ndarray, colour: str = "c0") -> Markup:
    """How often values occur, in BINS bins; NaN and infinities are left out. One value alone is one bar."""
    held = values[np.isfinite(values)]
    if not len(held):
        return Markup()
    counts, edges = np.histogram(held, bins=BINS)
    box = _Box(float(edges[0]), float(edges[-1]), 0.0, float(counts.max()))
    stretches = zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    bars = [_bar(box, n, a, b, colour) for n, a, b in stretches if n]
    return _svg([_axes(box), *bars])


BAR = Markup('<rect class="bar {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>')


def _bar(box: _Box, n: int, a: float, b: float, colour: str) -> Markup:
    said = f"{number(a)} … {number(b)}: {number(n)}"
    wide, high = max(box.x(b) - box.x(a) - 0.6, 0.6), max(box.y(0) - box.y(n), 0.8)
    return BAR.format(colour, box.x(a), box.y(n), wide, high, said)


STRETCHED = Markup(
    '<svg class="interval" viewBox="0 0 100 16" preserveAspectRatio="none" role="img"><title>{}</title>{}</svg>'
)


def interval(
    value: float, low: float | None, high: float | None, span: tuple[float, float], zero: bool = False
) -> Markup:
    """A value and its interval on a scale that a whole column shares; stretches with its cell. `zero`: a line at 0."""
    begin, end = span
    scale = 100 / (end - begin) if end > begin else 0.0

    def at(x: float) -> str:
        return f"{4 + 0.92 * (x - begin) * scale:.2f}"

    parts = (
        [Markup('<line class="axis" x1="{0}" x2="{0}" y1="0" y2="16"/>').format(at(0))]
        if zero and begin <= 0 <= end
        else []
    )
    if low is not None and high is not None:
        parts.append(Markup('<line class="span" x1="{}" x2="{}" y1="8" y2="8"/>').format(at(low), at(high)))
    parts.append(Markup('<line class="mark" x1="{0}" x2="{0}" y1="2" y2="14"/>').format(at(value)))
    said = f"{number(value)}" + ("" if low is None or high is None else f", {number(low)} … {number(high)}")
    return Markup(
        '<svg class="interval" viewBox="0 0 100 16" preserveAspectRatio="none" role="img"><title>{}</title>{}</svg>'
    ).format(said, Markup().join(parts))


def graph(nodes: Mapping[str, tuple[str, str]], edges: Sequence[tuple[str, str]]) -> Markup:
    """Boxes from left to right, each behind all it was made from. nodes: key → (class, label); edges: (from, to)."""
    depth = _depths(nodes, edges)
    columns: dict[int, list[str]] = {}
    for key in nodes:
        columns.setdefault(depth[key], []).append(key)
    wide, high, gap_x, gap_y = 196, 30, 40, 12
    tallest = max(map(len, columns.values()))
    place = {
        key: (d * (wide + gap_x), (i + (tallest - len(keys)) / 2) * (high + gap_y) + 4)
        for d, keys in columns.items()
        for i, key in enumerate(keys)
    }
    drawn = [_edge(place[a], place[b], wide, high, gap_x) for a, b in edges] + [
        Markup(
            '<g class="node {}"><rect x="{:.0f}" y="{:.0f}" width="{}" height="{}" rx="6"/>'
            '<text x="{:.0f}" y="{:.0f}">{}</text><title>{}</title></g>'
        ).format(kind, *place[key], wide, high, place[key][0] + 10, place[key][1] + 19, _short(label), label)
        for key, (kind, label) in nodes.items()
    ]
    width, height = len(columns) * (wide + gap_x) - gap_x, tallest * (high + gap_y)
    return Markup('<svg class="graph" width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img">{2}</svg>').format(
        width, height, Markup().join(drawn)
    )


def _short(label: str, most: int = 26) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def _edge(a: tuple[float, float], b: tuple[float, float], wide: int, high: int, gap: int) -> Markup:
    x1, y1, x2, y2 = a[0] + wide, a[1] + high / 2, b[0], b[1] + high / 2
    return Markup('<path class="edge" d="M{:.0f} {:.0f} C{:.0f} {:.0f} {:.0f} {:.0f} {:.0f} {:.0f}"/>').format(
        x1, y1, x1 + gap * 0.8, y1, x2 - gap * 0.8, y2, x2, y2
    )


def _depths(nodes: Mapping[str, tuple[str, str]], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Longest way to each node; edges of a circle, which damaged manifests could make, add no more than there are nodes."""
    depth = dict.fromkeys(nodes, 0)
    for _ in nodes:
        moved = {b: depth[a] + 1 for a, b in edges if depth[b] <= depth[a]}
        if not moved:
            break
        depth |= moved
    order = {d: i for i, d in enumerate(sorted(set(depth.values())))}
    return {key: order[d] for key, d in depth.items()}


class _Box:
    """From values to places in the drawing."""

    def __init__(self, x0: float, x1: float, y0: float, y1: float):
        if x0 == x1:
            x0, x1 = x0 - 0.5, x1 + 0.5
        self.x0, self.x1, self.y0, self.y1 = x0, x1, y0, y1

    def x(self, value: float) -> float:
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BELOW - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - BELOW - ABOVE)


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    return low - room, high + room


LEVEL = Markup(
    '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/><text class="y" x="{3}" y="{4:.1f}">{5}</text>'
)
STEP = Markup('<text class="x" x="{:.1f}" y="{}">{}</text>')
LINE = Markup('<g class="c{} d{}" data-run="{}"><polyline points="{}"/>{}</g>')
DOT = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.6"><title>{}</title></circle>')


def _axes(box: _Box) -> Markup:
    levels = [
        LEVEL.format(LEFT, WIDTH - RIGHT, box.y(y), LEFT - 5, box.y(y) + 3.5, number(y)) for y in ticks(box.y0, box.y1)
    ]
    return Markup().join([*levels, *(STEP.format(box.x(x), HEIGHT - 6, number(x)) for x in ticks(box.x0, box.x1))])


def _line(box: _Box, k: int, points: Points) -> Markup:
    path = " ".join(f"{box.x(x):.1f},{box.y(y):.1f}" for x, y in points)
    dotted = points if len(points) < DOTTED else ()
    dots = [DOT.format(box.x(x), box.y(y), f"{number(x)}: {number(y)}") for x, y in dotted]
    return LINE.format(k % COLOURS, k // COLOURS, k, path, Markup().join(dots))


def _svg(parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img">{}</svg>').format(
        WIDTH, HEIGHT, Markup().join(parts)
    )
