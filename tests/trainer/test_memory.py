"""The estimate against arithmetic, against a measured peak, and against what is allowed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.refusal import Refusal
from trainer.config import Compute, Lora, Optimiser
from trainer.memory import GIB, RUNTIME, Load, Shape, estimate, free_memory, line, refuse_too_much, shape_of

SHAPE = Shape(parameters=1000, adapter=30, layers=2, hidden=8, inner=20, keys=4, vocabulary=50)
ROOT = Path(__file__).resolve().parents[2]
MEDIUM = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "intermediate_size": 704,
    "vocab_size": 300,
    "num_attention_heads": 8,
}
MEASURE = """
import json, sys
import torch
from pathlib import Path
from trainer.config import Optimiser
from trainer.forward import GroupTokens, checkpoint_activations, head_of, hidden_states, kernel_head, load
from trainer.optimiser import build, move

def peak():
    return next(int(l.split()[1]) * 1024 for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))

import transformers.models.llama.modeling_llama
start = peak()
policy = load(sys.argv[1], layout="plain")
if sys.argv[2] == "checkpointing":
    checkpoint_activations(policy)
optimiser = build(Optimiser(), policy.model)
rows = [GroupTokens([5], [list(range(6, 6 + 255)) + [7]]) for _ in range(16)]
for step in (1, 2):
    hidden_nd, target_n = hidden_states(policy, rows)
    loss, _ = kernel_head(hidden_nd, head_of(policy.model), target_n, lambda logprob_n, part: torch.ones_like(logprob_n))
    loss.backward()
    del loss, hidden_nd
    move(optimiser, policy.model, 1e-4, 1.0, step)
print(json.dumps(peak() - start))
"""


def test_each_part_by_hand() -> None:
    sizes = estimate(SHAPE, Optimiser(ema=0.9), Load(tokens=10, copies=1, terms=3))
    assert sizes["weights"] == sizes["gradients"] == 4000 and sizes["optimiser"] == 8000
    assert sizes["copies"] == 3 * 4000  # the average, the copy, and the own weights while another stands in their place
    assert sizes["activations"] == 10 * 2 * 4 * (12 * 8 + 4 * 4 + 4 * 20)
    assert sizes["head"] == 2 * 4 * 256 * 50 + 3 * 50 * 8 * 4
    assert sizes["runtime"] == RUNTIME and "gathered" not in sizes


def test_adapters_leave_the_weights_and_train_their_own_alone() -> None:
    sizes = estimate(SHAPE, Optimiser(lora=Lora(enabled=True, rank=2)), Load(tokens=10, width=2))
    assert sizes["weights"] == 2 * 1000 + 4 * 60 and sizes["gradients"] == 4 * 60 and sizes["optimiser"] == 8 * 60
    assert "optimiser" not in estimate(SHAPE, Optimiser(name="sgd"), Load(tokens=10))


def test_spread_weights_are_shared_out_and_a_layer_is_gathered() -> None:
    sizes = estimate(SHAPE, Optimiser(compute=Compute(parallel="fsdp")), Load(tokens=10, processes=4))
    assert sizes["weights"] == 1000 and sizes["optimiser"] == 2000
    assert sizes["gathered"] == 4 * (500 + 50 * 8)


def test_the_parameters_are_counted_without_weights(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    from trainer.adapter import with_adapter
    from trainer.forward import load
    from trainer.optimiser import trained

    for family in ("llama", "gpt2", "bloom"):
        path = Path(tiny_model(family, tmp_path))
        policy = load(str(path))
        whole = sum(p.numel() for p in policy.model.parameters())
        adapters = sum(p.numel() for p in trained(with_adapter(policy, Lora(rank=3)).model).values())
        (path / "model.safetensors").unlink()
        found = shape_of(str(path))
        assert found.parameters == whole and found.adapter * 3 == adapters and found.layers == 2


def test_too_much_is_refused_with_what_would_help() -> None:
    sizes = {"weights": 4 * GIB, "activations": 6 * GIB}
    refuse_too_much(sizes, Optimiser(), 4096, 11 * GIB)
    refuse_too_much(sizes, Optimiser(), 4096, None)
    refuse_too_much(sizes, Optimiser(compute=Compute(memory=10.0)), 4096, 1 * GIB)
    with pytest.raises(Refusal, match="9 GiB is free") as caught:
        refuse_too_much(sizes, Optimiser(), 4096, 9 * GIB)
    assert caught.value.args[1] == "optimiser.compute.activation_checkpointing=true"
    with pytest.raises(Refusal, match=r"optimiser\.compute\.memory allows") as caught:
        refuse_too_much(sizes, Optimiser(compute=Compute(memory=9.0, activation_checkpointing=True)), 4096, 90 * GIB)
    assert caught.value.args[1] == "replay.micro_batch_tokens=2048"
    with pytest.raises(Refusal) as caught:
        refuse_too_much({"optimiser": 4 * GIB}, Optimiser(), 4096, 1 * GIB)
    assert caught.value.args[1] == "optimiser.lora.enabled=true"
    assert line(sizes, 11 * GIB) == "memory: about 10 GiB a process (weights 4, activations 6); 11 GiB free"


def test_processes_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = free_memory(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    shared = free_memory(torch.device("cpu"))
    if alone is None or shared is None:
        pytest.skip("this system does not say what is free")
    assert shared == pytest.approx(alone / 4, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["all", "checkpointing"])
def test_the_measured_peak_is_within_a_factor_of_two(tiny_model: Callable[..., str], kept: str) -> None:
    path = tiny_model("llama", **MEDIUM)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path, kept], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    settings = Optimiser(compute=Compute(activation_checkpointing=kept == "checkpointing"))
    said = sum(estimate(shape_of(path), settings, Load(tokens=16 * 256)).values()) - RUNTIME
    measured = json.loads(done.stdout)
    assert measured / 2 <= said <= measured * 2
