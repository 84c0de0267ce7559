from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from trainer.view import StepView

GROUPS = [0, 0, 0, 7, 7, 7, 7, 3, 3]
LENGTHS = [3, 1, 5, 2, 4, 5, 1, 3, 5]
UNMASKED = [3, 1, 5, 2, 4, 0, 1, 3, 4]  # sample 5 is out of the loss, sample 8 has lost its first token
THRESHOLDS = [0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0]


@dataclass(frozen=True)
class Case:
    """A ragged step in float64 numpy, as plain as the textbook wants it: lists of tokens a sample, group numbers a sample."""

    logprobs: np.ndarray
    behaviour: np.ndarray
    old: np.ndarray | None
    advantage: np.ndarray
    mask: np.ndarray
    group: list[int]
    reward: np.ndarray
    baseline: np.ndarray
    teacher: np.ndarray
    reference: np.ndarray
    prox: np.ndarray
    special: np.ndarray

    def view(self, logprobs: np.ndarray | None = None) -> StepView:
        def tensor(values):
            return torch.tensor(values, dtype=torch.float64)

        return StepView(
            logprobs_bt=tensor(self.logprobs if logprobs is None else logprobs),
            behaviour_bt=tensor(self.behaviour),
            old_bt=None if self.old is None else tensor(self.old),
            advantage_b=tensor(self.advantage),
            mask_bt=torch.tensor(self.mask),
            group_b=torch.tensor(self.group),
            lengths_b=torch.tensor(LENGTHS),
            reward_b=tensor(self.reward),
            baseline_b=tensor(self.baseline),
            teacher_bt=tensor(self.teacher),
            reference_bt=tensor(self.reference),
            prox_bt=tensor(self.prox),
            special_bt=torch.tensor(self.special),
        )

    def tokens(self, j: int) -> list[int]:
        """The positions of sample j that count."""
        return [t for t in range(self.mask.shape[1]) if self.mask[j, t]]

    def with_(self, **changes) -> Case:
        return replace(self, **changes)


def make_case(seed: int, old: bool) -> Case:
    """Ratios on both sides of every threshold, none within 1e-3 of one, so that finite differences meet no kink."""
    rng = np.random.default_rng(seed)
    shape = (len(GROUPS), max(LENGTHS))
    mask = np.array([[t < n for t in range(shape[1])] for n in UNMASKED])
    mask[8] = [False, True, True, True, True]
    behaviour = -rng.uniform(0.3, 2.5, shape)
    near = 0.0
    while near < 1e-3:
        old_values = behaviour + rng.normal(0, 0.6, shape)
        anchor = old_values if old else behaviour
        logprobs = np.minimum(anchor + rng.normal(0, 0.6, shape), -0.02)
        logs = [(logprobs - anchor)[mask], (logprobs - behaviour)[mask], (old_values - behaviour)[mask]]
        logs.append(np.where(mask, logprobs - behaviour, 0).sum(1)[np.array(UNMASKED) > 0])
        near = np.abs(np.exp(np.concatenate(logs))[:, None] - THRESHOLDS).min()
    advantage = rng.normal(0, 1, len(GROUPS))
    behaviour[~mask] = np.nan  # padding may hold anything
    more = np.random.default_rng(seed + 100)
    group_mean = {g: more.normal() for g in set(GROUPS)}
    teacher, reference = (np.minimum(logprobs + more.normal(0, 0.5, shape), -0.01) for _ in range(2))
    near = 0.0
    while near < 1e-3:
        prox = np.minimum(logprobs + more.normal(0, 0.5, shape), -0.01)
        near = np.abs(
            np.exp(np.concatenate([(logprobs - prox)[mask], (prox - behaviour)[mask]]))[:, None] - THRESHOLDS
        ).min()
    return Case(
        logprobs,
        behaviour,
        old_values if old else None,
        advantage,
        mask,
        GROUPS,
        reward=more.normal(0, 1, len(GROUPS)),
        baseline=np.array([group_mean[g] for g in GROUPS]),
        teacher=teacher,
        reference=reference,
        prox=prox,
        special=more.random(shape) < 0.25,
    )


@pytest.fixture(params=[(2, False), (4, True), (11, True)], ids=["behaviour", "rescored", "rescored-again"])
def case(request) -> Case:
    return make_case(*request.param)


@pytest.fixture
def plain_case() -> Case:
    return make_case(3, False)
