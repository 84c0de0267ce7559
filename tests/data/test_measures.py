"""Measures of whole sets by hand, against scipy, and what an item without a value does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from data.measures import MEASURES, mcc, measured, spearman


def of(name, **parts):
    return MEASURES[name].compute({part: np.array(values, float) for part, values in parts.items()})


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_spearman_is_scipys_where_both_sides_vary(pairs):
    ours, true = np.array(pairs, float).T
    if len(set(ours)) > 1 and len(set(true)) > 1:
        assert spearman({"spearman_predicted": ours, "spearman_true": true}) == pytest.approx(
            spearmanr(ours, true).statistic
        )


def test_spearman_by_hand_and_of_no_spread():
    # ranks 1 2.5 2.5 4 and 1 2 3 4: covariance 4.5, spreads 4.5 and 5
    assert of("spearman", spearman_predicted=[1, 2, 2, 9], spearman_true=[0, 1, 2, 3]) == pytest.approx(
        4.5 / np.sqrt(4.5 * 5)
    )
    assert np.isnan(of("spearman", spearman_predicted=[2, 2], spearman_true=[0, 1]))


def test_mcc_of_two_classes_by_the_cells_and_of_three_by_the_table():
    ours, true = [1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0, 0]  # tp 3, fp 1, fn 2, tn 2
    assert of("mcc", label_predicted=ours, label_true=true) == pytest.approx((3 * 2 - 1 * 2) / np.sqrt(4 * 5 * 3 * 4))
    # c 5, s 6; true 2 2 2, predicted 3 2 1: (5·6 − 12) / √((36 − 14)(36 − 12))
    three = {"label_predicted": np.array([0, 0, 1, 1, 2, 0.0]), "label_true": np.array([0, 0, 1, 1, 2, 2.0])}
    assert mcc(three) == pytest.approx((5 * 6 - 12) / np.sqrt(22 * 24))
    assert of("mcc", label_predicted=[0, 0], label_true=[0, 1]) == 0


def test_macro_f1_is_over_the_classes_that_occur():
    value = of("macro_f1", label_predicted=[0, 0, 7], label_true=[0, 1, 0])  # class 0: 2/4, class 1: 0, class 7: 0
    assert value == pytest.approx((0.5 + 0 + 0) / 3)


def test_micro_f1_sums_before_it_divides():
    parts = {"entity_tp": [1, 0, 5], "entity_fp": [0, 2, 0], "entity_fn": [1, 0, 0]}
    assert of("micro_f1", **parts) == pytest.approx(12 / 15)
    assert np.isnan(of("micro_f1", entity_tp=[0], entity_fp=[0], entity_fn=[0]))


def test_bits_per_byte_sums_before_it_divides():
    assert of("bits_per_byte", bits=[30, 1], bytes=[10, 10]) == pytest.approx(31 / 20)


def test_iterations_are_averaged_each_by_itself():
    parts = {"iteration": [0, 0, 0, 1], "squad_f1": [100, 0, 50, 20]}
    assert of("squad_f1_mean", **parts) == pytest.approx((50 + 20) / 2)
    assert of("squad_f1_radius", **parts) == pytest.approx(
        1.96 * (30 / np.sqrt(2)) / np.sqrt(2)
    )  # deviations ±15, n − 1 = 1
    assert np.isnan(of("squad_em_radius", iteration=[3], squad_em=[1]))


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_an_item_that_lacks_a_part_is_left_out(name):
    generator = np.random.default_rng(0)
    needs = MEASURES[name].needs
    parts = {part: generator.integers(1, 4, 12).astype(float) for part in needs}
    if name.startswith("corpus"):  # matches are at most the n-grams there
        parts = {part: values + (0 if "matched" in part or "correct" in part else 4) for part, values in parts.items()}
    whole = MEASURES[name].compute(parts)
    longer = {part: np.append(values, 2.0) for part, values in parts.items()}
    longer[needs[0]][-1] = np.nan
    assert np.isfinite(whole) and MEASURES[name].compute(longer) == pytest.approx(whole)


def test_parts_are_shown_as_their_measure_and_the_rest_as_itself():
    shown = measured(["label_predicted", "label_true", "accuracy"])
    assert set(shown) == {"mcc", "macro_f1", "accuracy"} and shown["accuracy"] == ("accuracy",)
