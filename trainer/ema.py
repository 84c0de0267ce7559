"""A running average of the weights: kept beside the model, put in its place to be probed and saved.

w̄ ← d·w̄ + (1 − d)·w after every step, from the starting weights on, in float32 (Polyak & Juditsky 1992; MATH §10)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from trainer.fsdp import placed
from trainer.optimiser import trained


class Average:
    """The average by parameter name."""

    def __init__(self, model: torch.nn.Module, decay: float):
        self.decay = decay
        self.weights = {name: p.detach().to(torch.float32, copy=True) for name, p in trained(model).items()}

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """One step of the average."""
        for name, parameter in trained(model).items():
            self.weights[name].mul_(self.decay).add_(parameter.detach().float(), alpha=1 - self.decay)


@contextmanager
def replaced(model: torch.nn.Module, weights: dict[str, Tensor] | None) -> Iterator[None]:
    """The model with other weights for a while; None leaves it as it is. Its own come back bit by bit."""
    if weights is None:
        yield
        return
    own = {name: p.detach().clone() for name, p in trained(model).items()}
    load(model, weights)
    try:
        yield
    finally:
        load(model, own)


@torch.no_grad()
def load(model: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights into the model's own tensors."""
    for name, parameter in trained(model).items():
        value = weights[name]
        parameter.copy_(value if type(value) is type(parameter.data) else placed(value, parameter))
