"""A step of the real path against plain transformers, against itself cut otherwise, and against its own negation."""

from __future__ import annotations

import json
import shutil
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
    count, total = sum(len(row["token_ids"]) for row in rows), 0.0
    for row in rows:  # one row at a time: no padding, no mask, no code of ours
        ids = torch.tensor([row["prompt_token_ids"] + row["token_ids"]])
        labels = ids.clone()
        labels[:, : len(row["prompt_token_ids"])] = -100
        loss = model(input_ids=ids, labels=labels).loss * len(row["token_ids"])
        (loss / count).backward()
        total += loss.item()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.5 * parameter.grad
    expected = {name: value for name, value in model.state_dict().items() if name in found}
    assert largest(found, start(made)) > 1e-3
    assert largest(found, expected) <= 1e-6
    assert _metrics(made, "bc")[1]["loss/bc"] == pytest.approx(total / count, rel=1e-5)


def hybrid(**changes: Any) -> dict[str, Any]:
    mixed = {"losses__rl": 1.0, "losses__bc": 0.5, "losses__pt": 0.3, "losses__kl": 0.1, "replay__bc": "teacher"}
    sizes = {"replay__prompts": 4, "replay__answers": 5, "replay__corpus_tokens": 20}
    return {**mixed, **sizes, **SGD, "optimiser__lr": 0.05, "steps": 3, "objective": "grpo", **changes}


def test_micro_batches_change_nothing(made: Any) -> None:
    one = weights(made, "one", **hybrid(replay__micro_batch_tokens=100_000))
    many = weights(made, "many", **hybrid(replay__micro_batch_tokens=16))
    assert largest(one, start(made)) > 1e-3
    assert largest(one, many) <= 1e-6
    told = [_metrics(made, run)[1] for run in ("one", "many")]
    assert {"loss/bc", "loss/pt", "kl_k3", "grpo/surrogate", "drift/token_ess"} <= told[0].keys()
    for name in told[0]:
        if name.startswith(("loss/", "grpo/", "drift/")):
            assert told[0][name] == pytest.approx(told[1][name], rel=1e-4, abs=1e-6), name


def test_a_mixed_step_is_the_sum_of_its_terms_each_with_its_own_denominator(made: Any) -> None:
    mixed = {"losses__rl": 0.8, "losses__bc": 0.5, "losses__pt": 0.3}
    alone = {**hybrid(steps=1), **dict.fromkeys((*mixed, "losses__kl"), 0.0)}
    first = start(made)
    moved = []
    for name, terms in (("mixed", mixed), *((term, {term: weight}) for term, weight in mixed.items())):
        found = weights(made, name, **{**alone, **terms})
        moved.append(torch.cat([(found[key] - first[key]).flatten() for key in found]))
    assert min(part.norm() for part in moved) > 1e-3
    assert (moved[0] - sum(moved[1:])).norm() / moved[0].norm() <= 1e-4


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


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "mistral", "gemma3", "bloom"])
def test_every_family_trains_the_same_however_it_is_cut(
    tmp_path: Path, tiny_model: Any, family: str, write_lake: Any, made: Any
) -> None:
    from data.config import ModelSettings

    model = tiny_model(family)
    places = {"lake": str(tmp_path / "own"), "student": ModelSettings(path=model)}
    settings = hybrid(steps=2, optimiser__lr=0.01, **places)
    own = type(made)(write_lake(made.with_(**settings)), made.with_(**places), model)
    one = weights(own, "one", **{**settings, "replay__micro_batch_tokens": 100_000})
    many = weights(own, "many", **{**settings, "replay__micro_batch_tokens": 32})
    assert largest(one, start(own)) > 1e-4
    assert largest(one, many) <= 1e-6


def test_raft_imitates_what_passes_the_filter(made: Any) -> None:
    raft = {**RL, **SGD, "objective": "raft", "steps": 1, "replay__prompts": 6}
    weights(made, "best", **raft)
    weights(made, "filtered", where="points > 0", **raft)
    points = made.lake.read(made.lake.slices("rewards", label="points")[0], ["value"]).column(0).to_pylist()
    assert _metrics(made, "best")[1]["raft/chosen"] == pytest.approx(6 / 24)
    assert _metrics(made, "filtered")[1]["raft/chosen"] == pytest.approx(sum(p > 0 for p in points) / 24)


def test_the_pools_temperature_divides_the_logits_of_the_samples_and_of_nothing_else(
    tmp_path: Path, write_lake: Any, made: Any
) -> None:
    from data.config import Sampling

    places = {"lake": str(tmp_path / "warm"), "sampling": Sampling(n=4, max_tokens=9, temperature=0.6)}
    warm = type(made)(write_lake(made.with_(**places)), made.with_(**places), made.model)
    still = hybrid(steps=1, optimiser__lr=0.0)
    for name, pool in (("cold", made), ("warm", warm)):
        train(pool.with_(run=name, **still))
    cold_row, warm_row = _metrics(made, "cold")[1], _metrics(warm, "warm")[1]
    assert warm_row["drift/sequence_ess"] >= 0.999 and abs(warm_row["drift/token_kl"]) <= 1e-4
    assert warm_row["loss/bc"] == pytest.approx(cold_row["loss/bc"])
    assert warm_row["loss/pt"] == pytest.approx(cold_row["loss/pt"])


@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_the_leash_pulls_towards_the_reference(made: Any, publish_rows: Any, shift: float) -> None:
    from data.pool import find_pool, scores_key
    from trainer.forward import GroupTokens, group_logprobs, load
    from trainer.sources import resolve

    quiet = {
        **RL,
        **SGD,
        "steps": 1,
        "losses__rl": 1e-9,
        "losses__kl": 0.5,
        "replay__prompts": 6,
        "optimiser__lr": 0.05,
    }
    recipe = made.with_(**quiet)
    pool = find_pool(made.lake, recipe, resolve(recipe).start.model_id)
    old = made.lake.find("scores", scores_key(pool, pool.policy))
    rows = made.lake.read(old).to_pylist()
    for row in rows:
        row["logprobs"] = [value + shift for value in row["logprobs"]]
    shutil.rmtree(old.files[0].parent)
    publish_rows(made.lake, "scores", scores_key(pool, pool.policy), [rows[:12], rows[12:]], "shifted")
    train(made.with_(run="leash", **quiet))
    groups = made.lake.read(pool.groups).to_pylist()
    samples = made.lake.read(pool.samples).to_pylist()
    items = [
        GroupTokens(g["prompt_token_ids"], [s["token_ids"] for s in samples if s["group_id"] == g["group_id"]])
        for g in groups
    ]
    final = str(Path(made.recipe.runs) / "leash" / "final")
    with torch.no_grad():
        before, after = (group_logprobs(load(path), items).sum() for path in (made.model, final))
    assert (after - before) * shift > 0
    policy = load(made.model)
    group_logprobs(policy, items).mean().backward()  # every token pulls by the same log π/π_ref
    moved = load_file(Path(final) / "model.safetensors")
    for name, parameter in policy.model.named_parameters():
        expected = parameter.detach() + 0.05 * 0.5 * shift * parameter.grad
        torch.testing.assert_close(moved[name], expected, atol=1e-6, rtol=0)
    assert _metrics(made, "leash")[1]["kl_k3"] == pytest.approx(float(torch.tensor(shift).exp()) - 1 - shift, rel=1e-3)


@pytest.mark.parametrize("term", ["rl", "bc", "pt"])
def test_half_the_weight_is_half_the_step(made: Any, term: str) -> None:
    alone = {**RL, **SGD, **OPEN, "losses__rl": 0.0, "steps": 1, "replay__bc": "teacher", "optimiser__lr": 0.1}
    first = start(made)
    moved = []
    for name, weight in (("whole", 1.0), ("half", 0.5)):
        found = weights(made, name, **{**alone, f"losses__{term}": weight})
        moved.append(torch.cat([(found[key] - first[key]).flatten() for key in found]))
    assert moved[0].norm() > 1e-4
    assert (moved[0] - 2 * moved[1]).norm() / moved[0].norm() <= 1e-4
