"""What a person sees of a running training: a bar with rate and time left, or a line now and then where no terminal is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

LINES = 10  # progress lines of a run without a terminal
SHOWN = (
    *("loss/bc", "loss/pt", "loss/soft"),
    *("reward/pool", "reward/weighted"),  # of the step's samples: as they were drawn, and as the policy now weighs them
    *("kl_k3", "drift/token_kl", "drift/sequence_ess"),  # to the reference (where there is a leash), to the pool
)


class Show(Protocol):
    """Called after each step."""

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show a step."""


def describe(step: int, steps: int, metrics: Mapping[str, float]) -> str:
    """A step in one line: losses, rewards, KL and drift, every probe figure, rate."""
    names = [*(name for name in SHOWN if name in metrics), *(name for name in metrics if name.startswith("probe"))]
    parts = [f"{name} {metrics[name]:.4g}" for name in names]
    return f"step {step}/{steps}  {'  '.join(parts)}  {metrics['tokens_per_second']:,.0f} tokens/s"


@contextmanager
def progress(name: str, done: int, steps: int, visible: bool) -> Iterator[Show]:
    """A bar on a terminal; else about ten lines, and one for each probe."""
    if not visible:
        yield lambda step, metrics: None
    elif not sys.stdout.isatty():
        yield lambda step, metrics: _line(step, steps, metrics)
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[figures]}")) as bar:
            task = bar.add_task(name, total=steps, completed=done, figures="")

            def show(step: int, metrics: Mapping[str, float]) -> None:
                bar.update(task, completed=step, figures=describe(step, steps, metrics).split("  ", 1)[1])

            yield show


def _line(step: int, steps: int, metrics: Mapping[str, float]) -> None:
    if any(name.startswith("probe") for name in metrics) or step % max(1, steps // LINES) == 0 or step == steps:
        print(describe(step, steps, metrics), flush=True)
