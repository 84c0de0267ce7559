"""The jobs of a command line: one, or all combinations of a sweep, each with its recipe and the words that make it.

Reads what Hydra composed. A sweep says which of its overrides a job has before the job begins, and one table when all are done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.typed import key_of


@dataclass(frozen=True)
class Job:
    """One recipe to run."""

    recipe: Any
    words: tuple[str, ...]
    """Overrides as typed, with this job's values."""
    swept: tuple[str, ...] = ()
    """Those of them that differ between the jobs."""

    @property
    def told(self) -> str:
        """Its own overrides in one line."""
        return " ".join(self.swept)


def jobs_of(made: Sequence[tuple[Any, Sequence[str]]], typed: Sequence[str], prepared: Sequence[str]) -> list[Job]:
    """Jobs from (recipe, Hydra's words of it). typed: overrides as the user gave them; prepared: the same as Hydra was given them.

    >>> made = [("r", ["++trainer.steps=1"]), ("s", ["++trainer.steps=2"])]
    >>> [job.words for job in jobs_of(made, ["steps=1,2"], ["++trainer.steps=1,2"])]
    [('steps=1',), ('steps=2',)]
    """
    values = [dict(word.partition("=")[::2] for word in words) for _, words in made]
    differ = {key for one in values for key in one if len({other.get(key) for other in values}) > 1}
    jobs = []
    for (recipe, _), own in zip(made, values, strict=True):
        words = [
            (f"{key_of(word)}={own[key]}" if key in differ else word, key in differ)
            for word, key in zip(typed, map(key_of, prepared), strict=True)
        ]
        jobs.append(Job(recipe, tuple(w for w, _ in words), tuple(w for w, swept in words if swept)))
    return jobs


def first_process() -> bool:
    """Whether this process prints: under torchrun the first of them does."""
    return os.environ.get("RANK", "0") == "0"
