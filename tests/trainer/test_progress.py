"""The line of a step: what a person watches, in one order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.loop import train
from trainer.progress import describe


def test_a_steps_line_has_what_was_measured_in_one_order() -> None:
    metrics = {"drift/sequence_ess": 0.9, "probe/exact": 0.5, "loss/bc": 2.0, "reward/pool": 0.25, "lr": 1e-5}
    line = describe(3, 10, metrics | {"tokens_per_second": 1234.0})
    assert line == "step 3/10  loss/bc 2  reward/pool 0.25  drift/sequence_ess 0.9  probe/exact 0.5  1,234 tokens/s"


def test_a_run_of_replay_alone_says_its_rewards_and_its_distance(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    losses = {"losses__bc": 0.0, "losses__pt": 0.0, "losses__kl": 0.1}
    train(made.with_(run="rl", steps=2, replay__prompts=6, optimiser__lr=1e-3, **losses))
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    for name in ("reward/pool", "reward/weighted", "kl_k3", "drift/token_kl", "drift/sequence_ess"):
        assert all(f"  {name} " in line for line in shown), name
    first, second = map(json.loads, (Path(made.recipe.runs) / "rl" / "metrics.jsonl").read_text().splitlines())
    points = made.lake.read(made.lake.slices("rewards", label="points")[0], ["value"]).column(0).to_numpy()
    assert (
        first["reward/pool"] == second["reward/pool"] == pytest.approx(points.mean(), rel=1e-6)
    )  # all groups, each step
    assert first["reward/weighted"] == pytest.approx(first["reward/pool"], rel=1e-3)  # π = μ before the first step
    assert second["reward/weighted"] > first["reward/weighted"]  # on the samples that it was trained on
