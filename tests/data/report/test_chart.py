"""Drawings put values where they belong, and escape what they name."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from data.report.chart import BINS, POINTS, graph, histogram, interval, lines, thinned


def numbers(drawing: str, attribute: str) -> list[float]:
    return [float(x) for x in re.findall(rf' {attribute}="(-?[\d.]+)"', drawing)]


def test_an_interval_is_a_share_of_the_scale() -> None:
    drawing = interval(3.0, 2.0, 4.0, (2.0, 6.0), zero=True)  # 0 lies outside the scale, so no line at it
    assert numbers(drawing, "x1") == [4.0, 27.0] and numbers(drawing, "x2") == [50.0, 27.0]
    assert numbers(interval(1.0, None, None, (-1.0, 1.0), zero=True), "x1") == [50.0, 96.0]
    assert numbers(interval(1.0, None, None, (1.0, 1.0)), "x1") == [4.0]


def test_a_histogram_holds_every_finite_value_once() -> None:
    values = np.array([0.0, 1.0, 1.0, 5.0, math.nan, math.inf])
    drawing = histogram(values)
    counts = [int(found) for found in re.findall(r": (\d+)</title>", drawing)]
    assert counts == [1, 2, 1] and len(counts) <= BINS
    tall = numbers(drawing, "height")
    assert tall[1] == pytest.approx(2 * tall[0], abs=0.2)
    assert histogram(np.array([math.nan])) == "" and histogram(np.full(3, 2.0)).count("<rect") == 1


def test_curves_rise_where_values_rise_and_gaps_are_left_out() -> None:
    drawing = lines({0: [(0, 1.0), (1, math.nan), (2, 3.0)], 9: [(0, 2.0), (2, 2.0)]})
    first, second = re.findall(r'points="([^"]*)"', drawing)
    (x0, y0), (x1, y1) = [tuple(map(float, point.split(","))) for point in first.split()]
    assert x0 < x1 and y0 > y1 and len(second.split()) == 2  # the screen's y grows downwards
    assert 'class="c1 d1" data-run="9"' in drawing and lines({0: [(0, math.nan)]}) == ""


def test_a_long_curve_keeps_its_mean_and_its_end() -> None:
    points = [(float(i), float(i % 2)) for i in range(2001)]
    found = thinned(points)
    assert len(found) == POINTS and found[-1] == (2000.0, 0.0)
    assert [x for x, _ in found] == sorted(x for x, _ in found) and {round(y, 1) for _, y in found[:-1]} <= {
        0.4,
        0.5,
        0.6,
    }


def test_a_graph_puts_everything_behind_what_it_was_made_from_and_survives_a_circle() -> None:
    nodes = {"a": ("prompts", "<b>"), "b": ("samples", "b"), "c": ("run", "c")}
    drawing = graph(nodes, [("a", "b"), ("b", "c"), ("a", "c")])
    assert numbers(drawing.split("<g", 1)[1], "x")[::2] == [0.0, 236.0, 472.0] and "&lt;b&gt;" in drawing
    assert graph(nodes, [("a", "b"), ("b", "a")]).count("<rect") == 3
