"""What `inspect` says about a reward, by hand on the small lake."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from data import Lake, Refusal, Slice
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


def test_the_newest_pool_that_has_the_columns_is_shown_and_named(lake: Lake) -> None:
    found = inspect(lake, "chrf", against="length")
    assert (found.pool, found.passed_over) == ("demo", ("round1",))
    assert as_text(found).startswith("pool demo, the newest that has these columns (round1 lacks some)\n")
    assert as_text(inspect(lake, "chrf")).startswith("pool round1\n")


def test_a_pool_without_a_column_is_named_with_the_command_for_one_that_has_it(lake: Lake, lake_copy: Lake) -> None:
    with pytest.raises(Refusal, match="unknown column length: pool round1 does not have it, demo does") as refused:
        inspect(lake, "chrf", against="length", pool="round1")
    assert refused.value.args[1].endswith(f"inspect chrf --against length --pool demo --lake {lake.uri}")
    with pytest.raises(
        Refusal, match=r"unknown column lenth, which no pool has \(round1, demo\): did you mean 'length'"
    ):
        inspect(lake, "lenth")
    for slice_ in lake_copy.slices("rewards", label="chrf")[:1]:
        (lake_copy.root / slice_.path / "_manifest.json").unlink()
    with pytest.raises(Refusal, match=r"no pool has all .*: pool round1 lacks length; pool demo lacks chrf"):
        inspect(lake_copy, "chrf + length")


def test_best_samples_are_of_different_groups_and_texts_and_teach_something_first(lake: Lake) -> None:
    rows = inspect(lake, "chrf", pool="demo").best.to_pylist()
    assert [(row["value"], row["advantage"] != 0) for row in rows] == [(0.4, True), (0.9, False), (0.2, False)]
    assert len({row["group_id"] for row in rows}) == len({row["text"] for row in rows}) == 3


def test_one_text_of_three_groups_is_shown_once(lake_copy: Lake, publish: Callable[..., Slice]) -> None:
    (samples,) = lake_copy.slices("samples", label="demo")
    (chrf,) = (r for r in lake_copy.slices("rewards", label="chrf") if samples.path in r.parents)
    texts, values = ([lake_copy.read_shard(s, i).to_pydict() for i in range(len(s.shards))] for s in (samples, chrf))
    alike = [shard | {"text": ["eitt"] * len(shard["text"])} for shard in texts]
    made = publish(lake_copy, "samples", alike, label="alike", parents=(lake_copy.slice(samples.parent("groups")),))
    publish(lake_copy, "rewards", values, label="chrf", parents=(made,))
    assert [row["value"] for row in inspect(lake_copy, "chrf", pool="alike").best.to_pylist()] == [0.4]
