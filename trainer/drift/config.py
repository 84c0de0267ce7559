"""Settings of `python -m trainer.drift`. Reads and writes nothing and imports no torch, so that `--help` stays light."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from data.refusal import in_range


@dataclass(frozen=True)
class DriftSettings:
    """Which run is compared with which pool."""

    run: str = MISSING
    """Name of the run: its final weights, or its newest checkpoint."""
    groups: int = 512
    """Groups of the pool that are scored; the choice is always the same."""
    lake: str = "data/lake"
    """Folder of the lake."""
    runs: str = "runs"
    """Folder of training runs."""

    def __post_init__(self) -> None:
        in_range("groups", self.groups, 1, command="trainer.drift")
