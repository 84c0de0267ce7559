"""Methods over several steps: scopes, schedules, references, controllers and stop rules, read back from the run's log."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data.config import ModelSettings, model_settings
from data.lake import Key
from data.pool import Pool, scores_key, soft_targets_key
from trainer.loop import train
from trainer.objective_config import Teacher

SGD = {"optimiser__name": "sgd", "optimiser__clip": None, "optimiser__lr": 0.5}
RL = {"losses__rl": 1.0, "losses__bc": 0.0, "losses__pt": 0.0, "losses__kl": 0.0}
SIZES = {"replay__prompts": 4, "replay__answers": 5, "replay__corpus_tokens": 20}


def weights(made: Any, name: str, **changes: Any) -> dict[str, torch.Tensor]:
    """Final weights of a run."""
    train(made.with_(run=name, **{**RL, **SIZES, **SGD, **changes}))
    return load_file(Path(made.recipe.runs) / name / "final" / "model.safetensors")


def metrics(made: Any, run: str) -> list[dict[str, float]]:
    """The lines of the run's log, in order."""
    text = (Path(made.recipe.runs) / run / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def reason(made: Any, run: str) -> str | None:
    """Why the run ended, as its row of `runs` says."""
    rows = made.lake.sql("SELECT reason FROM runs WHERE run = $run", run=run).to_pylist()
    return rows[0]["reason"]


def largest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.fixture
def taught(made: Any, publish_rows: Any) -> Any:
    """The lake with the scores of a teacher that is half a nat away here and there."""
    teacher, samples = ModelSettings(path="somewhere"), made.lake.slices("samples")[0]
    groups = made.lake.slice(samples.parent("groups"))
    pool = Pool(made.lake.slice(groups.parent("prompts")), groups, samples)
    row = {"model_id": "teacher", "name": "somewhere"} | dict.fromkeys(
        ("weights", "tokenizer", "chat_template", "dtype", "head_dtype"), "x"
    )
    publish_rows(
        made.lake,
        "models",
        Key({"model": model_settings(teacher)}, (), {"model": "teacher"}, ("teacher",)),
        [[row]],
        "t",
    )
    random, shards = np.random.default_rng(0), []
    for shard in range(len(samples.shards)):
        rows = made.lake.read_shard(samples, shard, ["group_id", "sample_index", "behaviour_logprobs"]).to_pylist()
        for one in rows:
            values = np.minimum(np.asarray(one.pop("behaviour_logprobs")) + random.normal(0, 0.5), -0.01)
            one |= {
                "scorer": "teacher",
                "logprobs": values,
                "total": float(values.sum()),
                "alignment": "same_tokenizer",
            }
        shards.append(rows)
    publish_rows(made.lake, "scores", scores_key(pool, "teacher"), shards, "tiny-teacher")
    return dataclasses.replace(made, recipe=dataclasses.replace(made.recipe, teacher=teacher))


@pytest.mark.parametrize("objective", ["m2po", "minillm", "seed_softmax", "tb_vargrad", "seq_tis", "grpo"])
def test_micro_batches_and_split_groups_change_nothing_whatever_the_scope(taught: Any, objective: str) -> None:
    made, settings = taught, {"objective": objective, "steps": 3, "optimiser__lr": 0.05, "losses__kl": 0.1}
    one = weights(made, "one", replay__micro_batch_tokens=100_000, **settings)
    many = weights(made, "many", replay__micro_batch_tokens=12, **settings)
    start = load_file(Path(made.model) / "model.safetensors")
    assert largest(one, start) > 1e-4
    assert largest(one, many) <= 1e-6
    for first, second in zip(metrics(made, "one"), metrics(made, "many"), strict=True):
        for name in first:
            if name.startswith((objective, "kl_", "drift/")):
                assert first[name] == pytest.approx(second[name], rel=1e-3, abs=1e-6), name


def publish_supports(made: Any, publish_rows: Any, kind: str) -> None:
    """The teacher's log p at five ids of each token of the pool."""
    samples, random, shards = made.lake.slices("samples")[0], np.random.default_rng(1), []
    for shard in range(len(samples.shards)):
        rows = made.lake.read_shard(samples, shard, ["group_id", "sample_index", "n_tokens"]).to_pylist()
        for one in rows:
            count = one.pop("n_tokens")
            p_tk = random.dirichlet(np.ones(6), count)[:, :5]
            ids = [random.choice(290, 5, replace=False) for _ in range(count)]
            one |= {"sizes": [5] * count, "ids": np.concatenate(ids), "logprobs": np.log(p_tk).ravel(), "kind": kind}
        shards.append(rows)
    spec = {"kind": kind, "k": 5} | ({"policy": samples.models["policy"]} if kind == "student_m" else {})
    publish_rows(made.lake, "soft_targets", soft_targets_key(samples, "teacher", spec), shards, "tiny-teacher")


@pytest.mark.parametrize(("single", "kind"), [("coarse", "top_k"), ("student_topk", "student_m")])
def test_minillm_over_several_ids_does_not_depend_on_micro_batches(
    taught: Any, publish_rows: Any, single: str, kind: str
) -> None:
    publish_supports(taught, publish_rows, kind)
    settings = {"objective": "minillm", "steps": 3, "optimiser__lr": 0.02, "losses__kl": 0.1}
    drawn = weights(taught, "drawn", **settings)
    settings["clip__teacher"] = Teacher(single=single)
    one = weights(taught, "one", replay__micro_batch_tokens=100_000, **settings)
    many = weights(taught, "many", replay__micro_batch_tokens=12, **settings)
    assert largest(one, drawn) > 1e-4
    assert largest(one, many) <= 1e-6
    assert metrics(taught, "one")[0]["minillm/single_kl"] > metrics(taught, "one")[2]["minillm/single_kl"] > 0


def test_phases_and_lines_stand_in_the_log_as_configured(made: Any) -> None:
    phases = [{"steps": 2, "rl": 0, "bc": {"from": 1.0, "to": 0.5, "steps": 1}}, {"steps": 1, "kl": 0.3}]
    line = {"from": 0.4, "to": 0.0, "steps": 4}
    weights(made, "phases", steps=5, losses__bc=line, losses__kl=0.1, losses__phases=phases, losses__cycle=True,
            replay__bc="teacher")  # fmt: skip
    told = [tuple(row[f"weight/{name}"] for name in ("rl", "bc", "kl")) for row in metrics(made, "phases")]
    assert told == [(0, 1.0, 0), (0, 0.5, 0), (1, 0.4, 0.3), (0, 1.0, 0), (0, 0.5, 0)]


@pytest.mark.parametrize(("objective", "unit"), [("seq_tis", "sequence"), ("tis", "token")])
def test_the_rate_follows_the_logged_ess(made: Any, objective: str, unit: str) -> None:
    weights(made, "scaled", steps=4, objective=objective, optimiser__lr=5.0, optimiser__lr_scale="sqrt_ess")
    rows = metrics(made, "scaled")
    assert min(row["lr_scale"] for row in rows) < 0.99
    for row in rows:
        assert row["lr_scale"] == pytest.approx(math.sqrt(row[f"drift/{unit}_ess"]), rel=1e-9)
        assert row["lr"] == pytest.approx(5.0 * row["lr_scale"], rel=1e-9)


def test_the_scaled_rate_is_the_one_that_moves_the_weights(made: Any) -> None:
    settings = {"objective": "naive", "optimiser__lr": 2.0}  # without a ratio: the second step still has a gradient
    first = weights(made, "first", steps=1, **settings)
    plain = weights(made, "plain", steps=2, **settings)
    scaled = weights(made, "scaled", steps=2, optimiser__lr_scale="sqrt_ess", **settings)
    scale = metrics(made, "scaled")[1]["lr_scale"]
    assert scale < 0.95 and largest(plain, first) > 1e-3
    for name, value in first.items():
        torch.testing.assert_close(scaled[name] - value, scale * (plain[name] - value), atol=1e-5, rtol=1e-4)


def test_beta_is_steered_to_its_target_from_the_logged_kl(made: Any) -> None:
    from trainer.config import Leash

    weights(made, "steered", steps=4, losses__kl=0.1, losses__leash=Leash(target=1e-3, rate=0.5), optimiser__lr=1.0)
    rows = metrics(made, "steered")
    beta = 0.1
    for row in rows:
        assert row["weight/kl"] == pytest.approx(beta, rel=1e-9)
        beta *= 1 + 0.5 * min(max(row["kl_k3"] / 1e-3 - 1, -0.2), 0.2)
    assert rows[-1]["weight/kl"] != 0.1


def test_a_reference_that_is_renewed_every_step_is_never_left(made: Any) -> None:
    from trainer.config import Reference

    settings = {"steps": 3, "losses__kl": 0.1, "optimiser__lr": 1.0}
    weights(made, "fixed", **settings)
    weights(made, "renewed", losses__reference=Reference(kind="periodic", every=1), **settings)
    weights(made, "every2", losses__reference=Reference(kind="periodic", every=2), **settings)
    fixed, renewed, every2 = (metrics(made, name) for name in ("fixed", "renewed", "every2"))
    assert fixed[-1]["kl_k3"] > 1e-4
    assert all(abs(row["kl_k3"]) <= 1e-6 for row in renewed)
    assert abs(every2[2]["kl_k3"]) <= 1e-6 < every2[1]["kl_k3"]


def test_a_running_reference_that_never_moves_is_the_initial_one(made: Any) -> None:
    from trainer.config import Reference

    settings = {"steps": 3, "losses__kl": 0.5, "optimiser__lr": 0.5}
    fixed = weights(made, "initial", **settings)
    still = weights(made, "still", losses__reference=Reference(kind="ema", decay=1.0), **settings)
    moving = weights(made, "moving", losses__reference=Reference(kind="ema", decay=0.5), **settings)
    assert largest(fixed, still) <= 2e-5  # cached scores are rounded to 15 bits
    assert largest(fixed, moving) > 1e-4


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ({"metric": "drift/sequence_ess", "below": 0.9}, {"optimiser__lr": 20.0}),
        ({"metric": "probe/kl", "above": 0.01}, {"optimiser__lr": 20.0, "probe__every": 1, "probe__kl": True}),
        ({"metric": "probe/length", "below": 1e9, "after": 2}, {"probe__every": 1}),
        ({"metric": "probe/points", "patience": 2}, {"optimiser__lr": 0.0, "probe__every": 1}),
        ({"metric": "drift/clipped", "above": 0.0, "patience": 3}, {}),
    ],
)
def test_each_stop_rule_ends_a_run_and_its_reason_is_in_the_lake(made: Any, rule: Any, settings: Any) -> None:
    weights(made, "stopped", steps=6, stop=[rule], **settings)
    assert len(metrics(made, "stopped")) < 6
    assert str(reason(made, "stopped")).startswith(rule["metric"])


def test_the_guard_pauses_replay_until_the_figure_is_back(made: Any) -> None:
    rule = {"metric": "probe/length", "below": 1e9, "weights": {"rl": 0, "pt": 0.5}}
    weights(made, "guarded", steps=3, probe__every=1, losses__pt=0.1, probe__guard=[rule])
    assert [(row["weight/rl"], row["weight/pt"]) for row in metrics(made, "guarded")] == [(1, 0.1), (0, 0.5), (0, 0.5)]


def test_a_run_with_copies_and_controllers_resumes_bit_by_bit(made: Any) -> None:
    from trainer import loop
    from trainer.config import Leash, Reference

    settings = {
        "steps": 6, "losses__kl": 0.1, "losses__leash": Leash(target=1e-3), "objective": "decoupled",
        "losses__reference": Reference(kind="ema", decay=0.9, block=4), "checkpoint__every": 3,
    }  # fmt: skip
    whole = weights(made, "whole", **settings)
    real, seen = loop.one_step, []

    def killed(training: Any) -> None:
        if training.step == 5 and not seen:
            seen.append(True)
            raise KeyboardInterrupt
        real(training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "one_step", killed)
        with pytest.raises(KeyboardInterrupt):
            weights(made, "cut", **settings)
    weights(made, "cut", **{**settings, "resume": "cut"})
    cut = load_file(Path(made.recipe.runs) / "cut" / "final" / "model.safetensors")
    assert largest(whole, cut) == 0
