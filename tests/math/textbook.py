"""Surrogates of off-policy and teacher-following methods as their papers write them, in plain Python loops.

Each is a function of log π (a list or tensor [sample][token]) whose gradient must be the coefficient; whatever the method stops the
gradient of is a float taken from the case. They share no line with trainer/."""

from __future__ import annotations

import math
from statistics import fmean


def exp(x):
    return x.exp() if hasattr(x, "exp") else math.exp(x)


def samples(case):
    """Samples with a token in the loss."""
    return [j for j in range(len(case.group)) if case.tokens(j)]


def rho(case, j, t) -> float:
    return math.exp(case.logprobs[j, t] - case.behaviour[j, t])


def anchor(case, j, t) -> float:
    return case.behaviour[j, t] if case.old is None else case.old[j, t]


def cap_of(value, cap) -> float:
    return value if cap is None else min(value, cap)


def decoupled(case, logp, settings):
    """Σ sg(min(π_prox/μ, C))·min(ρ'A, clip(ρ')A), ρ' = π/π_prox (Hilton et al. 2021)."""
    low = -math.inf if settings.clip_low is None else 1 - settings.clip_low
    high = math.inf if settings.clip_high is None else 1 + settings.clip_high
    total = 0.0
    for j in samples(case):
        for t in case.tokens(j):
            weight = cap_of(math.exp(case.prox[j, t] - case.behaviour[j, t]), settings.mismatch_cap)
            ratio, a = exp(logp[j][t] - case.prox[j, t]), float(case.advantage[j])
            clipped = low if ratio < low else high if ratio > high else ratio
            total = total + weight * min(ratio * a, clipped * a)
    return total


def gspo(case, logp, settings):
    """Σ_j T_j·m_j·min(s_j A, clip(s_j)A), s_j = (π(y)/π_old(y))^{1/T} (Zheng et al. 2025); T_j undoes the aggregation."""
    total = 0.0
    for j in samples(case):
        tokens, a = case.tokens(j), float(case.advantage[j])
        s = exp(sum(logp[j][t] - anchor(case, j, t) for t in tokens) / len(tokens))
        m = math.exp(fmean(anchor(case, j, t) - case.behaviour[j, t] for t in tokens))
        held = s
        if settings.gspo.high is not None and a > 0 and s > 1 + settings.gspo.high:
            held = 1 + settings.gspo.high
        if settings.gspo.low is not None and a < 0 and s < 1 - settings.gspo.low:
            held = 1 - settings.gspo.low
        total = total + len(tokens) * cap_of(m, settings.mismatch_cap) * held * a
    return total


def cispo(case, logp, settings):
    """Σ sg(m·min(ρ', 1+ε_h))·A·log π (MiniMax 2025)."""
    total = 0.0
    for j in samples(case):
        for t in case.tokens(j):
            m = cap_of(math.exp(anchor(case, j, t) - case.behaviour[j, t]), settings.mismatch_cap)
            high = None if settings.clip_high is None else 1 + settings.clip_high
            weight = cap_of(math.exp(case.logprobs[j, t] - anchor(case, j, t)), high)
            total = total + m * weight * float(case.advantage[j]) * logp[j][t]
    return total


def mis(case, logp, settings):
    """Σ sg(ρ·1[low ≤ ratio ≤ high])·A·log π, the ratio the token's, or the sample's geometric mean."""
    total = 0.0
    for j in samples(case):
        mean = math.exp(fmean(case.logprobs[j, t] - case.behaviour[j, t] for t in case.tokens(j)))
        for t in case.tokens(j):
            gate = rho(case, j, t) if settings.mis.unit == "token" else mean
            if settings.mis.low <= gate <= settings.mis.high:
                total = total + rho(case, j, t) * float(case.advantage[j]) * logp[j][t]
    return total


def m2po(case, logp, settings):
    """Σ ρ·A·log π without the tokens of largest (log ρ)², dropped one by one until the mean of the others is at most the limit."""
    squares = sorted(
        ((case.logprobs[j, t] - case.behaviour[j, t]) ** 2, j, t) for j in samples(case) for t in case.tokens(j)
    )
    while squares and fmean(square for square, _, _ in squares) > settings.m2_limit:
        squares.pop()
    total = 0.0
    for _, j, t in squares:
        total = total + rho(case, j, t) * float(case.advantage[j]) * logp[j][t]
    return total


def asymre(case, logp, settings):
    """Σ_j (r_j − (r̄ − δ))·log π(y_j) (Arnal et al. 2025)."""
    total = 0.0
    for j in samples(case):
        for t in case.tokens(j):
            total = total + (case.reward[j] - (case.baseline[j] - settings.delta)) * logp[j][t]
    return total


def log_ratio(case, logp, j):
    """log π(y)/π_ref(y)."""
    return sum(logp[j][t] - case.reference[j, t] for t in case.tokens(j))


def kimi(case, logp, settings):
    """−(1/2τ)·Σ_j (r_j − r̄ − τ·log π(y_j)/π_ref(y_j))² (Kimi k1.5, 2025, eq. 3 with r̄ for τ·log Z)."""
    return sum(
        -((case.reward[j] - case.baseline[j] - settings.tau * log_ratio(case, logp, j)) ** 2) / (2 * settings.tau)
        for j in samples(case)
    )


def tb_vargrad(case, logp, settings):
    """−(1/2τ)·Σ_j (u_j − ū)², u = r − τ·log π/π_ref: the variance of the trajectory-balance residual (Bartoldson et al. 2025)."""
    total = 0.0
    for group in sorted(set(case.group)):
        members = [j for j in samples(case) if case.group[j] == group]
        u = {j: case.reward[j] - settings.tau * log_ratio(case, logp, j) for j in members}
        mean = sum(u.values()) / len(members) if members else 0.0
        total = total + sum(-((u[j] - mean) ** 2) / (2 * settings.tau) for j in members)
    return total


def astar_po(case, logp, settings):
    """−(1/2τ)·Σ_j (r_j − V* − τ·log π/π_ref)², V* = τ·log mean exp(r/τ) over the group (Brantley et al. 2025)."""
    total = 0.0
    for group in sorted(set(case.group)):
        members = [j for j in samples(case) if case.group[j] == group]
        if members:
            value = settings.tau * math.log(fmean(math.exp(case.reward[j] / settings.tau) for j in members))
            total = total + sum(
                -((case.reward[j] - value - settings.tau * log_ratio(case, logp, j)) ** 2) / (2 * settings.tau)
                for j in members
            )
    return total


def opd(case, logp, settings):
    """Σ sg(min(ρ, C)·decay^t·(log p − log π))·log π over the first tokens that are not special."""
    rules, total = settings.teacher, 0.0
    for j in samples(case):
        for t in case.tokens(j):
            if (rules.mask_special and case.special[j, t]) or (rules.horizon is not None and t >= rules.horizon):
                continue
            weight = cap_of(rho(case, j, t), rules.cap) * rules.decay**t
            total = total + weight * (case.teacher[j, t] - case.logprobs[j, t]) * logp[j][t]
    return total


def minillm(case, logp, settings):
    """Σ sg(min(ρ, C)·[(log p − log π) + R])·log π, R the mean of the discounted rewards that follow (Gu et al. 2024, eq. 3-7)."""
    rules = settings.teacher
    drawn = case.behaviour if case.old is None else case.old
    long, total = {}, 0.0
    for j in samples(case):
        tokens = case.tokens(j)
        for place, t in enumerate(tokens):
            after = tokens[place:] if rules.variant == "lmops" else tokens[place + 1 :]
            base = drawn if rules.variant == "lmops" else case.logprobs
            rewards = [rules.gamma**k * (case.teacher[j, u] - base[j, u]) for k, u in enumerate(after)]
            long[j, t] = sum(rewards) / len(rewards) if rewards else 0.0
    if rules.variant == "lmops":
        mean = fmean(long.values())
        deviation = math.sqrt(fmean((value - mean) ** 2 for value in long.values()) + 1e-8)
        long = {key: (value - mean) / deviation for key, value in long.items()}
    for (j, t), value in long.items():
        # the other forms of the token's own part are no function of the drawn token alone: tests/trainer/test_pool_soft.py
        short = case.teacher[j, t] - case.logprobs[j, t] if rules.single == "observed" else 0.0
        total = total + cap_of(rho(case, j, t), rules.cap) * (short + value) * logp[j][t]
    return total


SURROGATES = {
    "decoupled": decoupled, "gspo": gspo, "cispo": cispo, "mis": mis, "m2po": m2po, "asymre": asymre, "kimi": kimi,
    "tb_vargrad": tb_vargrad, "astar_po": astar_po, "opd": opd, "minillm": minillm,
}  # fmt: skip
