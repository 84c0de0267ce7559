"""minillm's own KL of a token over several ids: one step in float64 against plain loops over transformers' log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from trainer.config import Losses
from trainer.distributed import World
from trainer.forward import Policy, head_of, hidden_states, load, token_logprobs
from trainer.method import Method
from trainer.objective_config import ObjectiveSettings, Teacher
from trainer.plan import Items, StepPlan, plan_step
from trainer.pool_soft import single_step
from trainer.pool_terms import view_of
from trainer.replay import Group, Support
from trainer.schedule import Weights
from trainer.step import run_step

WARM, CAP, LAMBDA, SHARE = 0.7, 1.3, 0.5, 0.8
FORMS = ["observed", "coarse", "student_topk"]


@pytest.fixture(scope="module")
def policy(tiny_model: Callable[..., str]) -> Policy:
    return load(tiny_model("gpt2"), layout="plain", dtype="float64")  # float64 throughout: a Llama's norms are float32


def logprobs_tv(policy: Policy, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """log π (t, v) of each next token at the pool's temperature, by transformers alone."""
    logits = policy.model(input_ids=torch.tensor([prompt + completion])).logits[0]
    return (logits[len(prompt) - 1 : -1] / WARM).log_softmax(-1)


def pool(policy: Policy, lengths: list[list[int]]) -> list[Group]:
    """Samples with μ and p a little away from π, and supports of 1 to 5 ids of an own distribution p."""
    random, groups = np.random.default_rng(0), []
    for g, sizes in enumerate(lengths):
        prompt = [1, 2, 3 + g]
        completions = [random.integers(5, 60, n).tolist() for n in sizes]
        behaviour, teacher, support = [], [], []
        for completion in completions:
            with torch.no_grad():
                own_tv = logprobs_tv(policy, prompt, completion).numpy()
            drawn = own_tv[np.arange(len(completion)), completion]
            behaviour.append((drawn + random.normal(0, 0.5, len(drawn))).astype(np.float32))
            teacher.append((drawn + random.normal(0, 0.5, len(drawn))).astype(np.float32))
            support.append([support_of(row_v, random) for row_v in own_tv])
        zeros = np.zeros(len(sizes), np.float32)
        groups.append(Group(g, prompt, completions, behaviour, None, zeros, None, teacher=teacher, support=support))
    return groups


def support_of(own_v: np.ndarray, random: np.random.Generator) -> Support:
    """Some ids, half of them where π lives, with log p of a distribution near π."""
    p_v = np.exp(own_v + random.normal(0, 1.0, len(own_v)))
    size = int(random.integers(1, 6))
    ids = np.unique(np.append(np.argsort(own_v)[-3:], random.integers(5, 60, 5)))[:size]
    return Support(ids.astype(np.int64), None, np.log(p_v / p_v.sum())[ids].astype(np.float32))


def method(single: str, objective: dict[str, float] | None = None, **losses: str) -> Method:
    settings = ObjectiveSettings(teacher=Teacher(single=single, cap=CAP))
    return Method(objective or {"minillm": SHARE}, settings, Losses(**losses), temperature=WARM)


def planned(groups: list[Group], budget: int = 100_000, processes: int = 1) -> StepPlan:
    weights = Weights(LAMBDA, 0, 0, 0.0)
    return plan_step(weights, Items(groups), max_tokens=9, budget=budget, layout="plain", processes=processes)


def coarse_kl(logpi_v: torch.Tensor, at: Support) -> torch.Tensor:
    """KL between (ids, all others), an id at a time."""
    total, pi_left, p_left = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64), 1.0
    for token, logp in zip(at.ids.tolist(), (at.logprobs if at.logprobs is not None else []), strict=True):
        logp = float(logp)
        total = total + logpi_v[token].exp() * (logpi_v[token] - logp)
        pi_left, p_left = pi_left - logpi_v[token].exp(), p_left - math.exp(logp)
    return total + pi_left * (pi_left.log() - math.log(p_left))


class Textbook:
    """The step's surrogate, everything that the method holds fixed taken from the weights at which it was made."""

    def __init__(self, policy: Policy, groups: list[Group], single: str, aggregation: str):
        self.policy, self.groups, self.single = policy, groups, single
        samples = [completion for group in groups for completion in group.completions]
        tokens = sum(map(len, samples))
        self.a = [1 / tokens if aggregation == "token" else 1 / (len(samples) * len(one)) for one in samples]
        with torch.no_grad():
            self.fixed = [self.weights(*row) for row in self.rows()]

    def rows(self):  # type: ignore[no-untyped-def]
        for group in self.groups:
            known = zip(group.completions, group.behaviour, group.teacher or [], group.support or [], strict=True)
            for completion, behaviour, teacher, support in known:
                yield logprobs_tv(self.policy, group.prompt, completion), completion, behaviour, teacher, support

    def weights(self, logp_tv, completion, behaviour, teacher, support):  # type: ignore[no-untyped-def]
        """(min(ρ, C), log p − log π, R) of each token as floats; R the mean of log p − log π over the tokens that follow."""
        drawn = [float(logp_tv[t, token]) for t, token in enumerate(completion)]
        gap = [float(teacher[t]) - drawn[t] for t in range(len(drawn))]
        ratio = [min(math.exp(drawn[t] - float(behaviour[t])), CAP) for t in range(len(drawn))]
        after = [sum(gap[t + 1 :]) / max(len(gap) - t - 1, 1) for t in range(len(gap))]
        return list(zip(ratio, gap, after, strict=True))

    def loss(self) -> torch.Tensor:
        """λ·share·Σ a·w·[−(R + own)·log π + KL], own the drawn token's log p − log π where it stands for the KL."""
        total = torch.zeros((), dtype=torch.float64)
        for a, fixed, (logp_tv, completion, _, _, support) in zip(self.a, self.fixed, self.rows(), strict=True):
            for t, (weight, gap, after) in enumerate(fixed):
                own = gap if self.single == "observed" else 0.0
                kl = torch.zeros(()) if self.single == "observed" else coarse_kl(logp_tv[t], support[t])
                total = total + LAMBDA * SHARE * a * weight * (kl - (after + own) * logp_tv[t, completion[t]])
        return total


def gradient(policy: Policy) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]).clone()
    policy.model.zero_grad(set_to_none=True)
    return found


def stepped(policy: Policy, plan: StepPlan, own: Method) -> tuple[torch.Tensor, dict[str, float]]:
    told = run_step(policy, plan, own, World())
    return gradient(policy), told


@pytest.mark.parametrize("aggregation", ["token", "sample"])
@pytest.mark.parametrize("single", FORMS)
def test_the_step_is_the_gradient_of_its_textbook_form_by_autograd_and_finite_differences(
    policy: Policy, single: str, aggregation: str
) -> None:
    groups = pool(policy, [[4, 2, 3], [5, 1]])
    got, told = stepped(policy, planned(groups), method(single, aggregation=aggregation))
    book = Textbook(policy, groups, single, aggregation)
    book.loss().backward()
    want = gradient(policy)
    assert want.norm() > 1e-3
    assert (got - want).norm() / want.norm() <= 1e-6  # μ and p are float32 in the step
    weights = list(policy.model.parameters())
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        ways = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in weights]
        values = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                for weight, way in zip(weights, ways, strict=True):
                    weight += step * way
                values.append(float(book.loss()))
        with torch.no_grad():
            for weight, way in zip(weights, ways, strict=True):
                weight += 1e-5 * way
        slope = (values[0] - values[1]) / 2e-5
        assert slope == pytest.approx(float(got @ torch.cat([way.flatten() for way in ways])), rel=1e-6, abs=1e-8)
    if single != "observed":
        mean = [
            coarse_kl(logp_v, at)
            for logp_tv, _, _, _, own in book.rows()
            for logp_v, at in zip(logp_tv, own, strict=True)
        ]
        assert told["minillm/single_kl"] == pytest.approx(torch.stack(mean).mean().item(), rel=1e-6)


def test_the_forms_are_different_steps_and_the_drawn_token_reads_no_support(policy: Policy) -> None:
    groups = pool(policy, [[4, 2, 3], [5, 1]])
    observed, told = stepped(policy, planned(groups), method("observed"))
    coarse, _ = stepped(policy, planned(groups), method("coarse"))
    assert (observed - coarse).norm() / observed.norm() > 0.05 and "minillm/single_kl" not in told
    bare = [replace(group, support=None) for group in groups]
    torch.testing.assert_close(stepped(policy, planned(bare), method("observed"))[0], observed, rtol=0, atol=0)
    with pytest.raises(ValueError, match="supports of 0 tokens beside 15"):
        run_step(policy, planned(bare), method("coarse"), World())
    policy.model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("budget", [7, 24])
@pytest.mark.parametrize("single", ["coarse", "student_topk"])
def test_micro_batches_and_split_groups_change_nothing(policy: Policy, single: str, budget: int) -> None:
    groups = pool(policy, [[4, 2, 3], [5, 1], [2, 2, 6, 1]])
    own = method(single, {"minillm": SHARE, "tis": 0.3})
    whole, told = stepped(policy, planned(groups), own)
    plan = planned(groups, budget)
    assert plan.split and len(plan.micro[0]) > 2
    cut, again = stepped(policy, plan, own)
    assert (cut - whole).abs().max() <= 1e-12 < 1e-3 < whole.abs().max()
    assert told["minillm/single_kl"] == pytest.approx(again["minillm/single_kl"], rel=1e-12)


def test_the_shares_of_two_processes_add_up(policy: Policy) -> None:
    groups, own = pool(policy, [[4, 2, 3], [5, 1], [2, 2, 6, 1]]), method("coarse")
    head, totals = head_of(policy.model), []
    for plan in (planned(groups), planned(groups, 24, processes=2)):
        assert all(plan.micro)
        total = 0.0
        for batch in (one for share in plan.micro for one in share):
            with torch.no_grad():
                hidden_nd, target_n = hidden_states(policy, batch.items)
                logprob_n = token_logprobs(hidden_nd, head, target_n, temperature=WARM)
                view = view_of(batch, logprob_n, own, {})
                total += float(single_step(hidden_nd, head, batch, view, plan, own)[0])
        totals.append(total)
    assert totals[0] == pytest.approx(totals[1], rel=1e-12) and totals[0] > 1e-3
