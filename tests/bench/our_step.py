"""Our own step on given groups, as a run makes it: `plan_step` and `run_step`, without lake and optimiser.

Reads nothing. Log-probabilities in nats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from trainer.forward import Policy
    from trainer.plan import StepPlan
    from trainer.replay import Group

CLIP = 0.2


def draw_tokens(prompt: int, lengths: Sequence[int], seed: int, vocabulary: int) -> tuple[list[int], list[list[int]]]:
    """Random prompt and completions; no special ids among them."""
    source = np.random.default_rng(seed)
    draw = lambda n: source.integers(3, vocabulary, n).tolist()  # noqa: E731
    return draw(prompt), [draw(length) for length in lengths]


def group_of(
    prompt: list[int], completions: list[list[int]], behaviour: list[np.ndarray], reward: np.ndarray, number: int = 0
) -> Group:
    """A group of the pool, advantages normalised within it, π_old = μ."""
    from trainer.replay import Group

    advantages = ((reward - reward.mean()) / (reward.std() + 1e-4)).astype(np.float32)
    baseline = np.full(len(reward), reward.mean())
    return Group(number, prompt, completions, behaviour, None, advantages, None, reward=reward, baseline=baseline)


def our_step(
    found: Policy, groups: Sequence[Group], budget: int, objective: str = "grpo"
) -> tuple[Callable[[], float], StepPlan]:
    """Forward and backward of a step over these groups, to be called as often as wanted, and its plan."""
    from trainer.distributed import World
    from trainer.method import Method
    from trainer.objective_config import ObjectiveSettings
    from trainer.plan import Items, plan_step
    from trainer.schedule import Weights
    from trainer.step import run_step

    longest = max(len(completion) for group in groups for completion in group.completions)
    weights = Weights(rl=1.0, bc=0.0, pt=0.0, kl=0.0)
    plan = plan_step(weights, Items(groups=groups), max_tokens=longest, budget=budget, layout=found.layout)
    method = Method({objective: 1.0}, ObjectiveSettings(clip_low=CLIP, clip_high=CLIP))
    return lambda: run_step(found, plan, method, World())["loss/kernel"], plan
