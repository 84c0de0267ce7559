"""trackio: a run in the project of the recipe's name, in trackio's folder on this machine; TRACKIO_DIR names another.

Sends the metrics and the recipe; what the machine does beside them is not measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.trackers import Tracked


class Trackio:
    """A run there."""

    def __init__(self, run: Any, project: str, known: int):
        self.run, self.known = run, known
        self.where = f"trackio show --project {project}"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A row; a step that the resumed run had before is passed over, since trackio would hold it twice."""
        if step >= self.known:
            self.run.log(dict(values), step=step)

    def close(self, status: str) -> None:
        """Send what is buffered."""
        import trackio

        trackio.finish()  # the run's own `finish` would leave one that the interpreter's exit finishes again, and says so


def open(run: Tracked) -> Trackio:
    """Begin a run, or go on with the newest of its name."""
    import trackio

    begun = trackio.init(
        project=run.project,
        name=run.name,
        config=dict(run.recipe),
        resume="allow" if run.resumed else "never",
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    known = getattr(begun, "_next_step", 0) if run.resumed else 0  # no public name says which step comes next
    return Trackio(begun, run.project, known)
