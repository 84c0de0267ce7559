"""Settings of `python -m trainer.rounds`, and who reads which of the recipe's keys.

Reads and writes nothing and imports no torch, so that `--help` stays light. Refuses numbers outside their range."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from data.refusal import in_range

COMMAND = "trainer.rounds"


@dataclass(frozen=True)
class RoundsSettings:
    """How often factory and trainer take turns."""

    rounds: int = MISSING
    """Most rounds: each samples from the last policy, scores and trains."""
    metric: str | None = None
    """What must go on improving, e.g. probe/exact; higher is better; null: the probe's own first component, if it has one."""
    patience: int = 1
    """Rounds without a new best value of the metric after which no further one is begun."""
    run: str | None = None
    """Runs are called RUN-round1, RUN-round2 …; null: the recipe's name."""

    def __post_init__(self) -> None:
        in_range("rounds", self.rounds, 1, command=COMMAND)
        in_range("patience", self.patience, 1, command=COMMAND)
