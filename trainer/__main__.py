"""`python -m trainer recipe=R`: trains a student from the lake's tables. No teacher is loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.command import Command
from data.jobs import Job
from data.settings import constructed
from trainer.config import TrainerRecipe

if TYPE_CHECKING:
    from trainer.journal import Run


def body(recipe: TrainerRecipe) -> Run:
    """Train one run; torch is imported here, so that --help answers at once."""
    from trainer.loop import train

    return train(recipe)


def check(jobs: Sequence[Job]) -> None:
    """Refuse a sweep that could not end."""
    from trainer.sweep import check_jobs

    check_jobs(jobs)


def closing(jobs: Sequence[Job], runs: Sequence[Run]) -> str:
    """The table of a sweep's runs."""
    from trainer import sweep

    return sweep.closing(jobs, runs)


def objectives() -> dict[str, list[str]]:
    """The names of the objectives, as their rows have them; importing those would import torch."""
    rows = Path(__file__).parent / "objectives" / "__init__.py"
    heading = "Objectives (objective=NAME, or a sum such as objective={seq_tis: 1, opd: 0.1}; docs/how-objective.md)"
    return {heading: constructed(rows, "Objective")}


COMMAND = Command(
    "trainer",
    TrainerRecipe,
    body,
    "Train a student from cached groups, answers and documents. The teacher is never loaded.",
    (
        "python -m trainer recipe=demo",
        "python -m trainer recipe=demo 'reward=agreement - 0.1*length' run=short",
        "python -m trainer recipe=demo objective=grpo losses.bc=0 losses.pt=0 losses.kl=0 clip.clip_low=null clip.clip_high=null",
        "python -m trainer -m recipe=demo objective=grpo,seq_tis seed=1,2",
        "python -m trainer recipe=demo resume=NAME",
        "torchrun --nproc-per-node 2 -m trainer recipe=demo",
    ),
    names=objectives,
    check=check,
    closing=closing,
    goes_on=("reuse=true",),
)

if __name__ == "__main__":
    sys.exit(COMMAND.main(sys.argv[1:]))
