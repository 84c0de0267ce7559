"""What a measurement is: a figure beside its goal, and how wall, CPU seconds and memory are taken.

Nothing here is asserted; `run.py` prints what was measured."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REPETITIONS = 5


@dataclass(frozen=True)
class Figure:
    """One line of the table. `goal` is the largest (or, with `at_least`, the smallest) value that was asked for."""

    what: str
    value: float
    goal: float | None
    """None: measured, nothing asked for."""
    unit: str = ""
    at_least: bool = False
    beside: str = ""

    @property
    def reached(self) -> bool:
        """Whether the goal was met in this run."""
        if self.goal is None:
            return True
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def row(self) -> str:
        """A row of the Markdown table."""
        sign = "≥" if self.at_least else "≤"
        goal = "–" if self.goal is None else f"{sign} {self.goal:.3g} {self.unit}"
        verdict = "" if self.goal is None else "reached" if self.reached else "**missed**"
        return f"| {self.what} | {self.value:.3g} {self.unit} | {goal} | {verdict} | {self.beside} |"


@dataclass(frozen=True)
class Options:
    """What the long measurements can be told: `run.py --help`."""

    layers: int = 30
    repetitions: int = REPETITIONS
    shapes: tuple[str, ...] = ()
    device: str = "cpu"
    dtype: str = "float32"
    fresh: bool = False
    python: str = ""
    """The interpreter of TRL's environment."""


def interleaved(
    variants: Mapping[str, Callable[[], None]], repetitions: int = REPETITIONS
) -> dict[str, tuple[float, float]]:
    """Median (wall, CPU) seconds of each variant: one warm-up each, then A B A B …, so that drift hits both alike."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for round_ in range(repetitions + 1):
        for name, run in variants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if round_:
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: (statistics.median(w for w, _ in times), statistics.median(c for _, c in times))
        for name, times in taken.items()
    }


def in_child(script: str, *arguments: str, python: str = sys.executable, loud: bool = False) -> Any:
    """The JSON that a script of this folder prints when it is run alone: peaks of memory are not shared with others.

    python: another environment's interpreter. loud: the child's progress goes to our own standard error."""
    command = [python, str(Path(__file__).parent / script), *arguments]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=None if loud else subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    if done.returncode:
        told = f"{script} {' '.join(arguments)}"
        raise RuntimeError(f"{told} ended with code {done.returncode}:\n{(done.stderr or '')[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def resident() -> int:
    """Bytes of memory this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def reset_peak() -> None:
    """Forget the largest memory held so far (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Largest memory held since `reset_peak`, in bytes (Linux)."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
