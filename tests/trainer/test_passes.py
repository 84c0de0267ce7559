"""The gradient of one step, whichever passes it takes, against plain transformers row by row at the pool's temperature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from trainer.config import Losses
from trainer.distributed import World
from trainer.forward import Policy, load
from trainer.method import Method
from trainer.objective_config import ObjectiveSettings
from trainer.plan import Items, plan_step
from trainer.replay import Group, SoftText, Support, Text
from trainer.schedule import Weights
from trainer.step import run_step

WARM = 0.6
NEXT_TO_NOTHING = 1e-30  # an objective of a wider scope that weighs nothing: only the passes change


@pytest.fixture(scope="module")
def policy(tiny_model: Callable[..., str]) -> Policy:
    return load(tiny_model("llama"), layout="plain")


def groups(lengths: list[list[int]], rescored: bool = True) -> list[Group]:
    random = np.random.default_rng(0)
    return [
        Group(
            g,
            [1, 2, 3],
            [random.integers(5, 60, n).tolist() for n in sizes],
            [random.normal(-4.0, 0.5, n).astype(np.float32) for n in sizes],
            [random.normal(-4.0, 0.5, n).astype(np.float32) for n in sizes] if rescored else None,
            random.normal(size=len(sizes)).astype(np.float32),
            None,
        )
        for g, sizes in enumerate(lengths)
    ]


def row_logprobs(policy: Policy, prompt: list[int], completion: list[int], temperature: float) -> torch.Tensor:
    """log-probabilities (t, v) of each next token, by transformers alone."""
    logits = policy.model(input_ids=torch.tensor([prompt + completion])).logits[0]
    return (logits[len(prompt) - 1 : -1] / temperature).log_softmax(-1)


def gradient(policy: Policy) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]).clone()
    policy.model.zero_grad(set_to_none=True)
    return found


def near(got: torch.Tensor, want: torch.Tensor) -> None:
    assert want.norm() > 1e-3
    assert (got - want).norm() / want.norm() <= 1e-4


@pytest.mark.parametrize("budget", [24, 100_000])
@pytest.mark.parametrize("wider", [None, "seq_tis", "seed_softmax", "m2po"])
def test_every_scope_takes_the_gradient_of_its_weights_at_the_pools_temperature(
    policy: Policy, wider: str | None, budget: int
) -> None:
    pool = groups([[4, 2, 3], [5, 1, 2, 2]])
    objective = {"tis": 1.0} | ({wider: NEXT_TO_NOTHING} if wider else {})
    method = Method(objective, ObjectiveSettings(cap=2.0), Losses(), temperature=WARM)
    plan = plan_step(Weights(0.5, 0, 0, 0.0), Items(pool), max_tokens=8, budget=budget, layout="plain")
    assert plan.split == (budget == 24)
    told = run_step(policy, plan, method, World())
    got = gradient(policy)
    total, ratios = torch.zeros(()), []
    for one in pool:
        for completion, behaviour, a in zip(one.completions, one.behaviour, one.advantages, strict=True):
            logp_tv = row_logprobs(policy, one.prompt, completion, WARM)
            logp_t = logp_tv.gather(1, torch.tensor(completion)[:, None])[:, 0]
            ratio_t = (logp_t.detach() - torch.from_numpy(behaviour)).exp()
            ratios.append(ratio_t)
            total = total - 0.5 * (ratio_t.clamp(max=2.0) * float(a) * logp_t).sum() / 19
    total.backward()
    near(got, gradient(policy))
    assert told["tis/ratio"] == pytest.approx(torch.cat(ratios).mean().item(), rel=1e-4)
    assert told["loss/kernel"] == pytest.approx(total.item(), rel=1e-4)


def test_a_step_with_a_first_pass_needs_no_rescored_policy(policy: Policy) -> None:
    pool = groups([[4, 2, 3], [5, 1, 2, 2]], rescored=False)
    plan = plan_step(Weights(0.5, 0, 0, 0.0), Items(pool), max_tokens=8, budget=99, layout="plain")
    try:
        assert "m2po/masked" in run_step(policy, plan, Method({"m2po": 1.0}, ObjectiveSettings()), World())
    finally:
        policy.model.zero_grad(set_to_none=True)


def soft_texts() -> list[SoftText]:
    random = np.random.default_rng(1)
    found = []
    for length in (3, 2):
        support = []
        for size in random.integers(2, 5, length):
            p = random.dirichlet(np.ones(size + 1))[:size].astype(np.float32)
            ids = random.choice(np.arange(5, 60), size, replace=False)
            support.append(Support(ids.astype(np.int64), random.integers(1, 9, size).astype(np.float32), np.log(p)))
        found.append(SoftText([1, 2], random.integers(5, 60, length).tolist(), support))
    return found


@pytest.mark.parametrize("budget", [4, 100_000])
def test_soft_targets_and_answers_enter_at_temperature_one_each_over_its_own_tokens(
    policy: Policy, budget: int
) -> None:
    soft, answers = soft_texts(), [Text([1], [7, 8, 9]), Text([1, 4], [9])]
    method = Method({"grpo": 1.0}, ObjectiveSettings(), Losses(soft_target="counts"), temperature=WARM)
    items = Items(answers=answers, soft=soft)
    plan = plan_step(Weights(0, 0.3, 0, 0.0, 0.7), items, max_tokens=1, budget=budget, layout="plain")
    assert plan.soft_tokens == 5 and plan.answer_tokens == 4
    assert sum(bool(batch.soft) for batch in plan.micro[0]) == (2 if budget == 4 else 1)
    told = run_step(policy, plan, method, World())
    got = gradient(policy)
    cross, bc = torch.zeros(()), torch.zeros(())
    for text in soft:
        logp_tv = row_logprobs(policy, text.prompt, text.completion, 1.0)
        for logp_v, at in zip(logp_tv, text.support, strict=True):
            assert at.counts is not None
            share = torch.from_numpy(at.counts / at.counts.sum())
            cross = cross - (share * logp_v[torch.from_numpy(at.ids)]).sum() / 5
    for answer in answers:
        logp_tv = row_logprobs(policy, answer.prompt, answer.completion, 1.0)
        bc = bc - logp_tv.gather(1, torch.tensor(answer.completion)[:, None]).sum() / 4
    (0.7 * cross + 0.3 * bc).backward()
    near(got, gradient(policy))
    assert told["loss/soft"] == pytest.approx(cross.item(), rel=1e-4)
    assert told["loss/bc"] == pytest.approx(bc.item(), rel=1e-4)


def test_answers_weighed_by_chord_phi_take_its_gradient(policy: Policy) -> None:
    method = Method({"grpo": 1.0}, ObjectiveSettings(), Losses(bc_weighting="chord_phi"))
    plan = plan_step(
        Weights(0, 1.0, 0, 0.0), Items(answers=[Text([1], [7, 8, 9])]), max_tokens=1, budget=99, layout="plain"
    )
    run_step(policy, plan, method, World())
    got = gradient(policy)
    logp_t = row_logprobs(policy, [1], [7, 8, 9], 1.0).gather(1, torch.tensor([[7], [8], [9]]))[:, 0]
    pi_t = logp_t.detach().exp()
    (-(pi_t * (1 - pi_t) * logp_t).sum() / 3).backward()
    near(got, gradient(policy))


def test_a_loss_that_is_no_number_stops_the_step(policy: Policy, monkeypatch: Any) -> None:
    from data.refusal import Refusal
    from trainer import step

    monkeypatch.setattr(step, "batch_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    plan = plan_step(Weights(0, 1.0, 0, 0.0), Items(answers=[Text([1], [7])]), max_tokens=1, budget=9, layout="plain")
    with pytest.raises(Refusal, match="loss of a micro-batch is nan"):
        run_step(policy, plan, Method({"grpo": 1.0}, ObjectiveSettings()), World())
    policy.model.zero_grad(set_to_none=True)
