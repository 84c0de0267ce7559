"""A step of the real path against plain transformers, against itself cut otherwise, and against its own negation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trainer.loop import train

SGD = {"optimiser__name": "sgd", "optimiser__clip": None, "optimiser__lr": 0.5}
BC = {"losses__rl": 0.0, "losses__bc": 1.0, "losses__pt": 0.0, "losses__kl": 0.0, "replay__bc": "teacher"}
RL = {"losses__rl": 1.0, "losses__bc": 0.0, "losses__pt": 0.0, "losses__kl": 0.0}
OPEN = {"clip__clip_low": None, "clip__clip_high": None}


def weights(made: Any, name: str, **changes: Any) -> dict[str, torch.Tensor]:
    """Final weights of a run."""
    train(made.with_(run=name, **changes))
    return load_file(Path(made.recipe.runs) / name / "final" / "model.safetensors")


def start(made: Any) -> dict[str, torch.Tensor]:
    return load_file(Path(made.model) / "model.safetensors")


def largest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_a_bc_only_step_is_plain_cross_entropy(made: Any) -> None:
    from transformers import AutoModelForCausalLM

    found = weights(made, "bc", steps=1, replay__answers=6, **BC, **SGD)
    model = AutoModelForCausalLM.from_pretrained(made.model)
    rows = made.lake.read(made.lake.slices("answer_tokens")[0]).to_pylist()
    count = sum(len(row["token_ids"]) for row in rows)
    for row in rows:  # one row at a time: no padding, no mask, no code of ours
        ids = torch.tensor([row["prompt_token_ids"] + row["token_ids"]])
        labels = ids.clone()
        labels[:, : len(row["prompt_token_ids"])] = -100
        (model(input_ids=ids, labels=labels).loss * len(row["token_ids"]) / count).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.5 * parameter.grad
    expected = {name: value for name, value in model.state_dict().items() if name in found}
    assert largest(found, start(made)) > 1e-3
    assert largest(found, expected) <= 1e-6


def hybrid(**changes: Any) -> dict[str, Any]:
    mixed = {"losses__rl": 1.0, "losses__bc": 0.5, "losses__pt": 0.3, "losses__kl": 0.1, "replay__bc": "teacher"}
    sizes = {"replay__prompts": 4, "replay__answers": 5, "replay__corpus_tokens": 20}
    return {**mixed, **sizes, **SGD, "optimiser__lr": 0.05, "steps": 3, "objective": "grpo", **changes}


def test_micro_batches_change_nothing(made: Any) -> None:
    one = weights(made, "one", **hybrid(replay__micro_batch_tokens=100_000))
    many = weights(made, "many", **hybrid(replay__micro_batch_tokens=16))
    assert largest(one, start(made)) > 1e-3
    assert largest(one, many) <= 1e-6


def test_a_negated_reward_gives_the_negated_step(made: Any) -> None:
    plain = {**RL, **SGD, **OPEN, "objective": "grpo", "steps": 1}
    up = weights(made, "up", **plain)
    down = weights(made, "down", reward="-1*(points)", **plain)
    first = start(made)
    up_n = torch.cat([(up[name] - first[name]).flatten() for name in up])
    down_n = torch.cat([(down[name] - first[name]).flatten() for name in up])
    assert up_n.norm() > 1e-3
    assert (up_n + down_n).norm() / up_n.norm() <= 1e-5


@pytest.mark.parametrize("objective", ["naive", "raft", "grpo", "dr_grpo", "tis", "seq_tis", "topr", "seed_softmax"])
def test_every_objective_moves_the_weights_and_is_logged(made: Any, objective: str) -> None:
    found = weights(made, objective, **{**RL, **SGD, "objective": objective, "steps": 1})
    assert 0 < largest(found, start(made)) < 10
    rows = _metrics(made, objective)
    assert f"{objective}/surrogate" in rows[1]


def _metrics(made: Any, run: str) -> dict[int, dict[str, float]]:
    import json

    text = (Path(made.recipe.runs) / run / "metrics.jsonl").read_text(encoding="utf-8")
    return {line["step"]: line for line in map(json.loads, text.splitlines())}


def test_without_a_step_the_policy_has_not_left_the_pool(made: Any) -> None:
    train(made.with_(run="still", **{**hybrid(), "optimiser__lr": 0.0}))
    last = _metrics(made, "still")[3]
    assert last["drift/token_ess"] >= 0.999 and last["drift/sequence_ess"] >= 0.999
    assert abs(last["drift/token_kl"]) <= 1e-4 and abs(last["kl_k3"]) <= 1e-4


def test_a_large_step_makes_the_effective_sample_size_fall(made: Any) -> None:
    train(made.with_(run="far", **{**hybrid(), "optimiser__lr": 5.0}))
    assert _metrics(made, "far")[3]["drift/sequence_ess"] < 0.9
