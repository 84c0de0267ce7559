"""Processes by torchrun (gloo) against one: the same step, whoever forwards what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trainer.distributed import World, world

HYBRID = [
    "objective=grpo",
    "steps=3",
    "losses.rl=1",
    "losses.bc=0.5",
    "losses.pt=0.3",
    "losses.kl=0.1",
    "replay.bc=teacher",
    "replay.prompts=4",
    "replay.answers=5",
    "replay.corpus_tokens=20",
    "replay.micro_batch_tokens=64",
    "optimiser.name=sgd",
    "optimiser.lr=0.05",
    "optimiser.clip=null",
]


def test_one_process_opens_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert world() == World(0, 1)
    assert not torch.distributed.is_initialized()


def test_gradients_of_processes_are_summed_and_none_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.Linear(3, 2)
    layer.weight.grad = torch.full_like(layer.weight, 2.0)
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda tensor: tensor.add_(0.5)
    )  # what the other process holds
    World(0, 2).sum_gradients(list(layer.parameters()))
    assert torch.equal(layer.weight.grad, torch.full_like(layer.weight, 2.5))
    assert torch.equal(layer.bias.grad, torch.full_like(layer.bias, 0.5))


def final(made: Any, run: str) -> dict[str, torch.Tensor]:
    return load_file(Path(made.recipe.runs) / run / "final" / "model.safetensors")


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(made: Any) -> None:
    one = made.cli("run=one", *HYBRID)
    assert one.returncode == 0, one.stderr
    two = made.cli("run=two", *HYBRID, processes=2)
    assert two.returncode == 0, two.stderr
    first, second = final(made, "one"), final(made, "two")
    assert max((first[name] - second[name]).abs().max().item() for name in first) <= 1e-6
    start = load_file(Path(made.model) / "model.safetensors")
    assert max((first[name] - start[name]).abs().max().item() for name in first) > 1e-3
    assert two.stdout.count("run two: finished") == 1


@pytest.mark.slow
def test_a_process_without_work_joins_the_others(made: Any) -> None:
    few = [*HYBRID, "losses.rl=0", "losses.pt=0", "losses.kl=0", "replay.answers=1", "steps=2"]
    one, two = made.cli("run=one", *few), made.cli("run=two", *few, processes=2)
    assert one.returncode == 0 and two.returncode == 0, one.stderr + two.stderr
    first, second = final(made, "one"), final(made, "two")
    assert max((first[name] - second[name]).abs().max().item() for name in first) <= 1e-6
