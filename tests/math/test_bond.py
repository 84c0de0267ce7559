"""Best-of-N distillation on a policy that can be enumerated: 24 texts, groups drawn from it, any expression as reward."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from data.advantages import advantages, evaluate
from data.expression import compile_expression
from data.selection import select
from trainer.losses import kl_coefficient
from trainer.objective_config import ObjectiveSettings
from trainer.objectives import OBJECTIVES
from trainer.view import StepView

TEXTS = 24
RNG = np.random.default_rng(5)
START = RNG.dirichlet(np.full(TEXTS, 4.0))  # the policy that was sampled: no text is more than a tenth of it
A, B = RNG.normal(size=(2, TEXTS))
WORTH = A - 2 * B  # no two are equal
GROUPS, SIZE = 4000, 16


def best_of(n: int) -> np.ndarray:
    """The distribution of the best of n draws: F(r)^n − F(<r)^n."""
    at_most = np.array([START[w >= WORTH].sum() for w in WORTH])
    return at_most**n - (at_most - START) ** n


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum())


def advantage_k(text: str) -> np.ndarray:
    """Mean advantage of each text over groups drawn from START, by the recipe's own path from expression to number."""
    draws = np.random.default_rng(0).choice(TEXTS, (GROUPS, SIZE), p=START)
    rows = pa.table({"a": A[draws.ravel()], "b": B[draws.ravel()]})
    starts = np.arange(0, GROUPS * SIZE, SIZE)
    reward = evaluate(compile_expression(text, ["a", "b"]), rows, starts=starts)
    found = advantages(reward, np.ones(len(reward), bool), starts, "leave_one_out").vector
    return np.array([found[draws.ravel() == k].mean() for k in range(TEXTS)])


def trained(text: str, steps: int = 400) -> list[np.ndarray]:
    """The policy after each step of E_μ[ρ·A·∇log π] − ∇KL(π‖π_0), with the objective's and the KL's own coefficients."""
    start_k1 = torch.from_numpy(START).log()[:, None]
    logits_k = start_k1[:, 0].clone().requires_grad_()
    worth_k = torch.from_numpy(advantage_k(text))
    seen = []
    for _ in range(steps):
        logprobs_k1 = logits_k.log_softmax(0)[:, None]
        view = StepView(
            logprobs_k1.detach(),
            start_k1,
            None,
            worth_k,
            torch.ones(TEXTS, 1, dtype=torch.bool),
            torch.zeros(TEXTS, dtype=torch.int64),
            torch.ones(TEXTS, dtype=torch.int64),
        )
        c_k1 = OBJECTIVES["seq_tis"].coefficient(view, ObjectiveSettings(cap=None)).c_bt
        c_k1 = c_k1 - kl_coefficient(view, start_k1, None).c_bt  # β = 1
        (gradient_k,) = torch.autograd.grad((torch.from_numpy(START)[:, None] * c_k1 * logprobs_k1).sum(), logits_k)
        logits_k = (logits_k + 0.5 * gradient_k).detach().requires_grad_()
        seen.append(logits_k.detach().softmax(0).numpy())
    return seen


@pytest.mark.parametrize("n", [2, 4])
def test_training_on_the_log_quantile_moves_to_the_exact_best_of_n(n: int) -> None:
    path, target = trained(f"{n - 1}*log_quantile_group(a - 2*b)"), best_of(n)
    assert target.sum() == pytest.approx(1) and target @ WORTH > START @ WORTH
    start, end = divergence(START, target), divergence(path[-1], target)
    assert end < 0.1 * start, (start, end)
    distances = [divergence(p, target) for p in path[::50]]
    assert distances[0] > distances[1] > distances[2]
    other = divergence(path[-1], best_of(4 if n == 2 else 2))
    assert end < other, "the factor says N"


def test_another_expression_has_another_best() -> None:
    found, target = trained("3*log_quantile_group(a - 2*b)")[-1], best_of(4)
    plain = trained("3*log_quantile_group(a)")[-1]
    assert divergence(found, target) < 0.1 * divergence(plain, target)


def test_the_selections_quantile_is_the_same_share() -> None:
    draws = np.random.default_rng(1).choice(TEXTS, 12, p=START)
    keys = {"prompt_id": pa.array([7] * 6 + [9] * 6, pa.uint64()), "group_id": pa.array([1] * 6 + [2] * 6, pa.uint64())}
    rows = pa.table({**keys, "sample_index": pa.array([*range(6)] * 2, pa.uint8()), "a": A[draws], "b": B[draws]})
    selected = select(rows, None, "a - 2*b", None, ["a", "b"])
    log_share = evaluate(compile_expression("log_quantile_group(a - 2*b)", ["a", "b"]), rows, starts=np.array([0, 6]))
    np.testing.assert_allclose(np.exp(log_share), selected["quantile"].to_numpy(), rtol=1e-6)


def test_a_missing_value_has_no_quantile_and_is_in_no_count() -> None:
    rows = pa.table({"a": [1.0, None, 3.0]})
    values = evaluate(compile_expression("log_quantile_group(a)", ["a"]), rows, starts=np.array([0]))
    np.testing.assert_allclose(values, [np.log(0.5), np.nan, 0.0])
