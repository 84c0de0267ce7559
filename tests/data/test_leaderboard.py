"""The leaderboard and its differences: intervals of the newest evaluations only, published figures apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data import Key, Lake, Slice
from data.contract import TABLES
from data.intervals import interval_rows
from data.leaderboard import published
from data.measures import MEASURES

Evaluate = Callable[..., Slice]
Metrics = Mapping[str, float | None]


@pytest.fixture
def board(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake")


def publish(lake: Lake, table: str, key: Key, rows: list[dict[str, Any]], label: str) -> Slice:
    with lake.publish(table, key, label=label) as publisher:
        publisher.write(publisher.pending()[0], pa.Table.from_pylist(rows, schema=TABLES[table].schema))
        return publisher.finish()


def evaluate(lake: Lake, policy: str, items: Sequence[Metrics], model: str = "m", benchmark: str = "b") -> Slice:
    shared = {"policy": policy, "model_id": model, "benchmark": benchmark}
    rows = [{**shared, "item": str(i), "metrics": list(m.items())} for i, m in enumerate(items)]
    key = Key({"policy": policy, "benchmark": benchmark}, models={"policy": model}, contents=(f"{policy}{model}",))
    return publish(lake, "evaluations", key, rows, "demo")


def compare(lake: Lake, *evaluated: Slice, benchmark: str = "b") -> Slice:
    rows = interval_rows(pa.concat_tables([lake.read(slice_) for slice_ in evaluated]))
    return publish(lake, "intervals", Key({"benchmark": benchmark}, evaluated, contents=("all",)), rows, "demo")


def exact(*values: float | None) -> list[Metrics]:
    return [{} if value is None else {"exact": value} for value in values]


def test_the_leaderboards_figures_are_those_that_the_intervals_are_of(board):
    items = [{"exact": float(i % 3 == 0), "bits": 30.0 + i, "bytes": 10.0 + i % 7} for i in range(40)]
    items[7] = {"bits": 1.0, "bytes": 1.0}
    made = compare(board, evaluate(board, "p", items))
    held = {row["metric"]: row for row in board.read(made).to_pylist()}
    rows = board.sql("FROM leaderboard").to_pylist()
    assert {row["metric"] for row in rows} == set(held) == {"exact", "bits_per_byte"}
    for row in rows:
        theirs = held[row["metric"]]
        assert row["value"] == pytest.approx(theirs["value"], rel=1e-12)
        assert [row[c] for c in ("low", "high", "n")] == [theirs[c] for c in ("low", "high", "n")]
        assert row["low"] < row["value"] < row["high"] and (row["source"], row["origin"]) == ("evaluation", None)


def test_a_whole_set_measure_stands_in_place_of_its_parts(board):
    parts = MEASURES["mcc"].needs
    items = [dict(zip(parts, (float(i % 2), float(i % 3 == 0)), strict=True)) for i in range(12)]
    compare(board, evaluate(board, "p", [*items, {**items[0], "exact": 1.0}]))
    rows = {row["metric"]: row for row in board.sql("FROM leaderboard").to_pylist()}
    assert "mcc" in rows and "exact" in rows and not set(parts) & set(rows)
    assert rows["mcc"]["n"] == 13 and rows["mcc"]["low"] < rows["mcc"]["value"] < rows["mcc"]["high"]


def test_n_counts_items_not_rows(board):
    rows = [{"policy": "p", "model_id": "m", "benchmark": "b", "item": i, "metrics": [("exact", 1.0)]} for i in "aabc"]
    rows[3]["metrics"] = [("exact", None)]
    publish(board, "evaluations", Key({"policy": "p", "benchmark": "b"}, contents=("p",)), rows, "demo")
    assert board.sql("SELECT value, n FROM leaderboard").to_pylist() == [{"value": 1.0, "n": 2}]


def test_differences_stand_both_ways_round(board):
    compare(board, evaluate(board, "p", exact(0, 0, 1, 0, None)), evaluate(board, "q", exact(1, 0, 1, 1, 1)))
    rows = {(row["policy"], row["against"]): row for row in board.sql("FROM differences").to_pylist()}
    assert rows.keys() == {("q", "p"), ("p", "q")}
    one, other = rows[("q", "p")], rows[("p", "q")]
    assert (one["difference"], one["n"], one["recipe"], one["metric"]) == (0.5, 4, "demo", "exact")
    assert (other["difference"], other["low"], other["high"]) == (-0.5, -one["high"], -one["low"])
    assert one["p"] == other["p"] and one["low"] < 0.5 < one["high"]


def test_intervals_of_an_older_evaluation_are_shown_no_more(board):
    old, q, r = (evaluate(board, p, exact(*v)) for p, v in {"p": (0, 1), "q": (1, 0), "r": (0, 1)}.items())
    compare(board, old, q, r)
    new = evaluate(board, "p", exact(1, 0, 0, 0), model="trained on")
    shown = "SELECT policy, value, low FROM leaderboard ORDER BY policy"
    assert [tuple(r.values()) for r in board.sql(shown).to_pylist()] == [
        ("p", 0.25, None),
        ("q", 0.5, 0.0),
        ("r", 0.5, 0.0),
    ]
    pairs = board.sql("SELECT policy, against FROM differences ORDER BY ALL").to_pylist()
    assert [tuple(p.values()) for p in pairs] == [("q", "r"), ("r", "q")], "p's are of a model that is gone"
    compare(board, new, q, r)
    assert [r["low"] for r in board.sql(shown).to_pylist()] == [0.0, 0.0, 0.0]
    assert board.sql("FROM differences").num_rows == 6
    assert board.sql("SELECT DISTINCT slice FROM intervals").num_rows == 1, "the older intervals count no more"


def test_recipes_that_measure_the_same_share_no_differences(board):
    p = evaluate(board, "p", exact(0, 1))
    rows = board.read(p).to_pylist()
    for row in rows:
        row["policy"] = "q"
    key = Key({"policy": "q", "benchmark": "b"}, models={"policy": "m"}, contents=("other",))
    q = publish(board, "evaluations", key, rows, "other")
    compare(board, p)
    with board.publish("intervals", Key({"benchmark": "b"}, (q,), contents=("all",)), label="other") as publisher:
        publisher.write(
            publisher.pending()[0],
            pa.Table.from_pylist(interval_rows(board.read(q)), schema=TABLES["intervals"].schema),
        )
        publisher.finish()
    assert board.sql("FROM differences").num_rows == 0
    found = board.sql("SELECT recipe, policy, low FROM leaderboard ORDER BY recipe").to_pylist()
    assert [tuple(row.values()) for row in found] == [("demo", "p", 0.0), ("other", "q", 0.0)]


def test_rank_1_is_the_best_of_a_recipe_whichever_way_its_metric_points(board):
    fit = {"p": (30.0, 1.0, 5.0), "q": (10.0, 1.0, 9.0), "r": (20.0, 0.0, 7.0)}
    for policy, (bits, right, length) in fit.items():
        evaluate(board, policy, [{"bits": bits, "bytes": 10.0, "exact": right, "length": length, "f1_radius": right}])
    other = [
        {"policy": "p", "model_id": "m", "benchmark": "b", "item": "0", "metrics": [("exact", 0.25), ("f1", None)]}
    ]
    publish(board, "evaluations", Key({"policy": "p", "benchmark": "b"}, contents=("other",)), other, "other")
    rows = board.sql("FROM leaderboard").to_pylist()
    ranks = {(row["recipe"], row["metric"], row["policy"]): row["rank"] for row in rows}
    assert [ranks["demo", "bits_per_byte", p] for p in "pqr"] == [3, 1, 2]
    assert [ranks["demo", "exact", p] for p in "pqr"] == [1, 1, 3]
    assert ranks["other", "exact", "p"] == 1 and ranks["other", "f1", "p"] is None
    assert {ranks["demo", metric, p] for metric in ("length", "f1_radius") for p in "pqr"} == {None}


def test_published_figures_stand_beside_own_ones_of_that_benchmark_and_are_never_compared(board):
    compare(board, evaluate(board, "p", exact(0, 1)))
    assert set(board.sql("SELECT source FROM leaderboard")["source"].to_pylist()) == {"evaluation"}
    compare(board, evaluate(board, "q", exact(0, 1), benchmark="foqa"), benchmark="foqa")
    rows = board.sql("SELECT * FROM leaderboard WHERE source = 'published'").to_pylist()
    assert len(rows) == len(published()) == 10
    for row in rows:
        assert row["benchmark"] == "foqa" and row["origin"] and row["recipe"] is None
        assert row["low"] is row["high"] is row["n"] is row["step"] is row["rank"] is None
    assert board.sql("FROM differences").num_rows == 0


def test_published_figures_are_those_of_the_sources():
    figures = {(policy, metric): value for policy, _, metric, value, _ in published()}
    assert figures[("Llama-3.1-8B", "squad_f1_mean")] == 71.8 and figures[("FoBERT", "squad_em_mean")] == 20.4
    assert all(1 < value < 100 for value in figures.values()), "of 100, as the benchmark foqa counts"
    assert {metric for _, metric in figures} <= set(MEASURES), "named as our own"
