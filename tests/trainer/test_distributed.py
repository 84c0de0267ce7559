"""Processes by torchrun (gloo) against one: the same step, whoever forwards what."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.refusal import Refusal
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


@pytest.mark.parametrize("said", [[None, ["no pool", "make one"]], [["no pool", "make one"], ["other", "next"]]])
def test_a_refusal_is_said_by_the_first_process_that_refuses_and_ends_the_others(
    monkeypatch: pytest.MonkeyPatch, said: list[Any]
) -> None:
    monkeypatch.setattr(World, "gathered", lambda self, own: said)

    def work(refused: list[str] | None) -> int:
        if refused is not None:
            raise Refusal(*refused)
        return 7

    speaker = next(rank for rank, one in enumerate(said) if one)
    with pytest.raises(Refusal, match="no pool"):
        World(speaker, 2).together(lambda: work(said[speaker]))
    with pytest.raises(SystemExit) as ended:
        World(1 - speaker, 2).together(lambda: work(said[1 - speaker]))
    assert ended.value.code == 2
    monkeypatch.setattr(World, "gathered", lambda self, own: [own, None])
    assert World(0, 2).together(lambda: work(None)) == 7


def final(made: Any, run: str) -> dict[str, torch.Tensor]:
    return load_file(Path(made.recipe.runs) / run / "final" / "model.safetensors")


FSDP = "optimiser.compute.parallel=fsdp"


def difference(made: Any, one: str, two: str) -> float:
    first, second = final(made, one), final(made, two)
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def losses(made: Any, run: str) -> list[float]:
    text = (Path(made.recipe.runs) / run / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["loss/bc"] for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_spread_weights_take_the_same_step_as_one_process(
    made: Any, tiny_model: Callable[..., str], tmp_path: Path, tied: bool, write_lake: Callable[..., Any]
) -> None:
    if tied:
        student = dataclasses.replace(made.recipe.student, path=tiny_model("llama", tie_word_embeddings=True))
        recipe = dataclasses.replace(made.recipe, lake=str(tmp_path / "tied"), student=student)
        write_lake(recipe)
        made = dataclasses.replace(made, recipe=recipe, model=student.path)
    step = [*HYBRID, "steps=1"]
    one, two = made.cli("run=one", *step), made.cli("run=two", *step, FSDP, processes=2)
    assert one.returncode == 0 and two.returncode == 0, one.stderr + two.stderr
    assert difference(made, "one", "two") <= 1e-6
    start = load_file(Path(made.model) / "model.safetensors")
    assert max((final(made, "one")[name] - start[name]).abs().max().item() for name in start) > 1e-3
    assert two.stdout.count("run two: finished") == 1


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_twenty_steps_of_adamw_agree_and_a_run_of_two_processes_resumes_on_one(made: Any, parallel: str) -> None:
    settings = [*HYBRID, "steps=20", "optimiser.name=adamw", "optimiser.lr=1e-3", "optimiser.clip=0.5"]
    settings += ["optimiser.ema=0.9", "checkpoint.every=10", "checkpoint.keep=2"]
    settings.append(f"optimiser.compute.parallel={parallel}")
    for run, processes in (("one", 1), ("two", 2)):
        done = made.cli(f"run={run}", *settings, processes=processes)
        assert done.returncode == 0, done.stderr
    assert max(abs(a - b) for a, b in zip(losses(made, "one"), losses(made, "two"), strict=True)) <= 1e-3
    assert losses(made, "one")[-1] < losses(made, "one")[0] - 0.1
    folder = Path(made.recipe.runs) / "two"
    shutil.rmtree(folder / "final")
    shutil.rmtree(folder / "checkpoint-20")
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps({**record, "status": "running"}), encoding="utf-8")
    again = made.cli("resume=two", *settings)
    assert again.returncode == 0, again.stderr
    assert "resumed at step 10:" in again.stdout and difference(made, "one", "two") <= 1e-3
    assert max(abs(a - b) for a, b in zip(losses(made, "one"), losses(made, "two"), strict=True)) <= 1e-3


@pytest.mark.slow
def test_spread_adapters_probe_and_merge_as_one_process_does(made: Any) -> None:
    settings = [*HYBRID, "optimiser.lora.enabled=true", "optimiser.lora.rank=4", "optimiser.lr=0.5", "probe.every=2"]
    settings += ["checkpoint.every=2", "optimiser.compute.activation_checkpointing=true", FSDP]
    one, two = made.cli("run=one", *settings), made.cli("run=two", *settings, processes=2)
    assert one.returncode == 0 and two.returncode == 0, one.stderr + two.stderr
    assert difference(made, "one", "two") <= 1e-5
    start = load_file(Path(made.model) / "model.safetensors")
    moved = {name for name, value in final(made, "two").items() if not torch.equal(value, start[name])}
    assert moved and all("proj" in name for name in moved)
    saved = load_file(Path(made.recipe.runs) / "two" / "checkpoint-2" / "adapter_model.safetensors")
    assert len(saved) == 2 * 7 * 2


@pytest.mark.slow
def test_a_process_without_work_joins_the_spread_ones(made: Any) -> None:
    few = [*HYBRID, "losses.rl=0", "losses.pt=0", "losses.kl=0", "replay.answers=1", "steps=2"]
    one, two = made.cli("run=one", *few), made.cli("run=two", *few, FSDP, processes=2)
    assert one.returncode == 0 and two.returncode == 0, one.stderr + two.stderr
    assert difference(made, "one", "two") <= 1e-6


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
