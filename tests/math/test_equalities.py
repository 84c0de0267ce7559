"""The equalities of MATH §4, and what only an exact expectation can show: enumeration of every sample of a tiny policy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from trainer.losses import StepCounts, Term, aggregations, kernel_loss, kl_coefficient, mix, objective_terms
from trainer.objective_config import Gspo, Mis
from trainer.objectives import OBJECTIVES, ObjectiveSettings, parse_objective
from trainer.view import StepView

OPEN = ObjectiveSettings(clip_low=None, clip_high=None, cap=None, mismatch_cap=None)
COUNTS = StepCounts(tokens=40, samples=9, prompts=3, max_tokens=7)


def coefficient(name, case, settings=OPEN):
    return OBJECTIVES[name].coefficient(case.view(), settings).c_bt


def test_grpo_at_the_behaviour_is_reinforce_with_a_baseline(plain_case):
    on_policy = plain_case.with_(logprobs=plain_case.behaviour)
    expected = torch.tensor(np.where(plain_case.mask, plain_case.advantage[:, None], 0.0))
    torch.testing.assert_close(coefficient("grpo", on_policy, ObjectiveSettings()), expected)
    torch.testing.assert_close(coefficient("naive", on_policy), expected)


def test_every_weighted_objective_at_the_behaviour_is_the_naive_one(plain_case):
    on_policy = plain_case.with_(logprobs=plain_case.behaviour)
    for name in ("grpo", "dr_grpo", "tis", "seq_tis", "topr"):
        assert torch.equal(coefficient(name, on_policy, ObjectiveSettings()), coefficient("naive", on_policy)), name


def test_tis_without_a_cap_is_grpo_without_a_clip(case):
    torch.testing.assert_close(coefficient("tis", case), coefficient("grpo", case), rtol=1e-12, atol=0)
    assert not torch.allclose(coefficient("tis", case, ObjectiveSettings()), coefficient("tis", case))


def test_dr_grpo_is_grpo_under_the_constant_aggregation(case):
    view, settings = case.view(), ObjectiveSettings()
    (dr,), _ = objective_terms({"dr_grpo": 1.0}, view, aggregations(view, COUNTS), settings)
    (constant,), _ = objective_terms({"grpo": 1.0}, view, aggregations(view, COUNTS), settings, aggregate="constant")
    (default,), _ = objective_terms({"grpo": 1.0}, view, aggregations(view, COUNTS), settings)
    assert torch.equal(mix([dr]), mix([constant]))
    assert not torch.allclose(mix([dr]), mix([default]))


def test_dapo_with_equal_bounds_under_the_sample_aggregation_is_grpo(case):
    view, equal, apart = case.view(), ObjectiveSettings(clip_low=0.2, clip_high=0.2), ObjectiveSettings(clip_high=0.4)
    found = {
        name: mix(objective_terms({name: 1.0}, view, aggregations(view, COUNTS), equal, aggregate)[0])
        for name, aggregate in (("dapo", "sample"), ("grpo", None))
    }
    assert torch.equal(found["dapo"], found["grpo"])
    assert not torch.allclose(
        mix(objective_terms({"dapo": 1.0}, view, aggregations(view, COUNTS), equal)[0]), found["grpo"]
    )
    assert not torch.equal(coefficient("dapo", case, apart), coefficient("grpo", case, equal))


def test_decoupled_from_the_behaviour_itself_is_grpo(plain_case):
    at_behaviour = plain_case.with_(prox=plain_case.behaviour)
    settings = ObjectiveSettings(mismatch_cap=1.0)
    assert torch.equal(coefficient("decoupled", at_behaviour, settings), coefficient("grpo", plain_case, settings))
    assert not torch.allclose(coefficient("decoupled", plain_case, settings), coefficient("grpo", plain_case, settings))


def test_gspo_and_mis_of_one_token_samples_are_grpo_and_its_unclipped_ratio(plain_case):
    single = plain_case.with_(mask=plain_case.mask & (np.arange(plain_case.mask.shape[1]) == 0))
    clipped = ObjectiveSettings(gspo=Gspo(0.2, 0.2))
    torch.testing.assert_close(coefficient("gspo", single, clipped), coefficient("grpo", single, clipped))
    for unit in ("token", "sample"):
        wide = ObjectiveSettings(mis=Mis(0.0, 1e9, unit), cap=None)
        torch.testing.assert_close(coefficient("mis", single, wide), coefficient("tis", single, wide))


def test_a_pool_rescored_to_its_own_behaviour_changes_no_objective(plain_case):
    rescored = plain_case.with_(old=plain_case.behaviour)
    for name in OBJECTIVES:
        settings = ObjectiveSettings(mismatch_cap=1.0)
        assert torch.equal(coefficient(name, plain_case, settings), coefficient(name, rescored, settings)), name


def test_seq_tis_of_one_token_samples_is_tis(plain_case):
    first = plain_case.mask & (np.arange(plain_case.mask.shape[1]) == 0)
    single = plain_case.with_(mask=first)
    assert torch.equal(
        coefficient("seq_tis", single, ObjectiveSettings()), coefficient("tis", single, ObjectiveSettings())
    )


def test_topr_without_bad_samples_is_naive(plain_case):
    good = plain_case.with_(advantage=np.abs(plain_case.advantage))
    assert torch.equal(coefficient("topr", good), coefficient("naive", good))


def test_negated_advantages_negate_the_unclipped_coefficients(case):
    negated = case.with_(advantage=-case.advantage)
    for name in ("naive", "grpo", "dr_grpo", "tis", "seq_tis", "seed_softmax"):
        torch.testing.assert_close(coefficient(name, negated), -coefficient(name, case), rtol=1e-12, atol=1e-15)


def test_one_constant_added_to_a_groups_advantages_leaves_seed_softmax_alone(case):
    shifted = case.with_(advantage=case.advantage + np.array([5.0 if g == 7 else -2.0 for g in case.group]))
    for score in ("mean", "sum"):
        settings = ObjectiveSettings(softmax_score=score)
        before, after = coefficient("seed_softmax", case, settings), coefficient("seed_softmax", shifted, settings)
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-12)


# A policy over two tokens of a vocabulary of four: log π(first), log π(second | first). All 16 samples are enumerated.
V = 4
SAMPLES = list(itertools.product(range(V), range(V)))


class Policy:
    def __init__(self, seed: int, scale: float = 0.8):
        generator = torch.Generator().manual_seed(seed)
        self.first = (scale * torch.randn(V, generator=generator, dtype=torch.float64)).requires_grad_()
        self.second = (scale * torch.randn(V, V, generator=generator, dtype=torch.float64)).requires_grad_()

    def parameters(self):
        return [self.first, self.second]

    def logprobs(self):
        """(16, 2): log π of both tokens of every sample."""
        first, second = self.first.log_softmax(0), self.second.log_softmax(1)
        return torch.stack([torch.stack([first[a], second[a, b]]) for a, b in SAMPLES])


def enumerated_view(policy, behaviour, advantage_b=None):
    logprobs = policy.logprobs().detach()
    advantage_b = torch.zeros(16, dtype=torch.float64) if advantage_b is None else advantage_b
    one_group = torch.zeros(16, dtype=torch.int64)
    mask = torch.ones(16, 2, dtype=torch.bool)
    return StepView(
        logprobs,
        behaviour.logprobs().detach(),
        None,
        advantage_b,
        mask,
        one_group,
        torch.full((16,), 2, dtype=torch.int64),
    )


def expected_gradient(policy, behaviour, c_bt, sign=1.0):
    """The kernel's gradient in exact expectation: each sample enters with its probability under μ."""
    chance_b1 = behaviour.logprobs().detach().sum(1).exp()[:, None]
    weight_bt = mix([Term(sign, chance_b1.expand_as(c_bt), c_bt)])
    everything_bt = torch.ones_like(c_bt, dtype=torch.bool)
    return torch.autograd.grad(kernel_loss(weight_bt, policy.logprobs(), everything_bt), policy.parameters())


def cached_context_kl(policy, behaviour, reference):
    """Σ_t Σ_c μ(c)·KL(π(·|c) ‖ π_ref(·|c)) by enumeration of contexts and of the vocabulary."""

    def kl(p, q):
        return sum(p[v].exp() * (p[v] - q[v]) for v in range(V))

    total = kl(policy.first.log_softmax(0), reference.first.detach().log_softmax(0))
    for a in range(V):
        chance = behaviour.first.detach().log_softmax(0)[a].exp()
        total = total + chance * kl(policy.second[a].log_softmax(0), reference.second[a].detach().log_softmax(0))
    return total


@pytest.fixture
def policies():
    return Policy(0), Policy(1), Policy(2)


def test_the_kl_coefficient_is_the_exact_gradient_of_the_cached_context_kl(policies):
    policy, behaviour, reference = policies
    exact = torch.autograd.grad(cached_context_kl(policy, behaviour, reference), policy.parameters())
    c_bt = kl_coefficient(enumerated_view(policy, behaviour), reference.logprobs().detach(), cap=None).c_bt
    for got, want in zip(expected_gradient(policy, behaviour, c_bt, sign=-1.0), exact, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
        assert want.abs().max() > 0.01


def test_a_step_along_the_kl_term_lowers_the_kl(policies):
    policy, behaviour, reference = policies
    before = cached_context_kl(policy, behaviour, reference).item()
    c_bt = kl_coefficient(enumerated_view(policy, behaviour), reference.logprobs().detach(), cap=2.0).c_bt
    gradients = expected_gradient(policy, behaviour, c_bt, sign=-1.0)
    policy.first, policy.second = (
        policy.first.detach() - 0.1 * gradients[0],
        policy.second.detach() - 0.1 * gradients[1],
    )
    assert cached_context_kl(policy, behaviour, reference).item() < before - 1e-3


def test_the_logged_k3_is_the_kl_in_expectation(policies):
    policy, behaviour, reference = policies
    view = enumerated_view(policy, behaviour)
    chance_b = behaviour.logprobs().detach().sum(1).exp()
    logged = 0.0
    for j in range(16):  # one sample at a time, since the metric is a plain sum
        only = StepView(
            *(x[j : j + 1] for x in (view.logprobs_bt, view.behaviour_bt)),
            None,
            *(x[j : j + 1] for x in (view.advantage_b, view.mask_bt, view.group_b, view.lengths_b)),
        )
        total, count = kl_coefficient(only, reference.logprobs().detach()[j : j + 1], cap=2.0).metrics["kl_k3"]
        assert count.item() == 2
        assert total.item() >= 0
        logged += chance_b[j].item() * total.item()
    assert logged == pytest.approx(cached_context_kl(policy, behaviour, reference).item(), rel=1e-10)


def test_a_policy_equal_to_its_reference_feels_no_kl(policies):
    policy, behaviour, _ = policies
    result = kl_coefficient(enumerated_view(policy, behaviour), policy.logprobs().detach(), cap=2.0)
    assert result.c_bt.abs().max() == 0
    assert result.metrics["kl_k3"][0].item() == pytest.approx(0, abs=1e-12)


def test_seq_tis_without_a_cap_is_the_exact_policy_gradient(policies):
    policy, behaviour, _ = policies
    reward_b = torch.linspace(-1, 2, 16, dtype=torch.float64) ** 2
    view = enumerated_view(policy, behaviour, reward_b)
    value = (policy.logprobs().sum(1).exp() * reward_b).sum()
    exact = torch.autograd.grad(-value, policy.parameters())
    c_bt = OBJECTIVES["seq_tis"].coefficient(view, OPEN).c_bt
    for got, want in zip(expected_gradient(policy, behaviour, c_bt), exact, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    naive_bt = OBJECTIVES["naive"].coefficient(view, OPEN).c_bt
    assert not torch.allclose(expected_gradient(policy, behaviour, naive_bt)[0], exact[0], rtol=0.05)


def test_a_weighted_sum_of_objectives_is_the_sum_of_their_weighted_terms(case):
    view, settings = case.view(), ObjectiveSettings()
    weights = parse_objective({"seq_tis": 1, "grpo": 0.3})
    terms, metrics = objective_terms(weights, view, aggregations(view, COUNTS), settings)
    by_hand = 1.0 * OBJECTIVES["seq_tis"].coefficient(view, settings).c_bt / COUNTS.samples
    lengths_b1 = view.lengths_b[:, None]
    by_hand = by_hand + 0.3 * OBJECTIVES["grpo"].coefficient(view, settings).c_bt / (COUNTS.samples * lengths_b1)
    torch.testing.assert_close(mix(terms), by_hand, rtol=1e-6, atol=1e-9)
    assert {"seq_tis/capped", "grpo/clipped", "grpo/ratio", "seq_tis/surrogate"} <= set(metrics)


def test_softmax_over_raw_sums_starves_all_but_one_long_sample():
    generator = torch.Generator().manual_seed(0)
    logprobs = -torch.rand(8, 100, generator=generator, dtype=torch.float64) * 2
    view = StepView(
        logprobs,
        logprobs,
        None,
        torch.linspace(-1, 1, 8, dtype=torch.float64),
        torch.ones(8, 100, dtype=torch.bool),
        torch.zeros(8, dtype=torch.int64),
        torch.full((8,), 100, dtype=torch.int64),
    )

    def largest(score):
        settings = ObjectiveSettings(softmax_score=score)
        total, groups = OBJECTIVES["seed_softmax"].coefficient(view, settings).metrics["largest_share"]
        assert groups.item() == 1
        return total.item()

    assert largest("sum") > 0.8
    assert largest("mean") < 1 / 8 + 0.02
    assert math.isfinite(largest("sum"))
