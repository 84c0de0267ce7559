"""Coefficients worked out with pencil and paper, one decision of a formula at a time."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.losses import kl_coefficient
from trainer.objectives import OBJECTIVES, ObjectiveSettings
from trainer.view import StepView

LN = math.log


def view(ratios, advantage, old_over_behaviour=None, mask=None, group=None, logprob=-1.0, chosen=None):
    """One row of token ratios π/μ a sample; log π is `logprob` everywhere, so that log μ = logprob − log ρ."""
    rho = torch.tensor(ratios, dtype=torch.float64)
    logprobs = torch.full_like(rho, logprob)
    behaviour = logprobs - rho.log()
    old = None
    if old_over_behaviour is not None:
        old = behaviour + torch.tensor(old_over_behaviour, dtype=torch.float64).log()
    mask = torch.ones_like(rho, dtype=torch.bool) if mask is None else torch.tensor(mask)
    group = torch.zeros(len(rho), dtype=torch.int64) if group is None else torch.tensor(group)
    advantage = torch.tensor(advantage, dtype=torch.float64)
    lengths = torch.full((len(rho),), rho.shape[1], dtype=torch.int64)
    return StepView(
        logprobs, behaviour, old, advantage, mask, group, lengths, None if chosen is None else torch.tensor(chosen)
    )


def c(name, step, **settings):
    return OBJECTIVES[name].coefficient(step, ObjectiveSettings(**settings)).c_bt


def close(tensor, values):
    torch.testing.assert_close(tensor, torch.tensor(values, dtype=torch.float64), rtol=1e-12, atol=1e-12)


RATIOS = [0.5, 0.9, 1.1, 1.5]


def test_grpo_stops_good_samples_above_and_bad_samples_below():
    close(c("grpo", view([RATIOS, RATIOS], [2.0, -2.0])), [[1.0, 1.8, 2.2, 0.0], [0.0, -1.8, -2.2, -3.0]])


def test_grpo_takes_its_two_bounds_apart():
    step = view([RATIOS, RATIOS], [2.0, -2.0])
    close(c("grpo", step, clip_high=0.6, clip_low=0.05), [[1.0, 1.8, 2.2, 3.0], [0.0, 0.0, -2.2, -3.0]])
    close(c("grpo", step, clip_high=None, clip_low=None), [[1.0, 1.8, 2.2, 3.0], [-1.0, -1.8, -2.2, -3.0]])


def test_dual_clip_stops_bad_samples_far_above():
    close(c("grpo", view([[1.5, 4.0], [1.5, 4.0]], [-1.0, 1.0]), dual_clip=3.0), [[-1.5, 0.0], [0.0, 0.0]])


def test_the_mismatch_multiplies_once_and_the_clip_looks_at_the_rescored_ratio():
    # π/μ = 1.5, 3.3, .9 and π_old/μ = 1.5, 3, .6: the clip's ratios are 1, 1.1, 1.5
    step = view([[1.5, 3.3, 0.9]], [1.0], old_over_behaviour=[[1.5, 3.0, 0.6]])
    close(c("grpo", step), [[1.5 * 1.0, 2.0 * 1.1, 0.0]])
    close(c("grpo", step, mismatch_cap=None), [[1.5, 3.3, 0.0]])


def test_tis_caps_each_token_and_seq_tis_the_product():
    step = view([[1.5, 4.0], [0.5, 0.5]], [1.0, -2.0])
    close(c("tis", step), [[1.5, 2.0], [-1.0, -1.0]])
    close(c("seq_tis", step), [[2.0, 2.0], [-0.5, -0.5]])
    close(c("seq_tis", step, cap=None), [[6.0, 6.0], [-0.5, -0.5]])
    close(c("tis", step, cap=1.2), [[1.2, 1.2], [-1.0, -1.0]])


def test_topr_weighs_bad_samples_only_and_never_above_one():
    step = view([[0.5, 0.5], [2.0, 2.0], [0.5, 0.5], [2.0, 2.0], [3.0, 1.0]], [1.0, 1.0, -1.0, -1.0, 0.0])
    close(c("topr", step), [[1.0, 1.0], [1.0, 1.0], [-0.25, -0.25], [-1.0, -1.0], [0.0, 0.0]])


def test_a_sequence_weight_is_made_of_unmasked_tokens():
    step = view([[1.5, 100.0], [0.5, 100.0]], [1.0, -1.0], mask=[[True, False], [True, False]])
    close(c("seq_tis", step), [[1.5, 0.0], [-0.5, 0.0]])
    close(c("topr", step), [[1.0, 0.0], [-0.5, 0.0]])


def test_seed_softmax_of_two_equal_samples():
    # s = ½, ½; Σ s A = 1; c = ½·(A − 1), over T = 2 tokens for the mean
    step = view([[1.0, 1.0], [1.0, 1.0]], [2.0, 0.0])
    close(c("seed_softmax", step, softmax_score="sum"), [[0.5, 0.5], [-0.5, -0.5]])
    close(c("seed_softmax", step), [[0.25, 0.25], [-0.25, -0.25]])


def test_seed_softmax_of_three_to_one():
    # z = log 3 above the other's: s = ¾, ¼; A = 1, 0: Σ s A = ¾; c = ¾·¼ and ¼·(−¾)
    step = view([[1.0], [1.0]], [1.0, 0.0])
    logprobs = torch.tensor([[-1.0], [-1.0 - LN(3)]], dtype=torch.float64)
    step = StepView(
        logprobs,
        step.behaviour_bt,
        None,
        step.advantage_b,
        step.mask_bt,
        step.group_b,
        torch.ones(2, dtype=torch.int64),
    )
    close(c("seed_softmax", step), [[0.1875], [-0.1875]])


def test_raft_takes_the_first_best_of_each_group_or_the_chosen():
    ones = [[1.0], [1.0], [1.0], [1.0]]
    groups = [5, 9, 5, 9]
    close(c("raft", view(ones, [0.1, 0.7, 0.3, 0.7], group=groups)), [[0.0], [1.0], [1.0], [0.0]])
    masked = view(ones, [0.1, 0.9, 0.3, 0.7], group=groups, mask=[[True], [False], [True], [True]])
    close(c("raft", masked), [[0.0], [0.0], [1.0], [1.0]])
    chosen = view(ones, [0.1, 0.7, 0.3, 0.7], group=groups, chosen=[True, False, True, False])
    close(c("raft", chosen), [[1.0], [0.0], [1.0], [0.0]])


def test_the_kl_pulls_down_what_exceeds_the_reference_and_caps_only_the_ratio():
    # log π/π_ref = 1, −1; ρ = 4 capped at 2, ρ = ½
    step = view([[4.0, 0.5]], [0.0])
    reference = step.logprobs_bt - torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    result = kl_coefficient(step, reference, cap=2.0)
    close(result.c_bt, [[2.0, -0.5]])
    close(kl_coefficient(step, reference, cap=None).c_bt, [[4.0, -0.5]])
    k3 = 4 * (math.exp(-1) - 1 + 1) + 0.5 * (math.e - 1 - 1)
    assert result.metrics["kl_k3"][0].item() == pytest.approx(k3, rel=1e-12)
    assert [x.item() for x in result.metrics["kl_capped"]] == [1, 2]


def metric(name, step, key, **settings):
    total, count = OBJECTIVES[name].coefficient(step, ObjectiveSettings(**settings)).metrics[key]
    return total.item(), count.item()


def test_shares_and_means_travel_as_sums_and_counts_of_unmasked_tokens():
    step = view([RATIOS, RATIOS], [2.0, -2.0], mask=[[True] * 4, [False, True, True, True]])
    assert metric("grpo", step, "clipped") == (1, 7)
    assert metric("grpo", step, "ratio") == pytest.approx((4.0 + 3.5, 7))
    assert metric("tis", step, "capped", cap=1.2) == (2, 7)
    assert metric("seq_tis", step, "ratio") == pytest.approx((0.7425 + 1.485, 2))
    assert metric("seq_tis", step, "capped", cap=1.0) == (1, 2)
    assert metric("topr", step, "capped") == (1, 1)
    rescored = view([[1.5, 3.3]], [1.0], old_over_behaviour=[[1.5, 3.0]])
    assert metric("grpo", rescored, "mismatch_capped") == (1, 2)
    assert metric("grpo", rescored, "mismatch") == pytest.approx((4.5, 2))


def test_a_broken_ratio_stays_finite_in_float32():
    logprobs = torch.zeros(2, 3)
    step = StepView(
        logprobs,
        logprobs - 80,
        None,
        torch.tensor([1.0, -1.0]),
        torch.ones(2, 3, dtype=torch.bool),
        torch.zeros(2, dtype=torch.int64),
        torch.full((2,), 3),
        reward_b=torch.tensor([1.0, 0.0]),
        baseline_b=torch.tensor([0.5, 0.5]),
        teacher_bt=logprobs - 1,
        reference_bt=logprobs - 80,
        prox_bt=logprobs - 80,
        special_bt=torch.zeros(2, 3, dtype=torch.bool),
    )
    for name, row in OBJECTIVES.items():
        for cap in (2.0, None):
            settings = ObjectiveSettings(cap=cap, clip_high=None, clip_low=None)
            assert torch.isfinite(row.coefficient(step, settings).c_bt).all(), name
