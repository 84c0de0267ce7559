"""Intervals against theory, against themselves on repeated and null items, and against the truth over many draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom

from data.contract import EVALUATIONS, INTERVALS
from data.intervals import LEVEL, interval_rows, p_value

Row = dict[str, Any]
Metrics = Mapping[str, float | None]


def evaluations(policies: Mapping[str, Sequence[tuple[str, Metrics]]]) -> pa.Table:
    """policy → (item, metrics) a row."""
    rows = [
        {"policy": policy, "model_id": "m", "benchmark": "b", "item": item, "metrics": list(metrics.items())}
        for policy, items in policies.items()
        for item, metrics in items
    ]
    return pa.Table.from_pylist(rows, schema=EVALUATIONS.schema)


def measured(**policies: Sequence[float | None]) -> dict[tuple[str, str | None], Row]:
    """(policy, against) → row, of the metric `x` over numbered items."""
    table = evaluations({p: [(str(i), {"x": v}) for i, v in enumerate(values)] for p, values in policies.items()})
    return {(row["policy"], row["against"]): row for row in interval_rows(table)}


def width(row: Row) -> float:
    return float(row["high"] - row["low"])


def test_a_means_interval_is_that_of_the_normal_theory():
    x = np.random.default_rng(1).normal(3, 2, 400)
    row = measured(a=x.tolist())[("a", None)]
    assert row["value"] == pytest.approx(x.mean()) and row["n"] == 400 and row["p"] is None
    # an end of 2,000 draws errs by .06 standard errors
    assert width(row) == pytest.approx(2 * 1.96 * x.std() / math.sqrt(400), rel=0.08)
    assert (row["low"] + row["high"]) / 2 == pytest.approx(x.mean(), abs=0.02)


def test_four_items_by_hand():
    """One right of four: the mean of four drawn is ≥ 3/4 with 13/256 and 1 with 1/256, 0 with 81/256: ends 0 and 3/4."""
    row = measured(a=[1.0, 0.0, 0.0, 0.0])[("a", None)]
    assert (row["value"], row["low"], row["high"], row["n"]) == (0.25, 0.0, 0.75, 4)


def test_a_ratio_of_sums_is_drawn_as_one():
    g = np.random.default_rng(2)
    size = np.ceil(g.exponential(80, 500)) + 5
    bits = size * (1.5 + 0.2 * g.standard_normal(500))
    rows = interval_rows(
        evaluations({"a": [(str(i), {"bits": b, "bytes": n}) for i, (b, n) in enumerate(zip(bits, size, strict=True))]})
    )
    ratio = bits.sum() / size.sum()
    error = math.sqrt(((bits - ratio * size) ** 2).sum()) / size.sum()  # the delta method's standard error
    [row] = rows
    assert row["metric"] == "bits_per_byte" and row["value"] == pytest.approx(ratio)
    assert width(row) == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_a_difference_is_taken_item_by_item():
    g = np.random.default_rng(3)
    hard = g.normal(0, 1, 300)
    a, b = hard + g.normal(0, 0.3, 300), hard + 0.1 + g.normal(0, 0.3, 300)
    rows = measured(a=a.tolist(), b=b.tolist())
    row = rows[("b", "a")]
    assert row["value"] == pytest.approx((b - a).mean()) and ("a", "b") not in rows
    assert width(row) == pytest.approx(2 * 1.96 * (b - a).std() / math.sqrt(300), rel=0.08)
    apart = math.hypot(width(rows[("a", None)]), width(rows[("b", None)]))
    assert width(row) < apart / 2, "the items' difficulty is in both and must cancel"


def test_an_advance_that_is_the_same_on_every_item_does_not_vary():
    row = measured(a=[0.0, 1.0, 0.5, 0.2], b=[0.25, 1.25, 0.75, 0.45])[("b", "a")]
    assert row["value"] == pytest.approx(0.25) and (row["low"], row["high"], row["p"]) == (None, None, None)


def test_a_question_asked_ten_times_is_not_ten_questions():
    g = np.random.default_rng(4)
    once = [(f"q{i}", {"x": float(v)}) for i, v in enumerate(g.random(60) < 0.4)]
    [one], [ten] = (interval_rows(evaluations({"a": once * times})) for times in (1, 10))
    assert ten == pytest.approx(one) and one["n"] == 60 and one["low"] < one["value"] < one["high"]


def test_items_asked_more_often_weigh_more_as_in_the_plain_mean():
    rows = [("p", {"x": 1.0}), ("p", {"x": 0.0}), ("p", {"x": 1.0}), ("q", {"x": 0.0})]
    [row] = interval_rows(evaluations({"a": rows}))
    assert (row["value"], row["n"]) == (0.5, 2)


def test_nulls_are_left_out_and_n_says_so():
    rows = measured(a=[1.0, None, 0.0, 1.0, math.nan], b=[0.0, 1.0, None, 0.0, 1.0])
    assert (rows[("a", None)]["value"], rows[("a", None)]["n"]) == (pytest.approx(2 / 3), 3)
    assert (rows[("b", None)]["value"], rows[("b", None)]["n"]) == (0.5, 4)
    both = rows[("b", "a")]
    assert (both["value"], both["n"]) == (-1.0, 2), "over the first and the fourth item"
    assert measured(a=[1.0, None], b=[None, 1.0]).keys() == {("a", None), ("b", None)}, "no common item, no difference"


def test_an_item_without_a_row_or_without_the_metric_is_no_zero():
    a, b = [("0", {"x": 1.0}), ("1", {"x": 1.0}), ("2", {"y": 1.0})], [("1", {"x": 1.0}), ("3", {"x": 0.0})]
    rows = {(r["policy"], r["against"]): r for r in interval_rows(evaluations({"a": a, "b": b})) if r["metric"] == "x"}
    assert [(r["value"], r["n"]) for r in rows.values()] == [(1.0, 2), (0.5, 2), (0.0, 1)]


def test_the_same_number_with_other_right_answers_is_another_item():
    table = evaluations({"a": [("0", {"x": 1.0}), ("1", {"x": 0.0})], "b": [("0", {"x": 0.0}), ("1", {"x": 1.0})]})
    gold = pa.array([["tjúgu"], ["ja"], ["tjúgu"], ["nei"]], EVALUATIONS.schema.field("gold").type)
    rows = interval_rows(table.set_column(table.column_names.index("gold"), "gold", gold))
    found = {(row["policy"], row["against"]): (row["value"], row["n"]) for row in rows}
    assert found == {("a", None): (0.5, 2), ("b", None): (0.5, 2), ("b", "a"): (-1.0, 1)}


def test_rows_that_lack_a_part_of_a_whole_set_measure_are_left_out():
    items = [("0", {"bits": 8.0, "bytes": 4.0}), ("1", {"bits": 100.0}), ("2", {"bits": 4.0, "bytes": 4.0})]
    [row] = interval_rows(evaluations({"a": items}))
    assert (row["metric"], row["value"], row["n"]) == ("bits_per_byte", 1.5, 2)


@pytest.mark.parametrize("values", [[0.5], [1.0, 1.0, 1.0]])
def test_one_item_and_items_all_alike_have_no_interval(values):
    row = measured(a=values)[("a", None)]
    assert (row["value"], row["low"], row["high"], row["n"]) == (values[0], None, None, len(values))


def test_a_policys_interval_does_not_depend_on_who_else_was_measured():
    g = np.random.default_rng(5)
    a, b, c = (g.random(50).tolist() for _ in range(3))
    alone, among = measured(a=a, c=c), measured(a=a, b=b, c=c)
    assert all(among[key] == pytest.approx(alone[key]) for key in alone)


def test_rows_are_what_the_table_holds_and_no_items_are_none():
    rows = interval_rows(evaluations({"a": [("0", {"x": 1.0}), ("1", {"x": 0.0})]}))
    assert pa.Table.from_pylist(rows, schema=INTERVALS.schema).num_rows == 1 and set(rows[0]) == set(
        INTERVALS.schema.names
    )
    assert interval_rows(EVALUATIONS.schema.empty_table()) == []


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """600 worlds of 100 items: hits are binomial. Percentile intervals of so few items hold it a little less often (.945)."""
    trials, figures, differences, decided = 600, 0, 0, 0
    for seed in range(trials):
        g = np.random.default_rng([7, seed])
        hard = g.random(100)
        a, b = (g.random(100) < 0.3 + 0.4 * hard).astype(float), (g.random(100) < 0.4 + 0.4 * hard).astype(float)
        rows = measured(a=a.tolist(), b=b.tolist())
        figures += rows[("a", None)]["low"] <= 0.5 <= rows[("a", None)]["high"]
        row = rows[("b", "a")]
        differences += row["low"] <= 0.1 <= row["high"]
        decided += (row["p"] < 1 - LEVEL) == (row["low"] > 0 or row["high"] < 0)
    least, most = binom.ppf(0.001, trials, LEVEL - 0.01), binom.ppf(0.999, trials, LEVEL + 0.01)
    assert least <= figures <= most and least <= differences <= most, (figures, differences)
    assert decided > 0.98 * trials, "p and interval decide alike, but for ties at the end"


def test_p_is_twice_the_share_beyond_nothing():
    draws = np.concatenate([np.full(1950, 0.3), np.full(49, -0.1)])
    assert p_value(draws) == p_value(-draws) == 0.05
    assert p_value(np.ones(1999)) == 0.001 and p_value(np.zeros(9)) == 1.0
