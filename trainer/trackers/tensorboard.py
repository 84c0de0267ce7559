"""TensorBoard: event files in runs/NAME/tensorboard, by torch's own writer. A resumed run overwrites what it trains again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from trainer.trackers import Tracked


class TensorBoard:
    """A writer of event files."""

    def __init__(self, folder: Path, purge: int | None):
        from torch.utils.tensorboard import SummaryWriter

        self.where = f"tensorboard --logdir {folder.parent.parent}"
        self.writer = SummaryWriter(str(folder), purge_step=purge)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A scalar a metric."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self, status: str) -> None:
        """Write what is buffered."""
        self.writer.add_text("status", status)
        self.writer.close()


def open(run: Tracked) -> TensorBoard:
    """Event files beside the run's others."""
    tracker = TensorBoard(run.folder / "tensorboard", run.done + 1 if run.resumed else None)
    recipe = json.dumps(run.recipe, indent=1, ensure_ascii=False)
    tracker.writer.add_text("recipe", f"```json\n{recipe}\n```")
    return tracker
