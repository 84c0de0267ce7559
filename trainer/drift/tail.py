"""How heavy the tail of importance weights is: the shape k of a generalised Pareto fitted to the largest of them.

Reads log-weights. Writes nothing. Source: Vehtari et al. 2024, "Pareto smoothed importance sampling" (arXiv 1507.02646)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from data.verdict import K_HAT

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 25  # the tail is a fifth of a small sample, and a fit wants five values
# differences below this are the rounding of stored log-probabilities (MATH §11), and their tail says nothing
ROUNDING = 1e-3


def k_hat(log_weights: Tensor | np.ndarray) -> float:
    """k of the tail of w, from log w (n,) in nats: moments of w above 1/k are infinite.

    −inf where all weights are equal up to rounding (there is no tail); NaN for fewer than 25 weights, or where one is not
    finite. About a millisecond for 10,000."""
    values: Any = log_weights
    log_n = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, np.float64).ravel()
    if len(log_n) < LEAST or not np.isfinite(log_n).all():
        return math.nan
    if np.ptp(log_n) < ROUNDING:
        return -math.inf
    from arviz_stats.base import array_stats

    # samples that repeat have equal weights, and the fit divides by a quantile of differences: moved within their rounding
    log_n = log_n + np.random.default_rng(0).uniform(0, ROUNDING, len(log_n))
    return float(
        array_stats.psislw(-log_n)[1]
    )  # the package is handed log-likelihoods, whose weights are their inverse


def limit(n: int) -> float:
    """The largest k-hat under which a mean of n weights is to be believed: min(1 − 1/log10 n, .7) (§3.2.4 there)."""
    return min(1 - 1 / math.log10(n), K_HAT) if n > 10 else -math.inf
