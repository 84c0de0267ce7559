"""Win rates and agreement against numbers worked out by hand, published examples and the definitions written out."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from data import Lake, Refusal
from data.contract import TABLES

START = datetime(2026, 1, 1, tzinfo=UTC)
Judgement = tuple[str, str | None, str]  # item, rater, verdict
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def judged(lake: Lake, rows: list[Judgement], **more: Any) -> Lake:
    """Judgements of x (policy_a) and y, in the order in which they were made."""
    shared = {"benchmark": "b", "policy_a": "x", "policy_b": "y"} | more
    table = [
        {**shared, "item": item, "rater": rater, "verdict": verdict, "created_at": START + timedelta(minutes=n)}
        for n, (item, rater, verdict) in enumerate(rows)
    ]
    lake.append("ratings", pa.Table.from_pylist(table, schema=TABLES["ratings"].schema), more.get("page", "all"))
    return lake


def rate(lake: Lake, policy: str = "x") -> dict[str, Any]:
    """The one row of a policy."""
    (row,) = lake.sql("SELECT * FROM win_rates WHERE policy = $p", p=policy).to_pylist()
    return dict(row)


def agreement(lake: Lake) -> dict[str, Any]:
    (row,) = lake.sql("SELECT * FROM rater_agreement").to_pylist()
    return dict(row)


def test_wins_ties_and_losses_from_either_side(empty_lake: Lake) -> None:
    judged(empty_lake, [("1", "A", "a"), ("2", "A", "a"), ("3", "A", "tie"), ("4", "A", "b")])
    names = ("policy", "against", "wins", "ties", "losses", "win_rate", "items", "raters")
    assert tuple(rate(empty_lake)[n] for n in names) == ("x", "y", 2, 1, 1, 0.625, 4, 1)
    assert tuple(rate(empty_lake, "y")[n] for n in names) == ("y", "x", 1, 1, 2, 0.375, 4, 1)
    assert rate(empty_lake)["low"] == pytest.approx(1 - rate(empty_lake, "y")["high"])


def test_an_item_counts_once_however_many_people_judge_it(empty_lake: Lake) -> None:
    judged(empty_lake, [("1", "A", "a"), ("1", "B", "a"), ("1", "C", "b"), ("2", "A", "b")])
    found = rate(empty_lake)
    assert found["win_rate"] == pytest.approx((2 / 3 + 0) / 2)
    assert (found["wins"], found["losses"], found["items"], found["raters"]) == (2, 2, 2, 3)


def test_of_one_raters_verdicts_on_a_pair_the_first_counts(empty_lake: Lake) -> None:
    judged(empty_lake, [("1", "A", "a"), ("2", "A", "tie"), ("1", "A", "b"), ("2", "A", "tie"), ("1", "A", "b")])
    assert (rate(empty_lake)["wins"], rate(empty_lake)["losses"], rate(empty_lake)["win_rate"]) == (1, 0, 0.75)
    assert (agreement(empty_lake)["repeats"], agreement(empty_lake)["self_equal"]) == (3, pytest.approx(1 / 3))


def test_the_interval_is_wilsons_by_hand_and_by_the_library(empty_lake: Lake) -> None:
    judged(empty_lake, [(str(i), "A", "a" if i < 8 else "b") for i in range(10)])
    found = rate(empty_lake)
    assert (found["low"], found["high"]) == (pytest.approx(0.490162, abs=1e-6), pytest.approx(0.943318, abs=1e-6))


@FEW
@given(st.integers(1, 60), st.data())
def test_without_ties_the_interval_is_the_librarys(empty_lake: Lake, n: int, data: st.DataObject) -> None:
    wins = data.draw(st.integers(0, n))
    judged(empty_lake, [(str(i), "A", "a" if i < wins else "b") for i in range(n)])
    found, library = rate(empty_lake), binomtest(wins, n).proportion_ci(method="wilson")
    assert (found["low"], found["high"]) == (
        pytest.approx(library.low, abs=1e-12),
        pytest.approx(library.high, abs=1e-12),
    )


@pytest.mark.parametrize(("win", "tie", "n"), [(0.3, 0.5, 20), (0.45, 0.1, 20), (0.1, 0.8, 40), (0.6, 0.2, 50)])
def test_with_ties_the_interval_holds_the_truth_at_least_as_often_as_it_says(
    empty_lake: Lake, win: float, tie: float, n: int
) -> None:
    chance, weights = random.Random(n), (win, tie, 1 - win - tie)
    shared = {"policy_a": "x", "policy_b": "y", "rater": "A", "created_at": START}
    table = [
        {
            "benchmark": f"try {number}",
            "item": str(i),
            "verdict": chance.choices(["a", "tie", "b"], weights)[0],
            **shared,
        }
        for number in range(1000)
        for i in range(n)
    ]
    empty_lake.append("ratings", pa.Table.from_pylist(table, schema=TABLES["ratings"].schema), "all")
    truth = win + tie / 2
    inside = "SELECT avg((low <= $truth AND $truth <= high)::INT) AS inside FROM win_rates WHERE policy = 'x'"
    assert empty_lake.sql(inside, truth=truth)["inside"][0].as_py() >= 0.95


def test_judgements_of_other_models_of_the_same_name_stand_apart(empty_lake: Lake) -> None:
    for page, model, verdict in (("p1", "m1", "a"), ("p2", "m2", "b")):
        shown = {
            "page": page,
            "pair": 1,
            "benchmark": "b",
            "item": "1",
            "first": "y",
            "second": "x",
            "first_model_id": "my",
        }
        shown |= {"second_model_id": model, "first_slice": "s", "second_slice": "s", "question": "?", "items": 1}
        shown |= {"identical": 0, "created_at": START}
        empty_lake.append("pairs", pa.Table.from_pylist([shown], schema=TABLES["pairs"].schema), page)
        judged(empty_lake, [("1", "A", verdict)], page=page, pair=1)
    rows = empty_lake.sql("SELECT * FROM win_rates WHERE policy = 'x'").to_pylist()
    assert {(r["model_id"], r["against_model_id"], r["wins"], r["losses"]) for r in rows} == {
        ("m1", "my", 1, 0), ("m2", "my", 0, 1),
    }  # fmt: skip
    leaning = empty_lake.sql("SELECT model_id, first_preferred FROM rater_agreement").to_pylist()
    assert {(r["model_id"], r["first_preferred"]) for r in leaning} == {("m1", 0.0), ("m2", 1.0)}


# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", examples A, B and C: a line an observer, a column a unit.
EXAMPLES = {
    "A": (["0100000010", "1110010000"], 0.095),
    "B": (["aabbdcccedda", "babbbccceddd"], 0.692),
    "C": (["123321412...", "1233224125.3", ".3332342251.", "12332441251."], 0.743),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_alpha_is_krippendorffs_in_his_own_examples(empty_lake: Lake, name: str) -> None:
    observers, alpha = EXAMPLES[name]
    rows = [(str(unit), str(o), v) for o, line in enumerate(observers) for unit, v in enumerate(line) if v != "."]
    assert agreement(judged(empty_lake, rows))["alpha"] == pytest.approx(alpha, abs=5e-4)


def defined_alpha(rows: list[Judgement]) -> float | None:
    """α from the matrix of coincidences, pair of values by pair of values."""
    units: dict[str, list[str]] = {}
    for item, _, verdict in rows:
        units.setdefault(item, []).append(verdict)
    coincidences: Counter[tuple[str, str]] = Counter()
    for values in units.values():
        for one, other in itertools.permutations(values, 2):
            coincidences[one, other] += 1 / (len(values) - 1)
    total: Counter[str] = Counter()
    for (one, _), weight in coincidences.items():
        total[one] += weight
    n = sum(total.values())
    observed = sum(weight for (one, other), weight in coincidences.items() if one != other)
    expected = sum(total[c] * total[k] for c in total for k in total if c != k) / (n - 1) if n else 0.0
    return 1 - observed / expected if expected else None


@FEW
@given(
    st.dictionaries(
        st.tuples(st.sampled_from("123456"), st.sampled_from("ABC")), st.sampled_from(["a", "b", "tie"]), min_size=1
    )
)
def test_alpha_and_equal_are_their_definitions(empty_lake: Lake, verdicts: dict[tuple[str, str], str]) -> None:
    rows = [(item, rater, verdict) for (item, rater), verdict in verdicts.items()]
    found, alpha = agreement(judged(empty_lake, rows)), defined_alpha(rows)
    assert found["alpha"] == (None if alpha is None else pytest.approx(alpha, abs=1e-12))
    twos = [one[2] == other[2] for one, other in itertools.combinations(rows, 2) if one[0] == other[0]]
    assert found["equal"] == (pytest.approx(sum(twos) / len(twos)) if twos else None)
    assert found["shared_items"] == sum(n > 1 for n in Counter(item for item, _, _ in rows).values())


def test_whoever_gave_no_name_counts_as_a_verdict_and_not_as_a_rater(empty_lake: Lake) -> None:
    judged(empty_lake, [("1", None, "a"), ("1", None, "b"), ("2", None, "a")])
    assert (rate(empty_lake)["wins"], rate(empty_lake)["win_rate"], rate(empty_lake)["raters"]) == (2, 0.75, 0)
    found = agreement(empty_lake)
    assert (found["raters"], found["shared_items"], found["repeats"]) == (0, 0, 0)
    assert (found["equal"], found["alpha"], found["self_equal"], found["first_preferred"]) == (None, None, None, None)


@pytest.mark.parametrize("view", ["win_rates", "rater_agreement"])
def test_a_lake_without_judgements_says_what_to_do(lake: Lake, tmp_path: Path, view: str) -> None:
    with pytest.raises(Refusal, match="nobody has judged") as refused:
        Lake.open(tmp_path / "new").sql(f"SELECT * FROM {view}")
    assert "python -m data pairs" in str(refused.value)
