"""Advantages by hand, against loops, and against the SQL window form."""

from __future__ import annotations

import math

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from data import Lake, Refusal, segments
from data.advantages import METHODS, advantages, evaluate, is_truncated, raw_rewards, starts_of
from data.expression import compile_expression
from data.joined import only_where_none_passes
from data.pool_advantages import pool_advantages, without_reward
from data.scalars import read_scalars

NAN = math.nan
STARTS = np.array([0, 3, 5, 6, 9])
#                  spread     | flat    | one | one invalid   | one left
VALUES = np.array([1, 2, 6.0, 0.1, 0.1, 7.0, 0.0, 5.0, NAN, NAN, 4.0])
VALID = ~np.isnan(VALUES)


def _numbers(method: str, **options: object) -> list[float]:
    return advantages(VALUES, VALID, STARTS, method, **options).vector.tolist()  # type: ignore[arg-type]


GOLDEN = {
    "mean": ([-2, -1, 3], [-2.5, 2.5]),
    "mean_std": ([-2 / (math.sqrt(14 / 3) + 1e-4), -1 / (math.sqrt(14 / 3) + 1e-4), 3 / (math.sqrt(14 / 3) + 1e-4)],
                 [-2.5 / 2.5001, 2.5 / 2.5001]),
    "leave_one_out": ([1 - 4, 2 - 3.5, 6 - 1.5], [-5, 5]),
    "rank": ([-1, 0, 1], [-1, 1]),
    "quantile": ([2 * math.log(1 / 3) - 2 * math.log(2 / 9) / 3, 2 * math.log(2 / 3) - 2 * math.log(2 / 9) / 3,
                  -2 * math.log(2 / 9) / 3], [math.log(1 / 2) / 2, -math.log(1 / 2) / 2]),
    # σ of 1, 2, 6, 0, 5: mean 2.8, squares 66/5 − 7.84 = 5.36
    "mean_batch_std": ([-2 / math.sqrt(5.36), -1 / math.sqrt(5.36), 3 / math.sqrt(5.36)],
                       [-2.5 / math.sqrt(5.36), 2.5 / math.sqrt(5.36)]),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_golden_numbers(method: str) -> None:
    first, fourth = GOLDEN[method]
    assert _numbers(method) == pytest.approx([*first, 0, 0, 0, *fourth, 0, 0, 0], rel=1e-6, abs=1e-7)


def test_every_figure_is_counted() -> None:
    found = advantages(VALUES, VALID, STARTS, truncated=np.arange(11) == 2)
    assert found.figures == {
        "groups": 5, "groups_kept": 2, "zero_variance": 1, "too_few": 2, "samples": 11, "invalid": 2, "truncated": 1,
        "in_loss": 4,
    }  # fmt: skip
    assert found.group_kept.tolist() == [True, False, False, True, False]
    assert found.in_loss.tolist() == [True, True, False, False, False, False, True, True, False, False, False]
    assert found.vector.dtype == np.float32


def test_kept_zero_variance_groups_are_in_the_loss_with_advantage_zero() -> None:
    found = advantages(VALUES, VALID, STARTS, "mean_std", zero_variance="keep")
    assert found.group_kept.tolist() == [True, True, False, True, False]
    assert found.in_loss[3:5].all() and (found.vector[3:5] == 0).all()


def test_a_group_below_the_least_spread_counts_as_zero_variance() -> None:
    values = np.array([0.0, 1e-6, 0.0, 1.0])
    found = advantages(values, np.ones(4, bool), np.array([0, 2]), "mean_std", min_spread=1e-3)
    assert found.group_kept.tolist() == [False, True] and found.figures["zero_variance"] == 1
    assert advantages(values, np.ones(4, bool), np.array([0, 2])).group_kept.all()
    kept = advantages(values, np.ones(4, bool), np.array([0, 2]), "rank", min_spread=1e-3, zero_variance="keep")
    assert kept.in_loss.all() and kept.vector.tolist() == [0, 0, -1, 1]


@pytest.mark.parametrize(
    ("rule", "vector", "in_loss"),
    [
        ("mask", [-2, -1, 0], [True, True, False]),  # the third stays in the baseline: mean 3
        ("drop", [-0.5, 0.5, 0], [True, True, False]),
        ("penalise", [0, 1, -1], [True, True, True]),  # 6 − 6 = 0
        ("keep", [-2, -1, 3], [True, True, True]),
    ],
)
def test_truncated_samples(rule: str, vector: list[float], in_loss: list[bool]) -> None:
    found = advantages(
        np.array([1, 2, 6.0]), np.ones(3, bool), np.array([0]),
        truncated=np.array([False, False, True]), on_truncated=rule, penalty=6.0,
    )  # fmt: skip
    assert found.vector.tolist() == vector and found.in_loss.tolist() == in_loss


def test_invalid_samples_are_in_no_numerator_and_no_denominator() -> None:
    values, valid = np.array([1.0, 1e9, 3.0]), np.array([True, False, True])
    found = advantages(values, valid, np.array([0]))
    assert found.vector.tolist() == [-1, 0, 1] and found.in_loss.tolist() == [True, False, True]
    assert advantages(np.array([1.0, np.inf, 3.0]), np.ones(3, bool), np.array([0])).vector.tolist() == [-1, 0, 1]


def _loop(method: str, groups: list[list[float]]) -> list[float]:
    """The slow plain twin: lists, one sample at a time."""
    kept = [g for g in groups if len([r for r in g if r == r]) > 1 and len({r for r in g if r == r}) > 1]
    batch = [r for g in kept for r in g if r == r]
    centre = sum(batch) / len(batch)
    sigma_batch = math.sqrt(sum((r - centre) ** 2 for r in batch) / len(batch))
    out = []
    for group in groups:
        known = [r for r in group if r == r]
        bond = {r: (len(known) - 1) * math.log(sum(k <= r for k in known) / len(known)) for r in known}
        for r in group:
            if r != r or len(set(known)) < 2:
                out.append(0.0)
                continue
            mean = sum(known) / len(known)
            sigma = math.sqrt(sum((k - mean) ** 2 for k in known) / len(known))
            others = list(known)
            others.remove(r)
            mean_rank = sum(k < r for k in known) + (sum(k == r for k in known) + 1) / 2
            out.append(
                {
                    "mean": r - mean,
                    "mean_std": (r - mean) / (sigma + 1e-4),
                    "leave_one_out": r - sum(others) / len(others),
                    "rank": 2 * (mean_rank - 1) / (len(known) - 1) - 1,
                    "quantile": bond[r] - sum(bond[k] for k in known) / len(known),
                    "mean_batch_std": (r - mean) / sigma_batch,
                }[method]
            )
    return out


@pytest.mark.parametrize("method", METHODS)
def test_every_method_equals_its_loop(method: str) -> None:
    rng = np.random.default_rng(3)
    groups = [rng.choice([0.0, 0.25, 0.5, 1.0, NAN], size=rng.integers(1, 9)).tolist() for _ in range(200)]
    values = np.array([r for g in groups for r in g])
    starts = np.cumsum([0, *(len(g) for g in groups)])[:-1]
    found = advantages(values, ~np.isnan(values), starts, method)
    np.testing.assert_allclose(found.vector, _loop(method, groups), rtol=2e-6, atol=1e-6)


def test_the_batchs_spread_is_of_all_its_rows_however_many(monkeypatch: pytest.MonkeyPatch) -> None:
    values, starts = np.array([0.0, 1.0, 0.0, 5.0]), np.array([0, 2])
    whole = advantages(values, np.ones(4, bool), starts, "mean_batch_std").vector
    assert whole.tolist() == pytest.approx([x / np.std(values) for x in (-0.5, 0.5, -2.5, 2.5)])
    monkeypatch.setattr(segments, "BLOCK_ROWS", 2)  # a group a block
    np.testing.assert_array_equal(advantages(values, np.ones(4, bool), starts, "mean_batch_std").vector, whole)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(Refusal, match="did you mean 'leave_one_out'"):
        _numbers("leave_one")
    with pytest.raises(Refusal, match="did you mean 'penalise'"):
        _numbers("mean", on_truncated="penalize")


EXPRESSIONS = [
    "zscore_group(a) + 0.5*zscore_group(b) - 0.2*b",
    "rank_group(a)",
    "3*log_quantile_group(a) + log_quantile_group(b)",
    "zscore_all(a) * mean_group(b)",
    "CASE WHEN a > mean_group(a) + 0.0123 THEN 1 ELSE -1 END",
    "zscore_group(clip(a, -1, 1) - mean_group(b))",
    "rank_group(coalesce(a, 0)) + zscore_group(1 / b)",
    "a > 0 AND b > 0",
]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_segments_equal_the_sql_window_form(text: str) -> None:
    rng = np.random.default_rng(7)
    sizes = rng.integers(1, 7, 300)
    n = int(sizes.sum())
    table = pa.table(
        {
            "pool": pa.array(["p"] * n),
            "group_id": np.repeat(rng.integers(0, 2**63, 300, dtype=np.uint64) * 2 + 1, sizes),
            "sample_index": np.concatenate([np.arange(s) for s in sizes]).astype(np.uint8),
            "a": pa.array(np.round(rng.normal(size=n), 1), mask=rng.random(n) < 0.2),
            "b": pa.array(rng.choice([0.0, 0.1, 1.0], n), mask=rng.random(n) < 0.1),
            "row": np.arange(n),
        }
    )
    expression = compile_expression(text, ["a", "b"])
    con = duckdb.connect()
    con.register("reward_table", table)
    con.execute(f"CREATE TABLE found AS {expression.sql}")
    pure = con.sql(
        "SELECT value FROM reward_table JOIN found USING (pool, group_id, sample_index) ORDER BY row"
    ).to_arrow_table()["value"]
    ours = evaluate(expression, table)
    assert np.isnan(ours).sum() == pure.null_count
    np.testing.assert_allclose(ours, np.array(pure.to_pylist(), dtype=np.float64), atol=1e-9)


def test_the_pinned_sql_runs_on_the_lake_and_gives_the_same_values(lake: Lake) -> None:
    samples = lake.slices("samples", label="demo")[0]
    rewards = {r.label: r for r in lake.slices("rewards") if samples.path in r.parents}
    found = pool_advantages(samples, rewards, "zscore_group(chrf) + 0.1*length", where="length > 1")
    rows = lake.sql(
        f"SELECT value FROM ({found.sql}) JOIN reward_table USING (pool, group_id, sample_index) "
        "WHERE pool = 'demo' ORDER BY text"
    )["value"].to_pylist()
    assert rows == pytest.approx([None if math.isnan(v) else v for v in found.values])
    assert found.passed.tolist() == [False, True, True, True, True, False, False, True]
    assert found.slices[0] == samples.path and len(found.slices) == 3
    assert found.group_starts.tolist() == [0, 4, 7]


def test_samples_cut_by_length_are_masked_by_default(lake: Lake) -> None:
    samples = lake.slices("samples", label="demo")[0]
    rewards = {r.label: r for r in lake.slices("rewards") if samples.path in r.parents}
    found = pool_advantages(samples, rewards, "length").advantages
    assert found.vector.tolist() == [-1.5, -0.5, 0.0, 1.5, *np.float32([8 / 3, -4 / 3, 0.0]), 0.0]
    assert found.in_loss.tolist() == [True, True, False, True, True, True, False, False]
    kept = pool_advantages(samples, rewards, "length", on_truncated="keep").advantages
    assert kept.in_loss.tolist() == [True] * 7 + [False]


def test_an_infinite_component_is_missing() -> None:
    table = pa.table({"group_id": [1, 1, 1], "a": [1.0, math.inf, -math.inf]})
    assert evaluate(compile_expression("a", ["a"]), table).tolist() == pytest.approx([1.0, NAN, NAN], nan_ok=True)


def test_scalars_stand_by_position_and_other_samples_are_refused(lake: Lake, lake_copy: Lake) -> None:
    samples = lake.slices("samples", label="demo")[0]
    chrf = next(r for r in lake.slices("rewards", label="chrf") if samples.path in r.parents)
    table = read_scalars(samples, {"chrf": chrf})
    assert table.column_names == ["group_id", "sample_index", "n_tokens", "finish_reason", "origin", "chrf"]
    assert table["chrf"].to_pylist() == [0.1, 0.4, 0.4, None, 0.2, 0.2, 0.2, 0.9]
    assert table["finish_reason"].to_pylist() == ["stop", "stop", "length", "stop", "stop", "stop", "length", "stop"]
    other = next(r for r in lake_copy.slices("rewards", label="chrf") if "samples/round1" in r.parents[0])
    with pytest.raises(Refusal, match="holds other rows"):
        read_scalars(samples, {"chrf": other})


def test_a_missing_shard_is_named(lake_copy: Lake) -> None:
    samples = lake_copy.slices("samples", label="demo")[0]
    samples.files[1].unlink()
    with pytest.raises(Refusal, match=r"samples/demo-.*part-00001\.parquet"):
        read_scalars(samples, {})


def test_group_starts_do_not_depend_on_chunks() -> None:
    ids = [1, 1, 2, 3, 3, 3, 1]
    for cuts in ([ids], [ids[:1], ids[1:]], [ids[:3], [], ids[3:5], ids[5:]]):
        keys = pa.chunked_array([pa.array(c, pa.uint64()) for c in cuts])
        assert starts_of(keys).tolist() == [0, 2, 3, 6]


def test_an_unknown_finish_reason_is_no_cut() -> None:
    plain = pa.chunked_array([["stop", None, "length"], [None, "stop"]])
    assert is_truncated(plain).tolist() == [False, False, True, False, False]
    assert is_truncated(plain.dictionary_encode()).tolist() == [False, False, True, False, False]


JOINED = np.array([10.0, NAN, 1.0, NAN, NAN])


@pytest.mark.parametrize("method", METHODS)
def test_a_joined_answer_is_one_more_row_of_its_group_that_is_then_dropped(method: str) -> None:
    found = advantages(VALUES, VALID, STARTS, method, joined=JOINED)
    longer = np.array([1, 2, 6.0, 10.0, 0.1, 0.1, 7.0, 1.0, 0.0, 5.0, NAN, NAN, 4.0])
    groups = [[1, 2, 6.0, 10.0], [0.1, 0.1], [7.0, 1.0], [0.0, 5.0, NAN], [NAN, 4.0]]
    own = [0, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12]
    np.testing.assert_allclose(found.vector, np.array(_loop(method, groups))[own], rtol=2e-6, atol=1e-6)
    assert len(longer[own]) == len(VALUES) and found.group_kept.tolist() == [True, False, True, True, False]
    assert found.figures["samples"] == 11 and found.figures["in_loss"] == found.in_loss.sum() == 6
    assert found.figures["invalid"] == 2


def test_a_group_of_failures_has_spread_once_the_answer_joins() -> None:
    values, starts = np.array([0.0, 0, 0, 1, 0, 1]), np.array([0, 3])
    alone = advantages(values, np.ones(6, bool), starts)
    assert alone.group_kept.tolist() == [False, True]
    together = advantages(values, np.ones(6, bool), starts, joined=np.array([1.0, NAN]))
    assert together.vector.tolist() == pytest.approx([-0.25] * 3 + [1 / 3, -2 / 3, 1 / 3])
    cut = np.array([False, False, True, False, False, False])
    masked = advantages(values, np.ones(6, bool), starts, joined=np.array([1.0, NAN]), truncated=cut)
    assert masked.in_loss.tolist() == [True, True, False, True, True, True]


def test_an_answer_joins_only_where_no_sample_passes() -> None:
    passed = np.array([False, False, True, False, False])
    joined = only_where_none_passes(np.array([1.0, 2.0, NAN]), passed, np.array([0, 2, 4]))
    np.testing.assert_array_equal(joined, [1.0, NAN, NAN])


@pytest.mark.parametrize(
    ("rule", "reward", "baseline"),
    [("mask", [1, 2, 6.0], 3), ("drop", [1, 2, NAN], 1.5), ("penalise", [1, 2, 1.0], 4 / 3), ("keep", [1, 2, 6.0], 3)],
)
def test_raw_rewards_keep_masked_samples_in_the_baseline(rule: str, reward: list[float], baseline: float) -> None:
    values, starts = np.array([1, 2, 6.0, NAN, NAN, 4.0]), np.array([0, 3, 4])
    cut = np.arange(6) == 2
    found, mean = raw_rewards(values, starts, truncated=cut, on_truncated=rule, penalty=5.0)
    np.testing.assert_array_equal(found, [*reward, NAN, NAN, 4.0])
    np.testing.assert_allclose(mean, [baseline, NAN, 4.0])
    joined = raw_rewards(values, starts, truncated=cut, on_truncated="mask", joined=np.array([7.0, 5.0, NAN]))[1]
    np.testing.assert_allclose(joined, [4.0, 5.0, 4.0])


def test_a_pool_without_a_reward_has_every_sample_but_the_cut_ones(lake: Lake) -> None:
    samples = lake.slices("samples", label="demo")[0]
    found = without_reward(samples)
    assert found.advantages.in_loss.tolist() == [True, True, False, True, True, True, False, True]
    assert not found.advantages.vector.any() and found.advantages.group_kept.all() and found.sql is None
    assert without_reward(samples, "keep").advantages.in_loss.all()
    assert found.group_starts.tolist() == [0, 4, 7] and found.slices == (samples.path,)


def test_answers_join_the_pools_groups_by_their_ids(lake: Lake) -> None:
    samples = lake.slices("samples", label="demo")[0]
    rewards = {r.label: r for r in lake.slices("rewards") if samples.path in r.parents}
    ids = lake.read(samples, ["group_id"]).column(0).to_numpy()

    def answers(groups: np.ndarray) -> np.ndarray:
        assert groups.tolist() == [ids[0], ids[4], ids[7]]
        return np.array([9.0, 9.0, 9.0])

    found = pool_advantages(samples, rewards, "length", where="length > 3", best_answers=answers, raw=True)
    plain = pool_advantages(samples, rewards, "length", where="length > 3", raw=True)
    passes = np.logical_or.reduceat(found.passed, found.group_starts)
    assert found.joined is not None and found.baseline is not None and plain.baseline is not None
    np.testing.assert_array_equal(np.isnan(found.joined), passes)
    assert 0 < passes.sum() < 3
    np.testing.assert_array_equal(found.baseline == plain.baseline, passes)
    assert plain.joined is None and pool_advantages(samples, rewards, "length").reward is None
