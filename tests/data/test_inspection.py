"""What `inspect` says about a reward, by hand on the small lake."""

from __future__ import annotations

import numpy as np
import pytest

from data import Lake, Refusal
from data.inspection import as_text, flipping, inspect


def test_components_have_their_range_their_gaps_and_their_flat_groups(lake: Lake) -> None:
    found = inspect(lake, "chrf + length", pool="demo")
    chrf, length, expression = found.components.to_pylist()
    assert (chrf["min"], chrf["max"], chrf["missing"], chrf["invalid"], chrf["zero_variance"]) == (0.1, 0.9, 1, 1, 0.5)
    assert (length["component"], length["missing"], length["zero_variance"]) == ("length", 0, 0.0)
    assert (expression["component"], expression["missing"], expression["invalid"]) == ("expression", 1, None)
    assert chrf["mean"] == pytest.approx((0.1 + 0.4 + 0.4 + 0.6 + 0.9) / 7)


def test_correlation_is_over_samples_that_have_both(lake: Lake) -> None:
    rows = inspect(lake, "chrf", pool="demo").correlation.to_pylist()
    chrf, length = [0.1, 0.4, 0.4, 0.2, 0.2, 0.2, 0.9], [1, 2, 3, 5, 1, 1, 2]
    assert rows[0]["length"] == pytest.approx(np.corrcoef(chrf, length)[0, 1])
    assert rows[0]["expression"] == pytest.approx(1)
    assert inspect(lake, "0 * chrf", pool="demo").correlation.to_pylist()[0]["expression"] is None


def test_best_and_worst_come_with_their_text(lake: Lake) -> None:
    found = inspect(lake, "length", pool="demo", rows=2)
    assert [(r["value"], r["prompt"], r["text"]) for r in found.best.to_pylist()] == [
        (5.0, "Hvat er klokkan?", "svar 1.0 ð"), (4.0, "Hvussu eitur staðurin?", "svar 0.3 ð"),
    ]  # fmt: skip
    assert [r["value"] for r in found.worst.to_pylist()] == [1.0, 1.0]
    assert found.figures["groups"] == 3 and found.flips is None


def test_groups_whose_order_another_expression_reverses_are_shown(lake: Lake) -> None:
    found = inspect(lake, "length", against="-1*length", pool="demo")
    assert found.flipped == 2 and found.flips is not None
    assert [(r["best"], r["best_against"]) for r in found.flips.to_pylist()] == [
        ("svar 0.3 ð", "svar 0.0 ð"), ("svar 1.0 ð", "svar 1.1 ð"),
    ]  # fmt: skip
    assert inspect(lake, "length", against="2*length", pool="demo").flipped == 0


def test_a_flip_is_a_pair_in_opposite_order() -> None:
    nan = np.nan
    a = np.array([1, 2, 3, 1, 1, 1, 2, nan, 1, 2])
    b = np.array([1, 3, 2, 1, 2, 1, 1, 5, nan, nan])
    assert flipping(a, b, np.array([0, 3, 5, 8])).tolist() == [True, False, False, False]


def test_the_sql_shown_is_the_answer(lake: Lake) -> None:
    found = inspect(lake, "zscore_group(chrf) - rank_group(length)", pool="demo")
    values = lake.sql(f"SELECT max(value) AS v FROM ({found.sql})")["v"][0].as_py()
    assert values == pytest.approx(found.best.to_pylist()[0]["value"])
    assert found.sql in as_text(found)


def test_the_newest_pool_is_the_default_and_unknown_ones_are_refused(lake: Lake, empty_lake: Lake) -> None:
    assert inspect(lake, "chrf").pool == "round1"
    with pytest.raises(Refusal, match="no pool named dem: did you mean 'demo'"):
        inspect(lake, "chrf", pool="dem")
    with pytest.raises(Refusal, match="no pool yet"):
        inspect(empty_lake, "chrf")
    with pytest.raises(Refusal, match="unknown column length"):
        inspect(lake, "length", pool="round1")
