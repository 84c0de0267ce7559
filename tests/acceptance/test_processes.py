"""The demo trained by two processes against one: the same step, nearly the same twenty, and a run that changes their number."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

ONE_PLAIN_STEP = (
    "steps=1",
    "optimiser.name=sgd",
    "optimiser.lr=1",
    "optimiser.warmup=0",
    "optimiser.clip=null",
    "probe.every=null",
)
TWENTY = ("steps=20", "probe.every=null", "checkpoint.every=10", "checkpoint.keep=2")
PARALLEL = ("ddp", "fsdp")


def two(place: Any, *words: str) -> str:
    """`torchrun --nproc-per-node 2 -m trainer recipe=demo …`, by the module that the command names."""
    launch = ("torch.distributed.run", "--nproc-per-node", "2", "-m", "trainer")
    return place.ran(*launch, "recipe=demo", *words, *place.places).decode()


def losses(place: Any, run: str) -> list[float]:
    return [line["loss/bc"] for line in place.metrics(run)]


def furthest(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def largest_change(place: Any, one: str, other: str) -> float:
    first, second = place.weights(one), place.weights(other)
    assert first.keys() == second.keys()
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


def test_one_plain_step_of_the_demo_is_the_same_on_two_processes(mine: Any) -> None:
    mine.trainer("recipe=demo", "run=one", *ONE_PLAIN_STEP)
    assert largest_change(mine, "one", "demo-student") > 1e-3
    for parallel in PARALLEL:
        said = two(mine, f"run={parallel}", *ONE_PLAIN_STEP, f"optimiser.compute.parallel={parallel}")
        assert said.count(f"run {parallel}: finished") == 1
        assert largest_change(mine, "one", parallel) <= 1e-6


@pytest.mark.parametrize("parallel", PARALLEL)
def test_twenty_steps_of_the_demo_agree_and_go_on_by_one_process(mine: Any, parallel: str) -> None:
    settings = (*TWENTY, f"optimiser.compute.parallel={parallel}")
    mine.trainer("recipe=demo", "run=one", *settings)
    two(mine, "run=two", *settings)
    assert losses(mine, "one")[-1] < losses(mine, "one")[0] - 0.1
    assert furthest(losses(mine, "one"), losses(mine, "two")) <= 1e-3
    folder = mine.runs / "two"
    for name in ("final", "checkpoint-20"):
        shutil.rmtree(folder / name)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps({**record, "status": "running"}), encoding="utf-8")
    assert "resumed at step 10:" in mine.trainer("recipe=demo", "resume=two", *settings)
    assert furthest(losses(mine, "one"), losses(mine, "two")) <= 1e-3
