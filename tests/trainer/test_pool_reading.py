"""What the objectives need of a pool: no reward, raw rewards, the teacher's scores, values a token, answers that join."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.advantages import advantages
from data.lake import Key
from data.pool import scores_key
from data.pool_advantages import PoolAdvantages
from data.refusal import Refusal
from trainer.config import Shaping
from trainer.forecast import expected_ess, forecast
from trainer.pool_groups import token_advantages
from trainer.pool_notes import why_none_is_left
from trainer.replay import Group
from trainer.sources import Reading, resolve

sys.path.append(str(Path(__file__).parent))

from taught import POOL, TEACHER, Publish, groups_of, sample_rows, slices, teach


def test_an_objective_without_a_reward_reads_every_sample_and_the_teachers_scores(
    made: Any, publish_rows: Publish
) -> None:
    teach(made, publish_rows)
    reading = resolve(made.with_(objective="opd", reward=None, teacher=TEACHER, **POOL))
    assert reading.pool is not None and reading.pool.in_loss.all() and reading.reward_sql is None
    assert sum(path.startswith("scores/tiny-teacher") for path in reading.paths) == 1
    assert not any(path.startswith("rewards/") for path in reading.paths)
    found = groups_of(reading)
    for i, row in enumerate(sample_rows(made)):
        group = found[row["group_id"]]
        assert group.teacher is not None and not group.advantages.any() and group.reward is None
        want = [-(i + t / 10) for t in range(row["n_tokens"])]
        np.testing.assert_allclose(group.teacher[row["sample_index"]], want, rtol=1e-4)


def test_a_sum_with_an_objective_of_rewards_reads_them(made: Any, publish_rows: Publish) -> None:
    teach(made, publish_rows)
    both = resolve(made.with_(objective={"opd": 1.0, "grpo": 0.5}, teacher=TEACHER, **POOL))
    assert any(path.startswith("rewards/points") for path in both.paths) and both.reward_sql
    with pytest.raises(Refusal, match="the recipe has no reward"):
        resolve(made.with_(objective={"opd": 1.0, "grpo": 0.5}, reward=None, teacher=TEACHER, **POOL))


def unaligned(row: dict[str, Any], i: int) -> None:
    row["alignment"] = "byte_spans" if i == 20 else "same_tokenizer"


def unscored(row: dict[str, Any], i: int) -> None:
    row["logprobs"] = None if i == 20 else row["logprobs"]


@pytest.mark.parametrize(
    ("change", "said"),
    [(unaligned, r"student's own tokens.*objective=grpo"), (unscored, r"are null.*stages=\[scores\]")],
)
def test_scores_that_are_not_token_by_token_are_refused(
    made: Any, publish_rows: Publish, change: Any, said: str
) -> None:
    teach(made, publish_rows, change)
    with pytest.raises(Refusal, match=rf"(?s){said}"):
        resolve(made.with_(objective="opd", teacher=TEACHER, **POOL))


def test_a_teacher_without_scores_is_refused_with_the_stage_that_makes_them(made: Any, publish_rows: Publish) -> None:
    with pytest.raises(Refusal, match=r"(?s)nothing by the teacher.*stages=\[scores\]"):
        resolve(made.with_(objective="minillm", teacher=TEACHER, **POOL))
    with pytest.raises(Refusal, match="the recipe has none"):
        resolve(made.with_(objective="minillm", **POOL))


def test_why_no_group_is_left_counts_those_whose_samples_were_cut() -> None:
    values = np.array([1.0, 1, 2, 2, 3, 3, 4, 4, 0, 1, np.nan, 1])
    cut = np.arange(12) >= 8
    starts = np.arange(0, 12, 2)
    found = advantages(values, ~np.isnan(values), starts, truncated=cut)
    whole = PoolAdvantages(values, ~cut, starts, found, np.ones(12), "SELECT", ())
    said = why_none_is_left(whole, "drop")
    assert said == (
        "4 have no spread, 1 fewer than two valid samples, 1 no valid sample but such as were cut by length "
        "(replay.truncated=keep takes them); 4 of 12 samples were cut"
    )
    kept = advantages(values[:4], np.ones(4, bool), starts[:2], zero_variance="keep", truncated=np.ones(4, bool))
    flat = PoolAdvantages(values[:4], ~cut[:4], starts[:2], kept, np.ones(4), "SELECT", ())
    assert why_none_is_left(flat, "keep").startswith("0 have no spread, 0 fewer than two valid samples, 2 no valid")


def test_raw_rewards_come_with_their_groups_mean_whatever_the_objective_reads_of_them(made: Any) -> None:
    points = made.lake.read(made.lake.slices("rewards", label="points")[0], ["value"]).column(0).to_numpy()
    for objective in ("asymre", "grpo"):
        reading = resolve(made.with_(objective=objective, **POOL))
        for group, own in zip(groups_of_order(made, reading), points.reshape(-1, 4), strict=True):
            assert group.reward is not None and group.baseline is not None
            np.testing.assert_array_equal(group.reward, own)
            np.testing.assert_allclose(group.baseline, np.full(4, own.mean()))


def groups_of_order(made: Any, reading: Reading) -> list[Group]:
    found = groups_of(reading)
    ids = made.lake.read(slices(made).groups, ["group_id"]).column(0).to_pylist()
    return [found[one] for one in ids if one in found]


def test_an_objective_that_compares_with_the_start_asks_for_the_policys_scores(made: Any) -> None:
    import shutil

    resolve(made.with_(objective="kimi", **POOL))
    shutil.rmtree(made.lake.root / "scores")
    with pytest.raises(Refusal, match="no scores by the policy itself"):
        resolve(made.with_(objective="kimi", **POOL))
    resolve(made.with_(objective="grpo", **POOL))


def value_tokens(
    made: Any, publish: Publish, change: Callable[[dict[str, Any], int], None] = lambda row, i: None
) -> None:
    """A component `each` whose value at token t of sample i is i + t."""
    pool, rows = slices(made), []
    for i, sample in enumerate(sample_rows(made)):
        row = {key: sample[key] for key in ("group_id", "sample_index")}
        row |= {"value": 1.0, "valid": True, "values": [float(i + t) for t in range(sample["n_tokens"])]}
        change(row, i)
        rows.append(row)
    key = Key({"import": {"column": "each"}}, (pool.samples, pool.groups, pool.prompts))
    publish(made.lake, "rewards", key, [rows[:12], rows[12:]], "each")


def shaped(made: Any, **changes: Any) -> Reading:
    return resolve(made.with_(replay__shaping=Shaping(**{"token_reward": "each", **changes}), **POOL))


def invalid_third(row: dict[str, Any], i: int) -> None:
    if i == 2:
        row |= {"valid": False, "value": None, "values": None}


def test_token_rewards_are_centred_by_their_group(made: Any, publish_rows: Publish) -> None:
    value_tokens(made, publish_rows, invalid_third)
    reading = shaped(made, token_weight=0.5)
    found = groups_of(reading)
    assert any(path.startswith("rewards/each") for path in reading.paths)
    lengths = [row["n_tokens"] for row in sample_rows(made)]
    for number, group in enumerate(groups_of_order(made, reading)):
        here = [i for i in range(4 * number, 4 * number + 4) if i != 2]
        mean = np.mean([i + t for i in here for t in range(lengths[i])])
        assert group.token_advantages is not None and len(group.token_advantages) == len(here)
        for i, got in zip(here, group.token_advantages, strict=True):
            np.testing.assert_allclose(got, 0.5 * (i + np.arange(lengths[i]) - mean), rtol=1e-5, atol=1e-6)
    assert len(found) == 6


def test_token_advantages_by_hand() -> None:
    counted = [np.array([1.0, 3.0]), np.array([5.0])]
    first, second = token_advantages(counted, counted, 2.0)
    assert first.tolist() == [-4.0, 0.0] and second.tolist() == [4.0] and first.dtype == np.float32
    (only,) = token_advantages(counted[:1], counted, 1.0)
    assert only.tolist() == [-2.0, 0.0], "a masked sample is in the mean"
    thought = [np.array([np.nan, 1.0]), np.array([3.0])]
    first, second = token_advantages(thought, thought, 1.0)
    assert first.tolist() == [0.0, -1.0] and second.tolist() == [1.0], (
        "a token without a value is in no mean, and gets nothing"
    )


def short_values(row: dict[str, Any], i: int) -> None:
    row["values"] = row["values"][:-1] if i == 13 else row["values"]


def no_values(row: dict[str, Any], i: int) -> None:
    row["values"] = None


def test_values_of_another_length_than_the_tokens_are_refused(made: Any, publish_rows: Publish) -> None:
    value_tokens(made, publish_rows, short_values)
    with pytest.raises(Refusal, match=r"tokens and \d+ token rewards"):
        groups_of(shaped(made))


def test_a_component_without_values_is_refused_by_its_name(made: Any, publish_rows: Publish) -> None:
    value_tokens(made, publish_rows, no_values)
    with pytest.raises(Refusal, match=r"token_reward=each: rewards/each-\w+ has one value a sample"):
        shaped(made)
    with pytest.raises(Refusal, match="did you mean 'each'"):
        shaped(made, token_reward="eac")


def answer_points(made: Any, publish: Publish, value: float | None) -> None:
    answers = made.lake.slices("answers")[0]
    rows = [{k: row[k] for k in ("prompt_id", "candidate")} for row in made.lake.read(answers).to_pylist()]
    rows = [{**row, "value": value, "valid": value is not None} for row in rows]
    spec = made.recipe.components["points"]
    key = Key({"spec": spec, "identity": {"use": spec["use"]}}, (answers, made.lake.slices("prompts")[0]))
    publish(made.lake, "answer_rewards", key, [rows[:3], rows[3:]], "points")


JOIN = Shaping(answers_join=True)


@pytest.mark.parametrize("method", ["mean", "mean_batch_std"])
def test_an_answer_joins_the_groups_in_which_no_sample_passes(made: Any, publish_rows: Publish, method: str) -> None:
    from trainer.normalise import normalised

    points = made.lake.read(made.lake.slices("rewards", label="points")[0], ["value"]).column(0).to_numpy()
    best = points.reshape(-1, 4).max(1)
    bound = float(np.sort(best)[2:4].mean())  # half of the groups have a sample above it
    answer_points(made, publish_rows, 5.0)
    changes = {"replay__shaping": JOIN, "replay__advantage": method, "where": f"points > {bound}", **POOL}
    reading = resolve(made.with_(objective="grpo", **changes))
    assert "the teacher's answer joins the statistics of 3 groups where no sample passes" in reading.notes
    assert any(path.startswith("answer_rewards/points") for path in reading.paths)
    groups, rows = groups_of_order(made, reading), points.reshape(-1, 4)
    whole = [np.append(own, 5.0) if top < bound else own for own, top in zip(rows, best, strict=True)]
    sigma = 1.0
    if method == "mean_batch_std":
        groups, sigma = normalised(groups, made.with_(**changes).trainer.replay), float(np.concatenate(whole).std())
    for group, own, all_ in zip(groups, rows, whole, strict=True):
        np.testing.assert_allclose(group.advantages, (own - all_.mean()) / sigma, rtol=1e-4, atol=1e-6)
        assert len(group.completions) == 4


@pytest.mark.parametrize("value", [None, -100.0])
def test_an_answer_that_is_not_scored_or_fails_itself_joins_nothing(
    made: Any, publish_rows: Publish, value: float | None
) -> None:
    answer_points(made, publish_rows, value)
    reading = resolve(made.with_(replay__shaping=JOIN, where="points > 100", **POOL))
    assert any("joins the statistics of 0 groups" in note for note in reading.notes)


def test_answers_join_is_refused_where_it_could_not_act(made: Any, publish_rows: Publish) -> None:
    answer_points(made, publish_rows, 5.0)
    for changes, said in (
        ({}, "without a where"),
        ({"where": "points > 1", "objective": "opd"}, "reads none"),
        ({"where": "points > 1", "reward": "zscore_group(points)"}, "function of the whole group"),
    ):
        with pytest.raises(Refusal, match=said):
            resolve(made.with_(replay__shaping=JOIN, **changes, **POOL))


def test_expected_effective_samples_by_the_formula() -> None:
    assert expected_ess(512, 0.05) == pytest.approx(0.278, abs=1e-3)
    assert expected_ess(512, 0.1) == pytest.approx(0.00598, abs=1e-4)
    random = np.random.default_rng(0)
    w = np.exp(random.normal(-0.02, 0.2, (400_000, 8)).sum(1))  # ρ with E[ρ] = 1
    assert expected_ess(8, 0.2) == pytest.approx(w.sum() ** 2 / (len(w) * (w**2).sum()), rel=0.02)


@pytest.mark.parametrize(("objective", "warned"), [("seq_tis", True), ("topr", True), ("grpo", False)])
def test_few_effective_samples_are_foretold_from_the_cache(
    made: Any, publish_rows: Publish, objective: str, warned: bool
) -> None:
    scores = made.lake.slices("scores")[0]
    rows, random = made.lake.read(scores).to_pylist(), np.random.default_rng(0)
    noise: list[float] = []
    for row in rows:
        shift = random.normal(0, 0.7, len(row["logprobs"]))
        noise += shift.tolist()
        row["logprobs"] = (np.array(row["logprobs"]) + shift).tolist()
    pool = slices(made)
    exact = resolve(made.with_(objective=objective, **POOL))
    assert not any("ESS/n" in note for note in exact.notes)
    import shutil

    shutil.rmtree(made.lake.root / "scores")
    noisy = publish_rows(made.lake, "scores", scores_key(pool, pool.policy), [rows[:12], rows[12:]], "tiny-policy")
    length = float(np.mean([row["n_tokens"] for row in sample_rows(made)]))
    deviation, share = forecast(pool.samples, noisy, length)
    assert deviation == pytest.approx(np.std(noise), rel=1e-3) and share == pytest.approx(
        np.exp(-length * np.var(noise)), rel=1e-2
    )
    found = resolve(made.with_(objective=objective, **POOL))
    assert any("ESS/n" in note for note in found.notes) == warned
