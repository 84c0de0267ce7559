"""Weights & Biases: a run in the project of the recipe's name, or of WANDB_PROJECT; WANDB_MODE=offline keeps it in runs/NAME/wandb.

Sends the metrics and the recipe: not the command line, the environment, the source or what is printed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from trainer.trackers import Tracked


class Wandb:
    """A run there."""

    def __init__(self, run: Any):
        self.run = run
        self.where = run.url or f"wandb sync {run.dir.removesuffix('/files')}"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A row of its history. It takes no step twice, and a resumed run repeats the same figures."""
        self.run.log(dict(values), step=step)

    def close(self, status: str) -> None:
        """The status as summary; anything unfinished shows as failed until it is resumed."""
        self.run.summary["status"] = status
        self.run.finish(exit_code=1 if status == "unfinished" else 0)


def open(run: Tracked) -> Wandb:
    """Begin the run, or go on with the one of the same id."""
    import wandb

    settings = wandb.Settings(
        console="off",
        silent=True,
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    begun = wandb.init(
        project=os.environ.get("WANDB_PROJECT", run.project),
        id=run.id,
        name=run.name,
        dir=str(run.folder),
        config=dict(run.recipe),
        resume="allow",
        settings=settings,
    )
    return Wandb(begun)
