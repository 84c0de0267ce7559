"""Teacher and reference gradients in exact expectation: every text of two tokens of three letters, drawn by μ, is enumerated."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch

from trainer.losses import kl_coefficient
from trainer.objective_config import ObjectiveSettings, Teacher
from trainer.objectives import OBJECTIVES
from trainer.support import SupportTarget, coarse
from trainer.view import StepView

LETTERS = range(3)
TEXTS = list(itertools.product(LETTERS, LETTERS))
OPEN = ObjectiveSettings(cap=None, teacher=Teacher(mask_special=False))


@dataclass
class World:
    """log-probabilities of the first letter (3,), and of the second after each first (3, 3)."""

    first: torch.Tensor
    second: torch.Tensor

    def texts(self) -> torch.Tensor:
        """(9, 2)."""
        return torch.stack([torch.stack([self.first[a], self.second[a, b]]) for a, b in TEXTS])

    def contexts(self) -> list[torch.Tensor]:
        """The distribution of the next letter at the start and after each first letter."""
        return [self.first, *self.second]


def world(seed: int) -> World:
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (1, 3))
    return World(first[0].log_softmax(0), second.log_softmax(1))


@pytest.fixture
def logits() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True),
            torch.randn(3, 3, generator=generator, dtype=torch.float64, requires_grad=True)]  # fmt: skip


def policy(logits: list[torch.Tensor]) -> World:
    return World(logits[0].log_softmax(0), logits[1].log_softmax(1))


def view(pi: World, mu: World, p: World) -> StepView:
    """All nine texts."""
    return StepView(
        pi.texts().detach(),
        mu.texts().detach(),
        None,
        torch.zeros(9, dtype=torch.float64),
        torch.ones(9, 2, dtype=torch.bool),
        torch.zeros(9, dtype=torch.int64),
        torch.full((9,), 2),
        teacher_bt=p.texts(),
    )


def expected(logits: list[torch.Tensor], mu: World, c_bt: torch.Tensor) -> torch.Tensor:
    """E_μ Σ_t c_t·∇log π_t, flat."""
    chance_b1 = mu.texts().detach().sum(1).exp()[:, None]
    return flat((chance_b1 * c_bt.detach() * policy(logits).texts()).sum(), logits)


def flat(value: torch.Tensor, logits: list[torch.Tensor]) -> torch.Tensor:
    grads = torch.autograd.grad(value, logits, retain_graph=True, allow_unused=True)
    return torch.cat([(torch.zeros_like(x) if g is None else g).flatten() for g, x in zip(grads, logits, strict=True)])


def divergence(one: World, other: World, mu: World) -> torch.Tensor:
    """Σ_t E_{contexts of μ} KL(one‖other)."""
    chance = [torch.ones((), dtype=torch.float64), *mu.first.detach().exp()]
    parts = zip(chance, one.contexts(), other.contexts(), strict=True)
    return sum((share * (p.exp() * (p - q)).sum() for share, p, q in parts), torch.zeros((), dtype=torch.float64))


def test_opd_is_the_gradient_of_minus_the_reverse_kl_at_the_contexts_of_the_behaviour(logits):
    pi, mu, p = policy(logits), world(1), world(2)
    want = flat(-divergence(pi, p, mu), logits)
    got = expected(logits, mu, OBJECTIVES["opd"].coefficient(view(pi, mu, p), OPEN).c_bt)
    assert want.abs().max() > 0.05
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_opd_with_a_cap_is_biased(logits):
    pi, mu, p = policy(logits), world(1), world(2)
    capped = ObjectiveSettings(teacher=Teacher(mask_special=False, cap=1.0))
    got = expected(logits, mu, OBJECTIVES["opd"].coefficient(view(pi, mu, p), capped).c_bt)
    assert (got - flat(-divergence(pi, p, mu), logits)).abs().max() > 0.01


def test_minillm_is_the_single_step_and_the_weighted_reward_of_what_follows(logits):
    """MATH §5 at γ = 1: −∇KL at μ's contexts + Σ_a ∇π(a)·E_{b∼μ}[log p(b|a) − log π(b|a)]; the last letter has nothing after it."""
    pi, mu, p = policy(logits), world(1), world(2)
    follows = (mu.second.exp() * (p.second - pi.second)).sum(1).detach()
    want = flat(-divergence(pi, p, mu) + (pi.first.exp() * follows).sum(), logits)
    got = expected(logits, mu, OBJECTIVES["minillm"].coefficient(view(pi, mu, p), OPEN).c_bt)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    assert (want - flat(-divergence(pi, p, mu), logits)).abs().max() > 0.05


def over_ids(logits: list[torch.Tensor], mu: World, p: World, single: str, ids: list[int]) -> torch.Tensor:
    """What minillm's step moves along in expectation over μ, where its own KL of a token is over these ids and the rest."""
    settings = ObjectiveSettings(cap=None, teacher=Teacher(single=single))
    pi, row = policy(logits), OBJECTIVES["minillm"]
    found, chance_b = view(pi, mu, p), mu.texts().detach().sum(1).exp()
    assert row.support is not None
    weight_bt = row.support(found, settings) * chance_b[:, None]
    contexts = [[(pi.first, p.first), (pi.second[a], p.second[a])] for a, _ in TEXTS]
    total = torch.zeros((), dtype=torch.float64)
    for weights, places in zip(weight_bt, contexts, strict=True):
        for weight, (own_v, p_v) in zip(weights, places, strict=True):
            here = torch.tensor([ids])
            target = SupportTarget(here, torch.ones_like(here, dtype=torch.bool), None, p_v[here])
            total = total + weight * coarse(own_v[here], target)[0]
    return expected(logits, mu, row.coefficient(found, settings).c_bt) - flat(total, logits)


@pytest.mark.parametrize("single", ["coarse", "student_topk"])
def test_over_the_whole_vocabulary_minillms_own_kl_is_exact_and_the_drawn_tokens_mean_is_it(logits, single):
    pi, mu, p = policy(logits), world(1), world(2)
    follows = (mu.second.exp() * (p.second - pi.second)).sum(1).detach()
    want = flat(-divergence(pi, p, mu) + (pi.first.exp() * follows).sum(), logits)
    observed = expected(logits, mu, OBJECTIVES["minillm"].coefficient(view(pi, mu, p), OPEN).c_bt)
    torch.testing.assert_close(observed, want, rtol=1e-10, atol=1e-12)
    for ids in ([0, 1, 2], [2, 0]):  # two of three letters leave one: the rest is that letter
        torch.testing.assert_close(over_ids(logits, mu, p, single, ids), want, rtol=1e-10, atol=1e-12)
    assert (over_ids(logits, mu, p, single, [0]) - want).abs().max() > 0.01, "with one id of three it is coarse"


def kl(logits: list[torch.Tensor], mu: World, reference: World, compat: str | None) -> torch.Tensor:
    found = kl_coefficient(view(policy(logits), mu, reference), reference.texts(), None, compat)
    return expected(logits, mu, found.c_bt)


def test_off_policy_only_the_exact_form_is_the_gradient_of_the_reverse_kl(logits):
    mu, reference = world(1), world(2)
    exact = flat(divergence(policy(logits), reference, mu), logits)
    forward = flat(divergence(reference, policy(logits), mu), logits)
    torch.testing.assert_close(kl(logits, mu, reference, None), exact, rtol=1e-10, atol=1e-12)
    for compat in ("trl_k1", "trl_k2", "trl_k3"):
        got = kl(logits, mu, reference, compat)
        assert min((got - want).abs().max() for want in (exact, forward)) > 0.01, compat


def test_on_policy_k1_gives_nothing_k2_the_reverse_and_k3_the_forward_kl(logits):
    mu, reference = World(*(x.detach() for x in (policy(logits).first, policy(logits).second))), world(2)
    exact = flat(divergence(policy(logits), reference, mu), logits)
    forward = flat(divergence(reference, policy(logits), mu), logits)
    assert (exact - forward).abs().max() > 0.01
    for compat, want in (("trl_k1", torch.zeros_like(exact)), ("trl_k2", exact), ("trl_k3", forward)):
        torch.testing.assert_close(kl(logits, mu, reference, compat), want, rtol=1e-10, atol=1e-12, msg=compat)
