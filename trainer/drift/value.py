"""What the new policy's mean reward is, from the pool alone: importance weighting with a control variate (MATH §9).

Reads log-weights of whole samples and their rewards. Writes nothing. Gives no number, and the reason, where the weights cannot
carry one: a heavy tail, a mean weight that is not 1, or no groups left that the policy was not trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trainer.drift.sums import MAX_LOG_WEIGHT
from trainer.drift.tail import k_hat, limit

LEVEL = 0.95
RESAMPLES = 2000
LEAST_GROUPS = 30  # a bootstrap over fewer prompts is too narrow
ERRORS = 3.0  # standard errors that the mean weight may lie away from 1: chance alone does that once in 370 looks
ROUNDING = 1e-3  # of a mean weight, by the rounding of stored log-probabilities (MATH §11)


@dataclass(frozen=True)
class Value:
    """The estimate with its 95 % interval, or None with the reason. Rewards in their own unit."""

    estimate: float | None
    interval: tuple[float, float] | None
    pool: float
    """The pool's own mean reward, over prompts with two valid samples or more."""
    k_hat: float
    """Of the weights of samples that the policy was not trained on."""
    mean_weight: float
    """Mean of those weights, untruncated: 1 in expectation."""
    groups: int
    """Prompts that the policy was not trained on, with two valid samples or more."""
    reason: str | None


def value(
    log_weight_n: np.ndarray,
    reward_n: np.ndarray,
    starts: np.ndarray,
    *,
    seen_g: np.ndarray | None = None,
    stratum_g: np.ndarray | None = None,
    cap: float | None = None,
    seed: int = 0,
) -> Value:
    """Mean reward of π from samples of μ: V̂ = mean_i r̄_i + Σ_s (n_s/n) mean_{i in s, unseen} (1/G_i) Σ_j (w̃_ij − 1)(r_ij − r̄_i,−j).

    log_weight_n: Σ_t log π/μ of each sample, nats; reward_n: float64, NaN: invalid; starts: first row of each group; seen_g: bool,
    groups that π was trained on (None: none); stratum_g: int from 0, groups within which π's training chose blindly (None: all).
    What training did to a sample's weight depends on that sample's own luck, so that on groups it has seen V̂ promises a gain
    that fresh samples do not show, at first order in the learning rate ("propensity overfitting", Swaminathan & Joachims 2015):
    they lend their r̄ only. The control variate r̄_i,−j is the mean of the group's *other* samples: with r_ij in it the
    correction would be too small by 1/G. w̃ = min(w, C), C = `cap`, by default √n (Ionides 2008). Interval: BCa bootstrap over
    prompts (Efron 1987): a prompt's samples are not independent, and weights are skewed."""
    log_n, reward_n, group_n, kept_g = _valid(log_weight_n, reward_n, starts)
    if not len(log_n):
        return Value(None, None, math.nan, math.nan, math.nan, 0, "no group has two valid samples")
    fresh_g = np.ones(len(kept_g), bool) if seen_g is None else ~np.asarray(seen_g, bool)[kept_g]
    stratum_g = np.zeros(len(kept_g), np.int64) if stratum_g is None else np.asarray(stratum_g)[kept_g]
    fresh_n, mean_g = fresh_g[group_n], _means(reward_n, group_n)
    weight_n = np.exp(np.minimum(log_n, MAX_LOG_WEIGHT))
    weight_g, tail = _means(weight_n, group_n)[fresh_g], k_hat(log_n[fresh_n])
    known = (float(mean_g.mean()), tail, float(weight_g.mean()) if len(weight_g) else math.nan, int(fresh_g.sum()))
    reason = _few(fresh_g, stratum_g) or _unfit(tail, int(fresh_n.sum()), weight_g)
    if reason is not None:
        return Value(None, None, *known, f"unreliable: {reason}")
    bound = math.sqrt(fresh_n.sum()) if cap is None else cap
    correction_g = np.where(fresh_g, _correction(np.minimum(weight_n, bound), reward_n, group_n), 0.0)
    parts = (mean_g, correction_g, fresh_g, stratum_g)
    return Value(float(_total(*parts)), _interval(*parts, seed=seed), *known, None)


def _valid(
    log_n: np.ndarray, reward_n: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Samples with a reward, of groups that have two of them; these groups numbered from 0, and their old numbers."""
    group_n = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(reward_n)))
    known_n = np.isfinite(reward_n)
    enough = np.bincount(group_n[known_n], minlength=len(starts)) >= 2
    keep_n = known_n & enough[group_n]
    kept_g, renumbered_n = np.unique(group_n[keep_n], return_inverse=True)
    return log_n[keep_n], reward_n[keep_n], renumbered_n, kept_g


def _means(value_n: np.ndarray, group_n: np.ndarray) -> np.ndarray:
    return np.bincount(group_n, value_n) / np.bincount(group_n)


def _correction(weight_n: np.ndarray, reward_n: np.ndarray, group_n: np.ndarray) -> np.ndarray:
    """(groups,): mean over a group's samples of (w̃ − 1)·(r − mean of the others' r)."""
    size_g, mean_g = np.bincount(group_n), _means(reward_n, group_n)
    apart_n = (reward_n - mean_g[group_n]) * (size_g / (size_g - 1))[group_n]
    return _means((weight_n - 1) * apart_n, group_n)


def _total(
    mean_g: np.ndarray, correction_g: np.ndarray, fresh_g: np.ndarray, stratum_g: np.ndarray, axis: int = -1
) -> np.ndarray:
    """Unseen groups stand for the seen ones of their stratum; r̄ of all of them counts."""
    total = mean_g.sum(axis)
    for stratum in np.unique(stratum_g):
        here_g = stratum_g == stratum
        unseen = np.maximum((here_g & fresh_g).sum(axis), 1)
        total = total + here_g.sum(axis) * np.where(here_g, correction_g, 0.0).sum(axis) / unseen
    found: np.ndarray = total / mean_g.shape[axis]
    return found


def _few(fresh_g: np.ndarray, stratum_g: np.ndarray) -> str | None:
    """Whether too few groups are left to stand for those that were trained on."""
    trained = np.unique(stratum_g[~fresh_g]) if not fresh_g.all() else np.unique(stratum_g)
    left = min(int((fresh_g & (stratum_g == stratum)).sum()) for stratum in trained)
    if left >= LEAST_GROUPS:
        return None
    return f"{left} prompts are left that the run was not trained on, fewer than {LEAST_GROUPS}"


def _unfit(tail: float, samples: int, weight_g: np.ndarray) -> str | None:
    """Whether the weights cannot carry a mean."""
    bound = limit(samples)
    if not tail <= bound:
        return f"k-hat {tail:.2f} of the samples' weights is above {bound:.2f}"
    error = float(weight_g.std(ddof=1) / math.sqrt(len(weight_g)))
    if abs(weight_g.mean() - 1) > ERRORS * error + ROUNDING:
        return f"the mean weight is {weight_g.mean():.3f} ± {error:.3f} and not 1: is μ what was really sampled from?"
    return None


def _interval(
    mean_g: np.ndarray, correction_g: np.ndarray, fresh_g: np.ndarray, stratum_g: np.ndarray, *, seed: int
) -> tuple[float, float]:
    from scipy.stats import bootstrap

    if np.ptp(mean_g) == 0 and np.ptp(correction_g) == 0:
        return float(mean_g[0] + correction_g[0]), float(mean_g[0] + correction_g[0])
    found = bootstrap(
        (mean_g, correction_g, fresh_g, stratum_g),
        _total,
        paired=True,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="BCa",
        rng=np.random.default_rng(seed),
        batch=200,
    ).confidence_interval
    return float(found.low), float(found.high)
