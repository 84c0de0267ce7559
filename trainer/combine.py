"""How weights are averaged: one function a way, tensors in, a float32 tensor out.

Knows no files. Sources: MATH §10; Wortsman et al. 2022 (soup, arXiv 2203.05482); Ramé et al. 2024 (WARP, arXiv 2406.16768): EMA as
anchor, SLERP of task vectors δ = θ − θ_0, interpolation towards the start (LITI)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TINY = 1e-4  # of sin Ω: below it float32 cannot tell the arc from its chord


def linear(a: Tensor, b: Tensor, t: float) -> Tensor:
    """(1 − t)·a + t·b, at the ends exactly a and b."""
    return a.float().clone() if t == 0 else b.float().clone() if t == 1 else torch.lerp(a.float(), b.float(), t)


def slerp(a: Tensor, b: Tensor, start: Tensor, t: float) -> Tensor:
    """θ_0 + [sin((1−t)Ω)·δ_a + sin(tΩ)·δ_b] / sin Ω, Ω the angle between the tensors' task vectors (WARP eq. 4).

    Linear where Ω is tiny or π, or a task vector is 0: no arc is told apart there."""
    delta_a, delta_b = a.float() - start.float(), b.float() - start.float()
    norms = delta_a.norm() * delta_b.norm()
    if t in (0, 1) or norms == 0:
        return linear(a, b, t)
    cosine = ((delta_a * delta_b).sum() / norms).double().clamp(-1, 1)
    angle = torch.arccos(cosine)
    if torch.sin(angle) < TINY:
        return linear(a, b, t)
    share_a, share_b = (torch.sin(part * angle) / torch.sin(angle) for part in (1 - t, t))
    return start.float() + share_a.float() * delta_a + share_b.float() * delta_b


def soup(models: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ w_i θ_i / Σ w_i."""
    total = sum(weights)
    result = torch.zeros_like(models[0], dtype=torch.float32)
    for model, weight in zip(models, weights, strict=True):
        result += model.float() * (weight / total)
    return result


def towards_start(a: Tensor, start: Tensor, t: float) -> Tensor:
    """θ_0 + t·δ: LITI (WARP eq. 5), t = 1 is the model, 0 the start."""
    return linear(start, a, t)


def anchor(models: Sequence[Tensor], start: Tensor, t: float) -> Tensor:
    """w̄_k = (1 − t)·w̄_{k−1} + t·θ_k over the models in order, w̄_0 = θ_0: an EMA of rounds."""
    average = start.float().clone()
    for model in models:
        average = linear(average, model, t)
    return average


def combined(kind: str, models: Sequence[Tensor], start: Tensor | None, t: float, weights: Sequence[float]) -> Tensor:
    """One tensor of the average, float32. `start` is not None for kinds that ask for it. ValueError for another kind."""
    if kind == "linear":
        return linear(models[0], models[1], t)
    if kind == "soup":
        return soup(models, weights)
    if start is None:
        raise ValueError(f"{kind} is an average around a start, or no kind at all; no start was given")
    if kind == "slerp":
        return slerp(models[0], models[1], start, t)
    if kind == "liti":
        return towards_start(models[0], start, t)
    if kind == "ema_anchor":
        return anchor(models, start, t)
    raise ValueError(f"kind is {kind!r}; known: slerp, linear, soup, liti, ema_anchor")
