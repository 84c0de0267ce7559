from __future__ import annotations

import importlib.util
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.drift.tail import k_hat, limit
from trainer.drift.value import value

MU, PI, REWARD = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6]), np.array([0.0, 1.0, 3.0])


@pytest.mark.parametrize("k", [0.2, 0.5, 0.7, 1.0, 1.5])
def test_k_hat_finds_the_shape_of_a_pareto_tail(k):
    random = np.random.default_rng(0)
    found = [k_hat(-k * np.log(random.random(40_000))) for _ in range(8)]
    assert np.mean(found) == pytest.approx(k, abs=0.1)


def test_k_hat_is_of_large_weights_and_not_of_small_ones():
    heavy = -1.5 * np.log(np.random.default_rng(0).random(4000))
    assert k_hat(heavy) > 1.2 and k_hat(-heavy) < 0


def test_k_hat_of_a_tensor_is_that_of_its_numbers_whatever_their_scale():
    log_w = np.random.default_rng(1).normal(size=1000)
    assert k_hat(torch.tensor(log_w)) == pytest.approx(k_hat(log_w + 500), rel=1e-4)


def test_weights_that_are_equal_up_to_rounding_have_no_tail():
    assert k_hat(np.zeros(100)) == -math.inf
    assert k_hat(np.random.default_rng(0).normal(0, 1e-5, 100)) == -math.inf
    assert k_hat(np.repeat([0.0, -1.0], 50)) < 0  # bounded: no tail either


def test_too_few_weights_and_weights_that_are_none_are_unknown():
    assert math.isnan(k_hat(np.zeros(24)))
    assert math.isnan(k_hat(np.append(np.zeros(100), math.nan)))


def test_the_bound_of_k_hat_is_that_of_the_paper():
    assert limit(100) == pytest.approx(0.5)
    assert limit(100_000) == 0.7
    assert limit(5) == -math.inf


def world(groups: int, size: int = 4, seed: int = 0, pi: np.ndarray = PI):
    """(log w, reward, starts) of samples of MU."""
    drawn = np.random.default_rng(seed).choice(3, groups * size, p=MU)
    return np.log(pi / MU)[drawn], REWARD[drawn], np.arange(0, groups * size, size)


def test_the_estimate_is_unbiased_in_exact_expectation():
    """Over all pairs of samples of one prompt, repeated as often as μ draws them; weights are not truncated."""
    log_w, rewards = [], []
    for pair in itertools.product(range(3), repeat=2):
        times = round(math.prod(10 * MU[v] for v in pair))
        log_w += [np.log(PI / MU)[v] for v in pair] * times
        rewards += [REWARD[v] for v in pair] * times
    starts = np.arange(0, len(rewards), 2)
    found = value(np.array(log_w), np.array(rewards), starts, cap=math.inf)
    assert found.estimate == pytest.approx(float(PI @ REWARD), rel=1e-9)
    assert found.pool == pytest.approx(float(MU @ REWARD), rel=1e-9)
    assert found.mean_weight == pytest.approx(1, rel=1e-9)


def test_an_unmoved_policy_is_worth_what_its_pool_says():
    _, reward, starts = world(50)
    found = value(np.zeros(200), reward, starts)
    assert found.estimate == pytest.approx(reward.mean(), rel=1e-12) and found.k_hat == -math.inf
    assert found.interval[0] < found.estimate < found.interval[1]


def test_the_cap_holds_weights_down():
    log_w, reward, starts = world(200)
    free = value(log_w, reward, starts, cap=3.0)  # the largest weight is 3
    assert value(log_w, reward, starts).estimate == pytest.approx(free.estimate, rel=1e-12)  # √800
    assert value(log_w, reward, starts, cap=1.5).estimate < free.estimate - 0.1


def test_the_interval_holds_the_truth_in_most_of_many_pools_and_is_about_as_wide_as_it_must_be():
    found = [v for v in (value(*world(60, seed=seed), seed=seed) for seed in range(60)) if v.reason is None]
    truth = PI @ REWARD
    holds = [v.interval[0] <= truth <= v.interval[1] for v in found]
    assert len(found) >= 55 and sum(holds) >= 0.9 * len(found)
    spread = np.std([v.estimate for v in found])
    width = np.mean([v.interval[1] - v.interval[0] for v in found])
    assert width == pytest.approx(2 * 1.96 * spread, rel=0.3)


def test_groups_that_were_trained_on_lend_their_mean_and_nothing_else():
    log_w, reward, starts = world(100)
    seen = np.arange(100) < 60
    learnt = log_w.copy()
    learnt[: 60 * 4] = 2 * (reward[: 60 * 4] - 1)  # what replay does to their weights
    assert value(learnt, reward, starts, seen_g=seen) == value(log_w, reward, starts, seen_g=seen)
    assert value(learnt, reward, starts, seen_g=seen).pool == pytest.approx(reward.mean(), rel=1e-12)
    assert value(learnt, reward, starts).estimate != value(log_w, reward, starts).estimate


def test_unseen_groups_stand_only_for_the_seen_ones_of_their_stratum():
    log_w, reward, starts = world(120)
    flat = np.arange(120) < 40  # groups without spread, which are never trained on: their correction is 0
    reward[np.repeat(flat, 4)] = 1.0
    seen = np.arange(120) >= 80
    found = value(log_w, reward, starts, seen_g=seen, stratum_g=(~flat).astype(int), cap=math.inf)
    others = (reward.reshape(120, 4).sum(1, keepdims=True) - reward.reshape(120, 4)) / 3
    correction = ((np.exp(log_w).reshape(120, 4) - 1) * (reward.reshape(120, 4) - others)).mean(1)
    assert found.estimate == pytest.approx(reward.mean() + 80 / 120 * correction[40:80].mean(), rel=1e-12)


def test_no_value_is_given_where_every_group_of_a_stratum_was_trained_on():
    log_w, reward, starts = world(100)
    found = value(log_w, reward, starts, seen_g=np.ones(100, bool))
    assert found.estimate is None and "0 prompts are left" in found.reason
    half = np.arange(100) < 50
    found = value(log_w, reward, starts, seen_g=half, stratum_g=half.astype(int))
    assert found.interval is None and "0 prompts are left" in found.reason


def test_no_value_is_given_under_a_heavy_tail():
    random = np.random.default_rng(0)
    found = value(-1.2 * np.log(random.random(800)), random.normal(size=800), np.arange(0, 800, 8))
    assert found.estimate is None and found.k_hat > 1 and "k-hat" in found.reason


def test_no_value_is_given_where_the_mean_weight_is_not_one():
    log_w, reward, starts = world(200)
    found = value(log_w + 0.4, reward, starts)
    assert found.estimate is None and "mean weight" in found.reason
    assert found.mean_weight == pytest.approx(math.exp(0.4), rel=0.1)


def test_a_weight_that_is_no_number_gives_no_value():
    log_w, reward, starts = world(100)
    log_w[7] = math.nan
    assert value(log_w, reward, starts).estimate is None


def test_samples_without_a_reward_count_nowhere():
    log_w, reward, starts = world(80)
    more_w, more = np.append(log_w, [5.0, 5.0, 0.0]), np.append(reward, [math.nan, math.nan, 2.0])
    assert value(more_w, more, np.append(starts, 320)) == value(log_w, reward, starts)
    assert value(np.zeros(3), np.full(3, math.nan), np.array([0])).reason == "no group has two valid samples"


@pytest.mark.slow
def test_the_value_after_five_steps_of_training_holds_the_freshly_sampled_truth():
    path = Path(__file__).resolve().parents[1] / "bench" / "value.py"
    spec = importlib.util.spec_from_file_location("bench_value", path)
    bench = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["bench_value"] = bench
    spec.loader.exec_module(bench)
    rows = list(bench.measure(5, bench.Plan([5, 20])))
    after_five = [row for row in rows if row.step == 5]
    assert sum(row.holds is not None for row in after_five) >= 4
    assert sum(row.holds is False for row in rows) <= 1
    assert all(row.holds is None for row in rows if row.step == 20)  # every group was trained on by then
