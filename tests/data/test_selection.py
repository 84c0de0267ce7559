"""Best-of-N by hand, against a loop, and from slices."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from data import Lake, Refusal
from data.contract import SELECTIONS
from data.selection import Candidates, best_of_n, places, select


def _samples(**columns: list[object]) -> pa.Table:
    n = len(next(iter(columns.values())))
    ids = {
        "prompt_id": pa.array(columns.pop("prompt_id", [7] * n), pa.uint64()),
        "group_id": pa.array([9] * n, pa.uint64()),
    }
    return pa.table(ids | {"sample_index": pa.array(range(n), pa.uint8())} | columns)


def _answers(**columns: list[object]) -> pa.Table:
    n = len(next(iter(columns.values())))
    ids = {"prompt_id": pa.array(columns.pop("prompt_id", [7] * n), pa.uint64())}
    return pa.table(ids | {"candidate": pa.array(range(n), pa.uint8())} | columns)


def _chosen(table: pa.Table) -> list[tuple[str, int]]:
    return [(r["source"], r["candidate"]) for r in table.to_pylist() if r["chosen"]]


def test_the_filter_comes_before_the_ranking() -> None:
    samples = _samples(score=[0.2, 0.3], language=[1.0, 1.0])
    answers = _answers(score=[0.9], language=[0.0])  # ranked first it would win, be filtered out, and leave nobody
    found = select(samples, answers, "score", "language = 1", ["score", "language"])
    assert _chosen(found) == [("sample", 1)]
    assert found["rank"].to_pylist() == [2, 1, None]
    assert found["passed"].to_pylist() == [True, True, False]
    assert found["score"].to_pylist() == [0.2, 0.3, 0.9]


def test_equal_scores_prefer_samples_and_the_lower_index() -> None:
    found = select(_samples(x=[0.5, 1.0, 1.0]), _answers(x=[1.0]), "x", None, ["x"])
    assert found["rank"].to_pylist() == [4, 1, 2, 3]
    assert found["quantile"].to_pylist() == [0.25, 1.0, 1.0, 1.0]


def test_null_does_not_pass_and_is_not_ranked() -> None:
    samples = _samples(x=pa.array([None, 1.0, 2.0]), ok=pa.array([1.0, None, 1.0]))
    found = select(samples, None, "x", "ok = 1", ["x", "ok"])
    assert found["rank"].to_pylist() == [None, None, 1]
    assert found["passed"].to_pylist() == [True, False, True]
    assert found["quantile"].to_pylist() == [None, None, 1.0]


def test_a_prompt_where_nobody_passes_chooses_nobody() -> None:
    assert _chosen(select(_samples(x=[1.0, 2.0]), None, "x", "x > 5", ["x"])) == []


def test_best_chooses_the_first_ranks() -> None:
    assert _chosen(select(_samples(x=[1.0, 3.0, 2.0]), None, "x", None, ["x"], best=2)) == [
        ("sample", 1),
        ("sample", 2),
    ]


def test_a_component_that_answers_lack_leaves_them_unranked_unless_coalesced() -> None:
    samples, answers = _samples(x=[1.0]), _answers(y=[5.0])
    assert select(samples, answers, "x", None, ["x", "y"])["rank"].to_pylist() == [1, None]
    assert _chosen(select(samples, answers, "coalesce(x, y)", None, ["x", "y"])) == [("answer", 0)]


def test_source_can_be_named_and_group_functions_run_over_all_candidates() -> None:
    samples, answers = _samples(x=[1.0, 2.0]), _answers(x=[6.0])
    found = select(samples, answers, "x - mean_group(x)", "source = 'sample'", ["x"])
    assert found["score"].to_pylist() == [-2.0, -1.0, 3.0] and _chosen(found) == [("sample", 1)]


def test_prompts_keep_their_order_and_answers_stand_beside_their_samples() -> None:
    samples = _samples(prompt_id=[5, 5, 3], x=[1.0, 2.0, 3.0])
    answers = _answers(prompt_id=[3, 8, 5], x=[9.0, 9.0, 0.0])
    found = select(samples, answers, "x", None, ["x"]).to_pylist()
    assert [(r["prompt_id"], r["source"]) for r in found] == [
        (5, "sample"), (5, "sample"), (5, "answer"), (3, "sample"), (3, "answer"), (8, "answer"),
    ]  # fmt: skip


def test_ranks_and_quantiles_equal_a_loop() -> None:
    rng = np.random.default_rng(5)
    n = 250
    prompts = np.sort(rng.integers(0, 50, n))
    x = rng.choice([0.0, 0.5, 1.0, np.nan], n)
    samples = _samples(x=pa.array(x, from_pandas=True), prompt_id=prompts.tolist()).set_column(
        2, "sample_index", pa.array(np.arange(n), pa.uint8())
    )
    found = select(samples, None, "x", "x >= 0.5", ["x"]).to_pylist()
    for i, row in enumerate(found):
        rivals = [(-x[j], j) for j in range(n) if prompts[j] == prompts[i] and x[j] >= 0.5]
        if x[i] >= 0.5:
            assert row["rank"] == sorted(rivals).index((-x[i], i)) + 1
            assert row["quantile"] == np.float32(sum(-s <= x[i] for s, _ in rivals) / len(rivals))
        else:
            assert row["rank"] is None and not row["chosen"]


def _source(lake: Lake, **changes: object) -> Candidates:
    samples = lake.slices("samples", label="demo")[0]
    fields = {
        "samples": samples,
        "groups": lake.slices("groups", label="demo")[0],
        "rewards": {r.label: r for r in lake.slices("rewards") if samples.path in r.parents},
        "answers": lake.slices("answers")[0],
        "answer_tokens": lake.slices("answer_tokens")[0],
        "answer_rewards": {r.label: r for r in lake.slices("answer_rewards")},
    }
    return Candidates(**(fields | changes))  # type: ignore[arg-type]


def test_a_pool_is_selected_with_the_tokens_of_the_chosen(lake: Lake) -> None:
    found = best_of_n(lake, _source(lake), "chrf", None)
    assert found.schema.equals(SELECTIONS.schema.remove_metadata()) or found.schema.names == SELECTIONS.schema.names
    chosen = [r for r in found.to_pylist() if r["chosen"]]
    # chrf: samples .1 .4 .4 null beside answers .4 .3 · .2 .2 .2 beside .4 .3 · .9 beside .4 .3
    assert [(r["source"], r["candidate"], r["score"]) for r in chosen] == [
        ("sample", 1, 0.4), ("answer", 0, 0.4), ("sample", 0, 0.9),
    ]  # fmt: skip
    assert [r["token_ids"] for r in chosen] == [[0, 1], [51, 0, 2], [0]]
    assert [r["prompt_token_ids"] for r in chosen] == [[0, 7], [1, 7], [2, 7]]
    assert all(r["token_ids"] is None for r in found.to_pylist() if not r["chosen"])


def test_a_selection_can_be_published(lake_copy: Lake) -> None:
    from data import Key

    found = best_of_n(lake_copy, _source(lake_copy), "chrf", "chrf > 0.35")
    with lake_copy.publish("selections", Key({"x": 1}, contents=("one",)), label="demo") as publisher:
        publisher.write(publisher.pending()[0], found)
        publisher.finish()
    rows = lake_copy.sql("SELECT count(*) AS n, count(token_ids) AS t FROM selections").to_pylist()
    assert rows == [{"n": 14, "t": 3}]


def test_samples_compete_alone_without_answers(lake: Lake) -> None:
    found = best_of_n(lake, _source(lake, answers=None), "chrf", None, best=1)
    assert set(found["source"].to_pylist()) == {"sample"} and len(found) == 8


def test_a_chosen_answer_without_tokens_is_refused(lake: Lake) -> None:
    with pytest.raises(Refusal, match="answer_tokens"):
        best_of_n(lake, _source(lake, answer_tokens=None), "chrf", None)


def test_groups_of_another_pool_are_refused(lake: Lake) -> None:
    with pytest.raises(Refusal, match="holds groups that"):
        best_of_n(lake, _source(lake, groups=lake.slices("groups", label="round1")[0]), "chrf", None)


def test_places_of_keys() -> None:
    there = (np.array([2**63 + 1, 5, 5], np.uint64), np.array([0, 1, 0], np.uint8))
    wanted = (np.array([5, 5, 2**63 + 1, 6, 5], np.uint64), np.array([0, 1, 0, 0, 2], np.uint8))
    assert places(wanted, there).tolist() == [2, 1, 0, -1, -1]
    assert places((wanted[0],), (there[0][:2],)).tolist() == [1, 1, 0, -1, 1]
