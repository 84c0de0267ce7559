"""A training that is killed by SIGKILL at a random moment, again and again, ends as the undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

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


def killed_once(made: Any, overrides: list[str], delay: float) -> bool:
    """Start the run, kill it `delay` seconds after its first metric; False if it ended before."""
    path = Path(made.recipe.runs) / "cut" / "metrics.jsonl"
    before = path.stat().st_size if path.is_file() else 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        made.command(*overrides), env=environment, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while process.poll() is None and (not path.is_file() or path.stat().st_size <= before):
        before = min(before, path.stat().st_size if path.is_file() else 0)  # a resume cuts the file first
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), said.decode()
    return process.returncode != 0


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
