"""A training that is killed by SIGKILL at a random moment, again and again, ends as the undisturbed one."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
KILLS = 3
OVERRIDES = [
    "steps=40",
    "objective=seq_tis",
    "losses.bc=0.5",
    "losses.pt=0.2",
    "replay.bc=teacher",
    "replay.prompts=3",
    "optimiser.lr=1e-3",
    "optimiser.ema=0.9",
    "checkpoint.every=3",
]


def lines(made: Any, run: str) -> list[dict[str, float]]:
    text = (Path(made.recipe.runs) / run / "metrics.jsonl").read_text(encoding="utf-8")
    return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_second"} for line in text.splitlines()]


def ended_once(made: Any, overrides: list[str], delay: float, by: signal.Signals) -> tuple[int, str]:
    """Start the run, send it a signal `delay` seconds after its first metric; its exit code and what it said."""
    path = Path(made.recipe.runs) / "cut" / "metrics.jsonl"
    before = path.stat().st_size if path.is_file() else 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        made.command(*overrides),
        env=environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and (not path.is_file() or path.stat().st_size <= before):
        before = min(before, path.stat().st_size if path.is_file() else 0)  # a resume cuts the file first
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(by)
    _, said = process.communicate()
    return process.returncode, said


def killed_once(made: Any, overrides: list[str], delay: float) -> bool:
    """Start the run and kill it; False if it ended before."""
    code, said = ended_once(made, overrides, delay, signal.SIGKILL)
    assert code in (0, -signal.SIGKILL), said
    return code != 0


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes_and_no_metric_twice(made: Any) -> None:
    whole = made.cli("run=whole", *OVERRIDES)
    assert whole.returncode == 0, whole.stderr
    source, name, kills = random.Random(), "run=cut", 0
    while kills < KILLS and killed_once(made, [name, *OVERRIDES], source.uniform(0.0, 0.4)):
        name, kills = "resume=cut", kills + 1
    if kills == KILLS:
        last = made.cli("resume=cut", *OVERRIDES)
        assert last.returncode == 0, last.stderr
    assert kills >= 1
    first, second = (Path(made.recipe.runs) / run / "final" / "model.safetensors" for run in ("whole", "cut"))
    assert first.read_bytes() == second.read_bytes()
    assert lines(made, "whole") == lines(made, "cut")
    assert [line["step"] for line in lines(made, "cut")] == list(range(1, 41))


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_command_that_it_names(made: Any) -> None:
    code, said = ended_once(made, ["run=cut", *OVERRIDES], 0.1, signal.SIGINT)
    assert code == 130 and "Traceback" not in said
    told = [line for line in said.splitlines() if "interrupted" in line or "next:" in line]
    assert told[0] == "error: interrupted; what was made is kept"
    python, *words = shlex.split(told[1].partition("next: ")[2])
    assert python == "python" and words[:2] == ["-m", "trainer"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in lines(made, "cut")] == list(range(1, 41))
