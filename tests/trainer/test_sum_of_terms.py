"""A step of two objectives, behaviour cloning, L_PT, soft targets and the leash is the sum of steps of one term each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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

OBJECTIVES = {"seq_tis": 1.0, "opd": 0.3}
WHOLE = Weights(rl=0.8, bc=0.5, pt=0.3, kl=0.1, soft=0.7)
TERMS = ("rl", "bc", "pt", "kl", "soft")


@pytest.fixture(scope="module")
def policy(tiny_model: Callable[..., str]) -> Policy:
    return load(tiny_model("llama"))


def items() -> Items:
    random = np.random.default_rng(3)

    def tokens(n: int) -> list[int]:
        return random.integers(5, 60, n).tolist()

    def nats(sizes: list[int]) -> list[np.ndarray]:
        return [random.normal(-4.0, 0.5, n).astype(np.float32) for n in sizes]

    sizes = [[4, 2, 3], [5, 1, 2, 2]]
    groups = [
        Group(
            g, tokens(3), [tokens(n) for n in row], nats(row), nats(row),
            random.normal(size=len(row)).astype(np.float32), None, teacher=nats(row),
        )
        for g, row in enumerate(sizes)
    ]  # fmt: skip
    counts = [random.integers(1, 9, 3).astype(np.float32) for _ in range(4)]
    supports = [Support(np.arange(5, 8) + t, counts[t], None) for t in range(4)]
    answers, documents = [Text([1, 2], tokens(3)), Text([4], tokens(5))], [Text([1], tokens(6))]
    return Items(groups=groups, answers=answers, documents=documents, soft=[SoftText([1, 2], tokens(4), supports)])


def gradient(policy: Policy, objectives: dict[str, float], weights: Weights, budget: int) -> torch.Tensor:
    """The step's gradient as one vector; the settings mask no token, so that every term has a gradient."""
    base = ObjectiveSettings()
    clip = replace(base, teacher=replace(base.teacher, mask_special=False))
    plan = plan_step(weights, items(), max_tokens=8, budget=budget, layout=policy.layout)
    run_step(policy, plan, Method(objectives, clip, Losses(soft_target="counts")), World())
    found = torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]).double()
    policy.model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("budget", [24, 100_000])
def test_a_step_is_the_sum_of_its_single_terms(policy: Policy, budget: int) -> None:
    nothing = Weights(**dict.fromkeys(TERMS, 0.0))
    singles = {term: replace(nothing, **{term: getattr(WHOLE, term)}) for term in TERMS}
    parts = [gradient(policy, {name: share}, singles["rl"], budget) for name, share in OBJECTIVES.items()]
    parts += [gradient(policy, OBJECTIVES, singles[term], budget) for term in TERMS[1:]]
    whole = gradient(policy, OBJECTIVES, WHOLE, budget)
    assert min(part.norm() for part in parts) > 1e-3
    assert (whole - torch.stack(parts).sum(0)).abs().max() <= 1e-6
