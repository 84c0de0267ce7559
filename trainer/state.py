"""All that a run is made of and all that changes while it goes on. Reads and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from trainer.config import TrainerRecipe
from trainer.distributed import World
from trainer.ema import Average
from trainer.forward import Policy
from trainer.guard import Guard
from trainer.journal import Run
from trainer.method import Method
from trainer.probe import Prober
from trainer.references import Copies
from trainer.replay import Documents, Group, SoftText, Text
from trainer.sources import Reading
from trainer.stop import Rule, Stopper
from trainer.stream import Stream


@dataclass
class Training:
    """One run in memory."""

    recipe: TrainerRecipe
    reading: Reading
    run: Run
    world: World
    policy: Policy
    optimiser: torch.optim.Optimizer
    average: Average | None
    method: Method
    prober: Prober | None
    stopper: Stopper
    steps: int
    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    best: tuple[float, int] | None = None
    """The highest value of checkpoint.best and its step."""
    groups: Stream[Group] | None = None
    answers: Stream[Text] | None = None
    documents: Documents | None = None
    soft: Stream[SoftText] | None = None
    copies: Copies = field(default_factory=Copies)
    guard: Guard = field(default_factory=lambda: Guard([]))
    beta: float | None = None
    """β where a controller steers it; None before its first step, or without one."""
    ended: Rule | None = None
    """The rule that ended the run, once it has."""
    latest: dict[str, float] = field(default_factory=dict)
    """The last metrics that were logged."""

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside tensors."""
        cursors = {"groups": self.groups, "answers": self.answers, "documents": self.documents, "soft": self.soft}
        return {
            "seconds": self.seconds,
            "tokens": self.tokens,
            "best": self.best,
            "ended": None if self.ended is None else self.stopper.rules.index(self.ended),
            "beta": self.beta,
            "guard": {"active": self.guard.active},
            "stop": {"counts": self.stopper.counts, "best": self.stopper.best},
            "cursors": {name: stream.state for name, stream in cursors.items() if stream is not None},
        }
