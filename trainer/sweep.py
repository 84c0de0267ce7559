"""A sweep before its first job and after its last: what can be refused without the disk, and the table of its runs.

Reads recipes, then runs/NAME. Refuses one name for several jobs, objectives, rules and trackers that do not exist."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from data.jobs import Job
from data.refusal import Refusal
from data.typed import again, key_of
from trainer.config import TrainerSettings
from trainer.journal import Run, read_metrics, refuse_unknown

PLAIN = re.compile(r"[\w.\-]+")  # values that may stand in a run's name
ROOTS = ("seed", "policy", "pool")  # plain keys of the recipe; the trainer's own lie in its section
FIGURES = ("reward/weighted", "loss/bc", "loss/pt")  # shown where a run has no probe


def check_jobs(jobs: Sequence[Job]) -> None:
    """Refuse what any job of a sweep would be refused for, as far as the recipes alone say it."""
    from trainer.guard import parse_guard
    from trainer.objectives import parse_objective
    from trainer.stop import parse
    from trainer.trackers import check

    _refuse_one_name(jobs)
    for job in jobs:
        settings = job.recipe.trainer
        refuse_unknown(job.recipe)
        parse_objective(settings.objective)
        parse(settings.stop)
        parse_guard(settings.probe.guard)
        check(job.recipe.trackers)


def _refuse_one_name(jobs: Sequence[Job]) -> None:
    """A run is one training: jobs that share a name would be refused one by one, after the first has trained."""
    names = Counter(job.recipe.trainer.resume or job.recipe.trainer.run for job in jobs)
    for name, times in names.items():
        if name is not None and times > 1:
            raise Refusal(
                f"run={name} is the name of {times} jobs of this sweep; a name belongs to one run", _named(jobs, name)
            )


def _named(jobs: Sequence[Job], name: str) -> str:
    """The same sweep under names that differ: by the values swept, where these are plain, else RECIPE-HASH8 of each job."""
    keys = [key_of(word) for word in jobs[0].swept]
    own = set(TrainerSettings.__dataclass_fields__)
    places = [f"trainer.{key}" if key in own else key for key in keys if key in own or key in ROOTS]
    plain = all(PLAIN.fullmatch(word.partition("=")[2]) for job in jobs for word in job.swept)
    parts = "-".join(f"${{{place}}}" for place in places)
    given = [f"run={name}-{parts}"] if plain and len(places) == len(keys) else []
    command = again("trainer", jobs[0].recipe.name, given, ("run", "resume"))
    return command.replace("python -m trainer", "python -m trainer -m", 1)


def closing(jobs: Sequence[Job], runs: Sequence[Run]) -> str:
    """One line a run: its name, its overrides, its last figures, its seconds."""
    rows = [("run", "overrides", "last figures", "seconds")]
    for job, run in zip(jobs, runs, strict=True):
        seconds = (run.record or {}).get("seconds")
        rows.append((run.name, job.told, _figures(run), "" if seconds is None else f"{seconds:.1f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)) for row in rows]
    return "\n".join(["", *(f"{line}  {row[3]:>8}" for line, row in zip(lines, rows, strict=True))])


def _figures(run: Run) -> str:
    """The last probe, else the last step's losses; a run without a step has none."""
    lines = read_metrics(run)
    for wanted in (lambda name: name.startswith("probe/"), lambda name: name in FIGURES):
        for line in reversed(lines):
            if found := [f"{name} {value:.4g}" for name, value in line.items() if wanted(name)]:
                return "  ".join(found)
    return ""
