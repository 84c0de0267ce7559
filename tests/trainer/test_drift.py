from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.drift.sums import DriftSums, reward_sums
from trainer.objectives import OBJECTIVES, ObjectiveSettings
from trainer.view import StepView


def sums(ratios, mask=None, clipped=None):
    log_bt = torch.tensor(ratios, dtype=torch.float64).log()
    mask_bt = torch.ones_like(log_bt, dtype=torch.bool) if mask is None else torch.tensor(mask)
    clipped_bt = torch.zeros_like(mask_bt) if clipped is None else torch.tensor(clipped)
    return DriftSums.from_log_ratio(log_bt, mask_bt, clipped_bt)


def test_figures_of_two_samples_of_two_tokens_by_hand():
    figures = sums([[2.0, 0.5], [2.0, 2.0]], clipped=[[True, False], [False, False]]).figures()
    # tokens: Σρ = 6.5, Σρ² = 12.25, n = 4; sequences: w = 1, 4: Σw = 5, Σw² = 17, n = 2
    want = {
        "token_ess": 6.5**2 / (4 * 12.25),
        "token_ratio": 1.625,
        "token_second_moment": 3.0625,
        "token_kl": -2 * math.log(2) / 4,
        "token_kl_k3": 0.625 - 2 * math.log(2) / 4,
        "clipped": 0.25,
        "broken": 0.0,
        "sequence_ess": 25 / 34,
        "sequence_ratio": 2.5,
        "sequence_second_moment": 8.5,
        "sequence_kl": -math.log(4) / 2,
    }
    assert figures == pytest.approx(want, rel=1e-12)


def test_an_unmoved_policy_has_full_effective_size_and_no_divergence():
    figures = sums([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]).figures()
    assert figures["token_ess"] == figures["sequence_ess"] == figures["token_ratio"] == 1.0
    assert figures["token_kl"] == figures["sequence_kl"] == figures["token_kl_k3"] == 0.0


def test_one_dominant_sample_leaves_an_effective_size_of_one():
    figures = sums([[1e6], [1e-6], [1e-6], [1e-6]]).figures()
    assert figures["sequence_ess"] == pytest.approx(0.25, rel=1e-5)


def test_masked_tokens_and_samples_count_nowhere():
    nan = float("nan")
    log_bt = torch.tensor([[0.0, nan], [nan, nan], [math.log(2), nan]])
    mask_bt = torch.tensor([[True, False], [False, False], [True, False]])
    drift = DriftSums.from_log_ratio(log_bt, mask_bt, torch.ones_like(mask_bt))
    assert (drift.tokens.item(), drift.samples.item(), drift.token_clipped.item()) == (2, 2, 2)
    assert drift.figures()["sequence_ess"] == pytest.approx(9 / 10, rel=1e-6)


def test_a_figure_without_a_denominator_is_absent_and_not_zero():
    assert DriftSums.zero().figures() == {}
    assert (
        "sequence_ess"
        not in DriftSums.from_log_ratio(torch.full((1, 2), -400.0), *2 * [torch.ones(1, 2).bool()]).figures()
    )


def test_a_nan_under_the_mask_stays_a_nan():
    figures = sums([[1.0, float("nan")]]).figures()
    assert math.isnan(figures["token_ratio"]) and math.isnan(figures["token_kl"])


def test_broken_records_are_counted_and_long_sequences_do_not_overflow():
    log_bt = torch.zeros(2, 40)
    log_bt[1], log_bt[1, 0] = 19.0, 21.0
    drift = DriftSums.from_log_ratio(log_bt, torch.ones(2, 40).bool(), torch.zeros(2, 40).bool())
    assert drift.token_broken.item() == 1
    assert drift.figures()["sequence_ess"] == pytest.approx(0.5, rel=1e-6)
    assert all(math.isfinite(value) for value in drift.figures().values())


def step(seed: int = 0) -> StepView:
    generator = torch.Generator().manual_seed(seed)
    behaviour = -2 * torch.rand(6, 7, generator=generator, dtype=torch.float64)
    return StepView(
        logprobs_bt=behaviour + 0.4 * torch.randn(6, 7, generator=generator, dtype=torch.float64),
        behaviour_bt=behaviour,
        old_bt=None,
        advantage_b=torch.randn(6, generator=generator, dtype=torch.float64),
        mask_bt=torch.arange(7) < torch.tensor([7, 3, 1, 5, 6, 0])[:, None],
        group_b=torch.tensor([0, 0, 0, 1, 1, 1]),
        lengths_b=torch.tensor([7, 3, 1, 5, 6, 0]),
    )


def part(view: StepView, rows: list[int]) -> StepView:
    names = ("logprobs_bt", "behaviour_bt", "advantage_b", "mask_bt", "group_b", "lengths_b")
    return StepView(old_bt=None, **{name: getattr(view, name)[rows] for name in names})


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(6)), cut=st.integers(1, 5), seed=st.integers(0, 5))
def test_sums_of_micro_batches_in_any_order_are_the_sums_of_the_whole(order, cut, seed):
    view, setting = step(seed), ObjectiveSettings()
    parts = [
        DriftSums.from_view(part(view, order[:cut]), setting),
        DriftSums.from_view(part(view, order[cut:]), setting),
    ]
    whole = DriftSums.from_view(view, setting)
    torch.testing.assert_close((parts[0] + parts[1]).stack(), whole.stack(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((whole + DriftSums.zero()).stack(), whole.stack(), rtol=0, atol=0)


def test_the_log_ratio_of_a_view_is_policy_over_behaviour_and_its_clipping_that_of_grpo():
    view, setting = step(), ObjectiveSettings()
    drift = DriftSums.from_view(view, setting)
    ratios = [
        math.exp(view.logprobs_bt[j, t].item() - view.behaviour_bt[j, t].item())
        for j in range(6)
        for t in range(int(view.lengths_b[j]))
    ]
    assert drift.token_ratio.item() == pytest.approx(sum(ratios), rel=1e-12)
    assert drift.token_minus_log.item() == pytest.approx(-sum(map(math.log, ratios)), rel=1e-9)
    clipped, count = OBJECTIVES["grpo"].coefficient(view, setting).metrics["clipped"]
    assert 0 < clipped.item() < count.item()
    assert drift.figures()["clipped"] == pytest.approx(clipped.item() / count.item())


def test_kl_estimates_and_mean_ratio_hold_in_exact_expectation():
    mu = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    pi = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    per_token = [sums([[(pi[v] / mu[v]).item()]]).figures() for v in range(3)]
    kl = sum((mu[v] * (mu[v] / pi[v]).log()).item() for v in range(3))

    def expectation(name):
        return sum(mu[v].item() * per_token[v][name] for v in range(3))

    assert expectation("token_kl") == pytest.approx(kl, rel=1e-12)
    assert expectation("token_kl_k3") == pytest.approx(kl, rel=1e-12)
    assert expectation("token_ratio") == pytest.approx(1.0, rel=1e-12)


def test_a_long_sequence_loses_its_effective_size_as_the_variance_predicts():
    generator = torch.Generator().manual_seed(1)
    tokens, sigma = 64, 0.05
    log_bt = sigma * torch.randn(20000, tokens, generator=generator) - sigma**2 / 2
    everything = torch.ones_like(log_bt, dtype=torch.bool)
    figures = DriftSums.from_log_ratio(log_bt, everything, ~everything).figures()
    assert figures["sequence_ess"] == pytest.approx(math.exp(-tokens * sigma**2), rel=0.05)
    assert figures["token_ess"] == pytest.approx(math.exp(-(sigma**2)), rel=0.01)


def test_rewards_of_a_step_by_hand_as_drawn_and_as_the_policy_weighs_them():
    # w = 2 · .5 · 2 = 2 and, without its masked token, 4 · 1 = 4 (a sample that is out of the loss has no say)
    ratio_bt = torch.tensor([[2.0, 0.5, 2.0], [4.0, 1.0, 9.0], [7.0, 7.0, 7.0]], dtype=torch.float64)
    mask_bt = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    view = StepView(
        logprobs_bt=ratio_bt.log() - 1.5,
        behaviour_bt=torch.full((3, 3), -1.5, dtype=torch.float64),
        old_bt=None,
        advantage_b=torch.zeros(3),
        mask_bt=mask_bt,
        group_b=torch.zeros(3, dtype=torch.long),
        lengths_b=torch.tensor([3, 3, 3]),
        reward_b=torch.tensor([1.0, 0.25, float("nan")]),
    )
    found = {name: float(total / count) for name, (total, count) in reward_sums(view).items()}
    assert found == pytest.approx({"reward/pool": 1.25 / 2, "reward/weighted": (2 * 1 + 4 * 0.25) / 6}, rel=1e-12)


def test_the_weighted_reward_is_the_policys_own_in_exact_expectation():
    """All four samples of two tokens, each as often as μ draws it: the estimate is Σ π(y) r(y)."""
    mu, pi, r = [0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 2.0, 5.0]
    rows = [i for i, p in enumerate(mu) for _ in range(round(10 * p))]
    view = StepView(
        logprobs_bt=torch.tensor([[math.log(pi[i])] for i in rows], dtype=torch.float64),
        behaviour_bt=torch.tensor([[math.log(mu[i])] for i in rows], dtype=torch.float64),
        old_bt=None,
        advantage_b=torch.zeros(10),
        mask_bt=torch.ones(10, 1, dtype=torch.bool),
        group_b=torch.zeros(10, dtype=torch.long),
        lengths_b=torch.ones(10, dtype=torch.long),
        reward_b=torch.tensor([r[i] for i in rows]),
    )
    total, weight = reward_sums(view)["reward/weighted"]
    assert float(total / weight) == pytest.approx(sum(p * x for p, x in zip(pi, r, strict=True)), rel=1e-12)
