"""One lake, many trainings: derived slices stay as they are, the reward decides, finished work is found, nobody is asked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REWARD = "agreement + 0.5*language + 0.02*teacher_loglik"
ONE_PLAIN_STEP = (
    "steps=1",
    "objective=grpo",
    "clip.clip_low=null",
    "clip.clip_high=null",
    "optimiser.name=sgd",
    "optimiser.lr=100",  # a large step: else float32 rounds θ + Δ more than the claim allows
    "optimiser.warmup=0",
    "optimiser.clip=null",
)


def difference(new: dict[str, Any], old: dict[str, Any]) -> Any:
    """Δθ as one vector of float64."""
    import torch

    assert list(new) == list(old)
    return torch.cat([(new[name].double() - old[name].double()).flatten() for name in new])


def test_another_reward_trains_another_student_and_the_opposite_reward_the_opposite_one(
    mine: Any, rl_only: tuple[str, ...]
) -> None:
    before = mine.derived()
    for run, reward in (("plus", REWARD), ("minus", f"-1*({REWARD})"), ("other", "teacher_loglik")):
        mine.trainer("recipe=demo", f"run={run}", f"reward={reward}", *ONE_PLAIN_STEP, *rl_only)
    start = mine.weights("demo-student")
    plus, minus, other = (difference(mine.weights(run), start) for run in ("plus", "minus", "other"))
    assert plus.norm() > 1e-2
    assert (plus + minus).norm() / plus.norm() < 1e-5
    assert (plus - other).norm() / plus.norm() > 0.1
    assert mine.derived() == before


def test_a_sweep_gives_four_runs_with_their_last_probe_on_the_leaderboard(mine: Any) -> None:
    before = mine.derived()
    known = {row["run"] for row in mine.sql("SELECT run FROM runs")}
    mine.trainer("-m", "recipe=demo", "objective=grpo,seq_tis", "seed=1,2", "steps=2", "probe.every=1")
    made = [row for row in mine.sql("SELECT run, status, steps, configuration FROM runs") if row["run"] not in known]
    assert len(made) == 4 and {(row["status"], row["steps"]) for row in made} == {("finished", 2)}
    assert len({mine.final(row["run"]).read_bytes() for row in made}) == 4
    board = mine.sql("SELECT policy, value, step FROM leaderboard WHERE source = 'probe' AND metric = 'exact'")
    for row in made:
        last = mine.metrics(row["run"])[-1]
        assert (last["step"], "probe/exact" in last) == (2, True)
        assert [r for r in board if r["policy"] == row["run"]] == [
            {"policy": row["run"], "value": last["probe/exact"], "step": 2}
        ]
    assert mine.derived() == before


def test_the_same_commands_again_find_everything_and_say_so(mine: Any, hybrid: tuple[str, ...]) -> None:
    before, files = mine.derived(), set(mine.hashes())
    weights = {path: path.stat().st_mtime_ns for path in mine.runs.rglob("*") if path.is_file()}
    for run, words in (
        ("demo-teacher", ("recipe=demo_teacher",)),
        ("demo-student", ("recipe=demo_student",)),
        ("demo-hybrid", hybrid),
    ):
        lines = mine.factory(words[0]).splitlines()
        assert lines and all(line.endswith(": found, nothing to do") for line in lines), lines
        assert mine.trainer(*words).splitlines() == [f"found run {run} of this configuration: nothing to train"]
    assert mine.derived() == before and set(mine.hashes()) == files
    assert {path: path.stat().st_mtime_ns for path in mine.runs.rglob("*") if path.is_file()} == weights


def traced(log: Path) -> tuple[str, ...]:
    return ("strace", "-f", "-o", str(log), "-e", "trace=%network")


def inet(log: Path) -> list[str]:
    """Calls that name an address of the network, IPv4 or IPv6."""
    return [
        line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if "sa_family=AF_INET" in line
    ]


def test_the_trainer_asks_no_network_and_no_teacher(mine: Any, tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    control, log = tmp_path / "control.txt", tmp_path / "calls.txt"
    script = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))"
    done = subprocess.run([*traced(control), sys.executable, "-c", script], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"strace may trace nothing here: {done.stderr.strip()}")
    assert any("connect(" in line for line in inet(control)), "strace would show a connection"
    shutil.move(mine.runs / "demo-teacher", tmp_path / "away")
    said = mine.trainer("recipe=demo", "run=alone", "steps=2", "probe.every=2", prefix=traced(log))
    assert "run alone: finished after 2 steps" in said and "probe/exact" in said
    assert mine.final("alone").is_file()
    assert "exited with 0" in log.read_text(encoding="utf-8", errors="replace")
    assert inet(log) == []
