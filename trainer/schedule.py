"""What changes from step to step: weights of the loss terms and the learning rate. Pure functions of the step.

Reads settings. Refuses lines and phases that are not understood. Steps count from 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from data.refusal import Refusal, nearest
from trainer.config import Losses, Optimiser

TERMS = ("rl", "bc", "pt", "kl", "soft")
TRAINABLE = ("all", "embeddings")
_NEXT = "python -m trainer --help"


@dataclass(frozen=True)
class Weights:
    """λ of one step. kl is 0 where rl is 0: the leash acts on the step's samples."""

    rl: float
    bc: float
    pt: float
    kl: float
    soft: float = 0.0

    @property
    def any(self) -> bool:
        """Whether the step trains anything: the leash alone does not."""
        return bool(self.rl or self.bc or self.pt or self.soft)

    def with_(self, changes: Mapping[str, float]) -> Weights:
        """Other weights in place of these; the leash still acts only where rl does."""
        changed = replace(self, **changes)
        return changed if changed.rl else replace(changed, kl=0.0)


def line(name: str, value: Any, step: int) -> float:
    """A weight at a step: the number itself, or {from, to, steps} linearly from step 1 on.

    >>> [line("kl", {"from": 1.0, "to": 0.0, "steps": 2}, step) for step in (1, 2, 3, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """
    if isinstance(value, Mapping):
        if set(value) != {"from", "to", "steps"}:
            raise Refusal(f"losses.{name}={dict(value)}: a line has the keys from, to and steps", _NEXT)
        start, end = _number(name, value["from"]), _number(name, value["to"])
        share = min((step - 1) / max(_number(name, value["steps"]), 1), 1.0)
        return start + share * (end - start)
    return _number(name, value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise Refusal(f"losses.{name}={value}: a number of at least 0 is asked for, or {{from, to, steps}}", _NEXT)
    return float(value)


def weights(losses: Losses, step: int) -> Weights:
    """The weights of a step: those of its phase, a line in a phase counting from the phase's first step.

    After the last phase the section's own weights hold, or, with `cycle`, the phases begin again."""
    step, phase = _phase_at(losses, step)
    own: dict[str, Any] = {name: phase.get(name, getattr(losses, name)) for name in TERMS}
    values = {name: line(name, value, step) for name, value in own.items()}
    return Weights(values["rl"], values["bc"], values["pt"], values["kl"] if values["rl"] else 0.0, values["soft"])


def trainable(losses: Losses, step: int) -> str:
    """What moves in a step: all, or embeddings (input and output), where the phase says so.

    >>> [trainable(Losses(phases=[{"steps": 2, "trainable": "embeddings"}]), step) for step in (1, 2, 3)]
    ['embeddings', 'embeddings', 'all']
    """
    return str(_phase_at(losses, step)[1].get("trainable", "all"))


def _phase_at(losses: Losses, step: int) -> tuple[int, dict[str, Any]]:
    """(the step counted from its phase's first, what the phase says); behind the last phase nothing is said."""
    phases = [_phase(dict(phase)) for phase in losses.phases]
    length = sum(steps for steps, _ in phases)
    if losses.cycle and length:
        step = (step - 1) % length + 1
    for steps, says in phases:
        if step <= steps:
            return step, says
        step -= steps
    return step, {}


def _phase(phase: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """(steps, weights and what moves) of one phase."""
    steps = int(_number("phases.steps", phase.pop("steps", None)))
    moves = phase.get("trainable", "all")
    if moves not in TRAINABLE:
        raise Refusal(f"losses.phases: trainable={moves} is none of {', '.join(TRAINABLE)}", _NEXT)
    for key in phase:
        if key not in (*TERMS, "trainable"):
            raise Refusal(f"losses.phases: no term named {key!r}: {nearest(str(key), TERMS)}", _NEXT)
    return steps, phase


def ever(losses: Losses, steps: int) -> dict[str, bool]:
    """Whether each term has a weight above 0 in any of the steps: what the run needs from the lake."""
    found = dict.fromkeys(TERMS, False)
    for step in range(1, steps + 1):
        now = weights(losses, step)
        found = {name: found[name] or getattr(now, name) > 0 for name in TERMS}
    return found


def learning_rate(settings: Optimiser, step: int, steps: int) -> float:
    """The rate of a step: linear warm-up, then constant, linear or cosine down to `final` of it at the last step.

    >>> [learning_rate(Optimiser(lr=1.0, warmup=2, schedule="linear", final=0.5), s, 4) for s in (1, 2, 3, 4)]
    [0.5, 1.0, 0.75, 0.5]
    """
    if step <= settings.warmup:
        return settings.lr * step / settings.warmup
    share = (step - settings.warmup) / max(steps - settings.warmup, 1)
    if settings.schedule == "linear":
        return settings.lr * (1 - (1 - settings.final) * share)
    if settings.schedule == "cosine":
        return settings.lr * (settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * share)))
    return settings.lr
