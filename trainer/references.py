"""Other states of the policy that a step compares with: the reference of the KL, and the start of a block of steps (π_prox).

Holds copies of the trained parameters in memory; gives their log-probabilities of a step's own samples. The pool is never rescored.
`initial` is read from the lake, or is the model without its adapter. Source: MATH §4 (`decoupled`), §6."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.config import Reference
from trainer.optimiser import trained

PROX, REFERENCE = "prox", "reference"


@dataclass
class Copies:
    """Copies of the trained parameters by what they are for; empty where nothing is compared with."""

    settings: Reference = field(default_factory=Reference)
    wanted: frozenset[str] = frozenset()
    """prox, and reference where it is periodic or ema."""
    weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def before(self, model: torch.nn.Module, step: int) -> None:
        """Take the copies that are due before step `step` (from 1): all of them before the first."""
        due = {PROX: self.settings.block, REFERENCE: self.settings.every}
        for name in sorted(self.wanted):
            averaged = name == REFERENCE and self.settings.kind == "ema"
            if name not in self.weights or (not averaged and (step - 1) % due[name] == 0):
                self.weights[name] = {key: p.detach().clone() for key, p in trained(model).items()}

    @torch.no_grad()
    def after(self, model: torch.nn.Module) -> None:
        """θ_ref ← d·θ_ref + (1 − d)·θ after a step, where the reference is a running average."""
        if REFERENCE in self.weights and self.settings.kind == "ema":
            for name, parameter in trained(model).items():
                self.weights[REFERENCE][name].lerp_(parameter.detach(), 1 - self.settings.decay)

    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        for key, value in tensors.items():
            name, parameter = key.split("/", 1)
            self.weights.setdefault(name, {})[parameter] = value

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The copies by `name/parameter`, for a checkpoint."""
        return {f"{name}/{key}": value for name, copy in self.weights.items() for key, value in copy.items()}
