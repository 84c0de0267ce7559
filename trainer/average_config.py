"""Settings of `python -m trainer.average`. Reads and writes nothing and imports no torch, so that `--help` stays light.

Refuses numbers outside their range, another kind, and models that the kind does not take."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from data.refusal import Refusal, in_range, nearest

COMMAND = "trainer.average"
KINDS = {"slerp": 2, "linear": 2, "soup": None, "liti": 1, "ema_anchor": None}  # how many models each takes
AROUND_START = frozenset({"slerp", "liti", "ema_anchor"})


@dataclass(frozen=True)
class AverageSettings:
    """Which weights become one model."""

    kind: str = MISSING
    """slerp (arc between a's and b's task vectors), linear, soup (mean of models), liti (a towards the start), ema_anchor."""
    a: str | None = None
    """run:NAME, a folder or a hub id."""
    b: str | None = None
    """The other model of slerp and linear."""
    models: list[str] = field(default_factory=list)
    """The models of soup and ema_anchor, in order."""
    weights: list[float] = field(default_factory=list)
    """soup: one number a model; empty: all alike."""
    t: float = 0.5
    """slerp, linear: 0 is a, 1 is b. liti: 0 is the start, 1 is a. ema_anchor: share of each model in turn."""
    start: str = "auto"
    """θ_0: what the runs were trained from (auto), run:NAME, a folder or a hub id."""
    run: str = MISSING
    """Name of the new model: runs/NAME/final."""
    lake: str = "data/lake"
    """Folder of the lake."""
    runs: str = "runs"
    """Folder of training runs."""

    def __post_init__(self) -> None:
        help_ = f"python -m {COMMAND} --help"
        if self.kind not in KINDS:
            raise Refusal(f"no kind named {self.kind!r}: {nearest(self.kind, KINDS)}", help_)
        in_range("t", self.t, 0, 1, command=COMMAND)
        wanted, given = KINDS[self.kind], len(self.parents)
        if given != wanted if wanted else given < 1:
            raise Refusal(f"kind={self.kind} takes {wanted or 'one or more'} models, {given} are given", help_)
        if self.weights and (self.kind != "soup" or len(self.weights) != given):
            raise Refusal(f"weights={self.weights}: one for each of the {given} models of a soup", help_)
        for weight in self.weights:
            in_range("weights", weight, 0, command=COMMAND)
        if self.weights and not sum(self.weights):
            raise Refusal("weights are all 0", help_)

    @property
    def parents(self) -> list[str]:
        """The models in order."""
        return [*(model for model in (self.a, self.b) if model), *self.models]
