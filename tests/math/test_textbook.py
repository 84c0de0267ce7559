"""Each coefficient against the gradient of its paper's surrogate, in plain Python loops that share no line with trainer/."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.objective_config import Gspo, Mis, Teacher
from trainer.objectives import OBJECTIVES, ObjectiveSettings

sys.path.append(str(Path(__file__).parent))

import textbook

CLIPS = [
    ObjectiveSettings(),
    ObjectiveSettings(clip_low=0.2, clip_high=0.5, dual_clip=1.5, mismatch_cap=1.2),
    ObjectiveSettings(clip_low=0.5, clip_high=None),
    ObjectiveSettings(clip_low=None, clip_high=0.2, mismatch_cap=None),
    ObjectiveSettings(clip_low=None, clip_high=None, dual_clip=3.0),
]
CAPS = [ObjectiveSettings(cap=2.0), ObjectiveSettings(cap=1.2), ObjectiveSettings(cap=None)]
SCORES = [ObjectiveSettings(softmax_score="mean"), ObjectiveSettings(softmax_score="sum")]
METHODS = [
    *[("naive", ObjectiveSettings()), ("raft", ObjectiveSettings())],
    *[(name, settings) for name in ("grpo", "dr_grpo") for settings in CLIPS],
    *[(name, settings) for name in ("tis", "seq_tis") for settings in CAPS],
    ("topr", ObjectiveSettings()),
    *[("seed_softmax", settings) for settings in SCORES],
    *[(name, settings) for name in ("dapo", "cispo") for settings in CLIPS[:4]],
    *[("decoupled", settings) for settings in (CLIPS[0], CLIPS[2], CLIPS[3])],
    *[("gspo", ObjectiveSettings(gspo=one)) for one in (Gspo(0.2, 0.3), Gspo(0.05, None), Gspo(None, 0.1))],
    *[("mis", ObjectiveSettings(mis=Mis(unit=unit))) for unit in ("token", "sample")],
    *[("m2po", ObjectiveSettings(m2_limit=limit)) for limit in (0.04, 0.2, 10.0)],
    *[("asymre", ObjectiveSettings(delta=delta)) for delta in (0.0, 0.3)],
    *[(name, ObjectiveSettings(tau=tau)) for name in ("kimi", "tb_vargrad", "astar_po") for tau in (0.1, 0.7)],
    *[
        ("opd", ObjectiveSettings(teacher=one))
        for one in (Teacher(), Teacher(cap=1.2, horizon=3, decay=0.8, mask_special=False))
    ],
    ("minillm", ObjectiveSettings()),
    *[
        ("minillm", ObjectiveSettings(teacher=one))
        for one in (Teacher(cap=1.2, gamma=0.7), Teacher(variant="lmops", gamma=0.9))
    ],
    *[
        ("minillm", ObjectiveSettings(teacher=one))
        for one in (Teacher(single="coarse", cap=1.2), Teacher(single="student_topk", variant="lmops"))
    ],
]
IDS = [f"{name}-{i}" for i, (name, _) in enumerate(METHODS)]


def exp(x):
    return x.exp() if isinstance(x, torch.Tensor) else math.exp(x)


def clip(x, low, high):
    return low if x < low else high if x > high else x


def number(x) -> float:
    """The stop-gradient: a value that remembers no variable."""
    return float(x)


def clipped_surrogate(case, logp, settings):
    """Σ_j Σ_t m·min(ρA, clip(ρ, 1−ε_l, 1+ε_h)·A); with dual clip max(that, cA) where A < 0 (Shao et al. 2024; Ye et al. 2020)."""
    total = 0.0
    low = -math.inf if settings.clip_low is None else 1 - settings.clip_low
    high = math.inf if settings.clip_high is None else 1 + settings.clip_high
    for j in range(len(case.group)):
        for t in case.tokens(j):
            anchor = case.behaviour[j, t] if case.old is None else case.old[j, t]
            correction = math.exp(anchor - case.behaviour[j, t])
            if settings.mismatch_cap is not None and case.old is not None:
                correction = min(correction, settings.mismatch_cap)
            rho, a = exp(logp[j][t] - anchor), float(case.advantage[j])
            value = min(rho * a, clip(rho, low, high) * a)
            if settings.dual_clip is not None and a < 0:
                value = max(value, settings.dual_clip * a)
            total = total + correction * value
    return total


def reinforce_surrogate(case, logp, settings):
    """Σ_j A_j·log π(y_j) (Williams 1992)."""
    total = 0.0
    for j in range(len(case.group)):
        for t in case.tokens(j):
            total = total + float(case.advantage[j]) * logp[j][t]
    return total


def token_tis_surrogate(case, logp, settings):
    """Σ_j Σ_t sg(min(ρ_t, C))·A_j·log π_t, the weight frozen at the point of differentiation."""
    total = 0.0
    for j in range(len(case.group)):
        for t in case.tokens(j):
            weight = math.exp(case.logprobs[j, t] - case.behaviour[j, t])
            total = total + min(weight, settings.cap or math.inf) * float(case.advantage[j]) * logp[j][t]
    return total


def frozen_weight(case, j) -> float:
    product = 1.0
    for t in case.tokens(j):
        product *= math.exp(case.logprobs[j, t]) / math.exp(case.behaviour[j, t])
    return product


def sequence_tis_surrogate(case, logp, settings):
    """Σ_j sg(min(Π_t ρ_t, C))·A_j·log π(y_j)."""
    total = 0.0
    for j in range(len(case.group)):
        weight = min(frozen_weight(case, j), settings.cap or math.inf)
        for t in case.tokens(j):
            total = total + weight * float(case.advantage[j]) * logp[j][t]
    return total


def topr_surrogate(case, logp, settings):
    """Σ_{A≥0} A·log π(y) + Σ_{A<0} sg([π/μ]_0^1)·A·log π(y) (Le Roux et al. 2025)."""
    total = 0.0
    for j in range(len(case.group)):
        a = float(case.advantage[j])
        weight = 1.0 if a >= 0 else clip(frozen_weight(case, j), 0.0, 1.0)
        for t in case.tokens(j):
            total = total + weight * a * logp[j][t]
    return total


def raft_surrogate(case, logp, settings):
    """Σ log π(y*) over the best sample of each group that has tokens in the loss (Dong et al. 2023)."""
    total = 0.0
    for group in sorted(set(case.group)):
        members = [j for j in range(len(case.group)) if case.group[j] == group and case.tokens(j)]
        best = max(members, key=lambda j: case.advantage[j])
        for t in case.tokens(best):
            total = total + logp[best][t]
    return total


def softmax_surrogate(case, logp, settings):
    """Σ_g Σ_j s_j A_j, s the softmax of the samples' scores in their group: the source's step 7 as it stands."""
    total = 0.0
    for group in sorted(set(case.group)):
        members = [j for j in range(len(case.group)) if case.group[j] == group and case.tokens(j)]
        powers = []
        for j in members:
            score = sum(logp[j][t] for t in case.tokens(j))
            powers.append(exp(score / len(case.tokens(j)) if settings.softmax_score == "mean" else score))
        for j, power in zip(members, powers, strict=True):
            total = total + power / sum(powers) * float(case.advantage[j])
    return total


SURROGATES = {
    "naive": reinforce_surrogate,
    "raft": raft_surrogate,
    "grpo": clipped_surrogate,
    "dr_grpo": clipped_surrogate,
    "tis": token_tis_surrogate,
    "seq_tis": sequence_tis_surrogate,
    "topr": topr_surrogate,
    "seed_softmax": softmax_surrogate,
    "dapo": clipped_surrogate,
    **textbook.SURROGATES,
}


def finite_differences(function, logp: np.ndarray, step: float = 1e-5) -> np.ndarray:
    gradient = np.zeros_like(logp)
    for index in np.ndindex(*logp.shape):
        up, down = logp.copy(), logp.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (number(function(up)) - number(function(down))) / (2 * step)
    return gradient


def test_every_objective_has_a_textbook_form():
    assert set(SURROGATES) == set(OBJECTIVES) == {name for name, _ in METHODS}


@pytest.mark.parametrize(("name", "settings"), METHODS, ids=IDS)
def test_the_coefficient_is_the_gradient_of_the_textbook_surrogate_by_autograd(case, name, settings):
    logp = torch.tensor(case.logprobs, requires_grad=True)
    (gradient,) = torch.autograd.grad(SURROGATES[name](case, logp, settings), logp)
    c_bt = OBJECTIVES[name].coefficient(case.view(), settings).c_bt
    assert c_bt.dtype == torch.float64
    torch.testing.assert_close(c_bt, gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "settings"), METHODS, ids=IDS)
def test_the_coefficient_is_the_gradient_of_the_textbook_surrogate_by_finite_differences(case, name, settings):
    gradient = finite_differences(lambda logp: SURROGATES[name](case, logp, settings), case.logprobs)
    c_bt = OBJECTIVES[name].coefficient(case.view(), settings).c_bt.numpy()
    np.testing.assert_allclose(c_bt, gradient, rtol=1e-6, atol=1e-8)
    assert np.count_nonzero(c_bt) >= 5, "a case where nothing is learned shows nothing"


@pytest.mark.parametrize(("name", "settings"), METHODS, ids=IDS)
def test_the_logged_surrogate_has_the_coefficient_as_its_derivative(case, name, settings):
    def logged(logp: np.ndarray) -> float:
        return OBJECTIVES[name].coefficient(case.view(logp), settings).metrics["surrogate"][0].item()

    c_bt = OBJECTIVES[name].coefficient(case.view(), settings).c_bt.numpy()
    slope_bt = finite_differences(logged, case.logprobs)
    if name == "minillm" and settings.teacher.variant == "paper":  # R stops the gradient: only a first token is in no R
        first = case.mask & (np.cumsum(case.mask, axis=1) == 1)
        slope_bt, c_bt = slope_bt[first], c_bt[first]
    np.testing.assert_allclose(slope_bt, c_bt, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("settings", CLIPS[:3])
def test_the_logged_surrogate_of_grpo_is_the_papers_objective(case, settings):
    surrogate = OBJECTIVES["grpo"].coefficient(case.view(), settings).metrics["surrogate"][0].item()
    assert surrogate == pytest.approx(clipped_surrogate(case, case.logprobs, settings), rel=1e-12)


def test_the_cases_reach_both_sides_of_every_clip_and_cap(case):
    mask = case.mask
    rho = np.exp(case.logprobs - (case.behaviour if case.old is None else case.old))
    a = np.broadcast_to(case.advantage[:, None], mask.shape)
    for sign in (1, -1):
        for low, high in [(0, 0.8), (0.8, 1.2), (1.5, np.inf)]:
            assert ((a * sign > 0) & (rho > low) & (rho < high))[mask].any(), (sign, low, high)
    weights = [frozen_weight(case, j) for j in range(len(case.group)) if case.tokens(j)]
    assert min(weights) < 1 < 2 < max(weights)
    negative = [frozen_weight(case, j) for j in range(len(case.group)) if case.tokens(j) and case.advantage[j] < 0]
    assert min(negative) < 1 < max(negative)
    assert case.old is None or np.exp((case.old - case.behaviour)[mask]).max() > 2
