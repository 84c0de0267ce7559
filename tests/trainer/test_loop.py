"""A run's life: new, found, refused, killed and resumed; what stands in its folder and in the journal afterwards."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from data.refusal import Refusal
from trainer import loop
from trainer.loop import train
from trainer.prepare import step_count
from trainer.sources import resolve

HYBRID = {
    "objective": "seq_tis",
    "losses__bc": 0.5,
    "losses__pt": 0.2,
    "replay__prompts": 2,
    "replay__answers": 2,
    "replay__corpus_tokens": 9,
    "replay__bc": "teacher",
    "optimiser__lr": 1e-3,
    "optimiser__ema": 0.5,
    "optimiser__warmup": 2,
    "optimiser__schedule": "cosine",
    "steps": 6,
}
EXACT = {"exact": {"use": "similarity", "metric": "exact"}}
PROBE = {"probe__every": 2, "probe__max_tokens": 4, "probe__components": EXACT}


def folder(made: Any, run: str) -> Path:
    return Path(made.recipe.runs) / run


def metrics(made: Any, run: str) -> list[dict[str, float]]:
    lines = (folder(made, run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_second"} for line in lines]


class Killed(BaseException):
    """What a signal does to a run, without a process of its own."""


def killed_at(monkeypatch: pytest.MonkeyPatch, made: Any, step: int, recipe: Any) -> None:
    """Train until `step` begins, then vanish."""
    real = loop.one_step

    def dying(training: Any) -> None:
        if training.step == step:
            raise Killed
        real(training)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "one_step", dying)
        with pytest.raises(Killed):
            train(recipe)


@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_killed_run_resumes_to_the_same_bytes_and_the_same_metrics(
    made: Any, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    same = {**HYBRID, **PROBE, "checkpoint__every": 2, "probe__kl": True, "probe__sampled": True}
    train(made.with_(run="whole", **same))
    killed_at(monkeypatch, made, step, made.with_(run="cut", **same))
    train(made.with_(resume="cut", **same))
    whole, cut = (folder(made, run) / "final" / "model.safetensors" for run in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
    assert metrics(made, "whole") == metrics(made, "cut")
    rows = _journal(made, "metrics", "cut")
    assert len({(row["step"], row["name"]) for row in rows}) == len(rows)


def test_a_run_killed_after_its_last_step_ends_there_when_resumed(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = {"metric": "loss/bc", "above": 0.0, "after": 4}
    same = {**HYBRID, "checkpoint__every": 2, "stop": [rule]}

    def killed(*_: Any) -> None:
        raise Killed

    train(made.with_(run="whole", **same))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "finish", killed)
        with pytest.raises(Killed):
            train(made.with_(run="cut", **same))
    train(made.with_(resume="cut", **same))
    whole, cut = (folder(made, run) / "final" / "model.safetensors" for run in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
    assert [row["step"] for row in metrics(made, "cut")] == [1, 2, 3, 4]
    (row,) = _journal(made, "runs", "cut")
    assert (row["status"], row["reason"]) == ("stopped", "loss/bc above 0")
    assert "| loss/bc |" in (cut.parent / "README.md").read_text(encoding="utf-8")


def test_a_run_that_is_being_trained_is_refused_to_a_second_process(made: Any) -> None:
    import filelock

    lock = filelock.FileLock(folder(made, "busy") / ".lock")
    folder(made, "busy").mkdir(parents=True)
    with lock, pytest.raises(Refusal, match="being trained by another process"):
        train(made.with_(run="busy", **HYBRID))
    train(made.with_(run="busy", **HYBRID))


def _journal(made: Any, table: str, run: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return list(pq.read_table(made.lake.root / table / "journal" / f"{run}.parquet").to_pylist())


def test_a_finished_run_stands_in_the_journal_with_its_slices_and_its_sql(made: Any) -> None:
    train(made.with_(run="done", **HYBRID))
    (row,) = _journal(made, "runs", "done")
    assert row["status"] == "finished" and row["steps"] == 6 and row["recipe"] == "tiny"
    assert {path.split("/")[0] for path in json.loads(row["slices"])} == {
        "prompts", "groups", "samples", "rewards", "scores", "answers", "answer_tokens", "corpus",
    }  # fmt: skip
    assert "points" in row["reward_sql"]
    names = {r["name"] for r in _journal(made, "metrics", "done")}
    assert {"loss/bc", "loss/pt", "drift/sequence_ess", "seq_tis/capped", "lr", "gradient_norm", "kl_k3"} <= names
    (cost,) = _journal(made, "costs", "training-done")
    assert cost["stage"] == "training" and cost["produced"] == "done" and cost["tokens_in"] > 0


def test_the_final_folder_loads_in_transformers_and_keeps_the_tokens_fingerprint(made: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from data.fingerprint import tokenizer_fingerprint

    train(made.with_(run="loads", **HYBRID))
    final = folder(made, "loads") / "final"
    model = AutoModelForCausalLM.from_pretrained(final)
    assert AutoTokenizer.from_pretrained(final).chat_template
    saved = load_file(final / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items() if name in saved)
    assert tokenizer_fingerprint(final) == tokenizer_fingerprint(Path(made.model))
    card = (final / "README.md").read_text(encoding="utf-8")
    assert made.lake.slices("samples")[0].path in card and "SELECT" in card


def test_the_card_has_the_front_matter_of_hubs_the_last_probe_and_how_it_was_trained(made: Any) -> None:
    import huggingface_hub

    train(made.with_(run="carded", **HYBRID, **{**PROBE, "probe__every": 4}))
    loaded = huggingface_hub.ModelCard.load(folder(made, "carded") / "final" / "README.md")
    assert (loaded.data.library_name, loaded.data.base_model, loaded.data.tags) == ("transformers", None, ["grpo-kd"])
    (last,) = [row for row in metrics(made, "carded") if row["step"] == 6]
    probe = loaded.text.partition("## Last probe")[2].partition("## Last step")[0]
    assert "At step 6" in probe and f"| probe/exact | {last['probe/exact']:.6g} |" in probe and "lr" not in probe
    how = loaded.text.partition("## How it was trained")[2].partition("##")[0]
    assert "1 · seq_tis" in how and "bc 0.5, pt 0.2" in how and "all weights" in how and "`points`" in how
    assert "Licences of their prompts and documents: CC-BY-4.0, CC0-1.0." in loaded.text


def test_the_card_names_a_base_model_only_where_it_is_a_hubs(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.card import front_matter

    kept: list[Any] = []
    monkeypatch.setattr(loop, "finish", lambda training, record: kept.append(training))
    train(made.with_(run="kept", **HYBRID))
    start = kept[0].reading.start
    assert "base_model" not in front_matter(kept[0])
    settings = dataclasses.replace(start.settings, path="owner/name-1.5")
    kept[0].reading.start = dataclasses.replace(start, settings=settings)
    assert "base_model: owner/name-1.5\nbase_model_relation: finetune\n" in front_matter(kept[0])


def test_the_average_of_the_weights_is_what_is_saved(made: Any) -> None:
    train(made.with_(run="plain", **{**HYBRID, "optimiser__ema": None, "steps": 1}))
    train(made.with_(run="average", **{**HYBRID, "optimiser__ema": 0.75, "steps": 1}))
    start = load_file(Path(made.model) / "model.safetensors")
    plain, average = (load_file(folder(made, r) / "final" / "model.safetensors") for r in ("plain", "average"))
    for name, value in average.items():
        assert (value - (0.75 * start[name] + 0.25 * plain[name])).abs().max() <= 1e-7


def test_a_checkpoints_folder_is_the_average_that_the_probe_asked(made: Any) -> None:
    best = {"checkpoint__best": "probe/exact", "checkpoint__every": 2, "checkpoint__keep": 9}
    train(made.with_(run="kept", **{**HYBRID, **PROBE, **best, "optimiser__ema": 0.75, "steps": 2}))
    kept, final = (folder(made, "kept") / name / "model.safetensors" for name in ("checkpoint-2", "final"))
    assert kept.read_bytes() == final.read_bytes()
    state = load_file(folder(made, "kept") / "checkpoint-2" / "training" / "state.safetensors")
    own, average = ({n: v for n, v in state.items() if n.startswith(f"{kind}/")} for kind in ("weights", "average"))
    assert len(own) == len(average) and any((own[f"weights/{n[8:]}"] != v).any() for n, v in average.items())


def test_a_run_that_exists_is_refused_and_found_where_the_recipe_reuses(made: Any, capsys: Any) -> None:
    train(made.with_(run="once", **HYBRID))
    before = {path: path.read_bytes() for path in folder(made, "once").rglob("*") if path.is_file()}
    with pytest.raises(Refusal, match="run once exists"):
        train(made.with_(run="once", **HYBRID))
    capsys.readouterr()
    train(made.with_(run="once", reuse=True, **HYBRID))
    assert "found run once of this configuration: nothing to train" in capsys.readouterr().out
    with pytest.raises(Refusal, match="under another configuration"):
        train(made.with_(run="once", reuse=True, **{**HYBRID, "optimiser__lr": 2e-3}))
    assert before == {path: path.read_bytes() for path in folder(made, "once").rglob("*") if path.is_file()}


def test_an_unfinished_run_is_refused_without_resume_and_resumed_by_reuse(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = made.with_(run="half", **HYBRID, checkpoint__every=2)
    killed_at(monkeypatch, made, 4, recipe)
    with pytest.raises(Refusal, match=r"(?s)not finished.*resume=half"):
        train(recipe)
    with pytest.raises(Refusal, match="another configuration"):
        train(made.with_(resume="half", **{**HYBRID, "steps": 7}))
    train(made.with_(run="half", reuse=True, **HYBRID, checkpoint__every=2))
    assert json.loads((folder(made, "half") / "run.json").read_text(encoding="utf-8"))["status"] == "finished"
    with pytest.raises(Refusal, match="nothing is left"):
        train(made.with_(resume="half", **HYBRID))
    with pytest.raises(Refusal, match=r"no run named hal.*half"):
        train(made.with_(resume="hal", **HYBRID))


def test_a_run_without_a_name_is_named_by_what_changes_its_result(made: Any) -> None:
    train(made.with_(**{**HYBRID, "steps": 1}))
    train(made.with_(**{**HYBRID, "steps": 1, "optimiser__lr": 2e-3}))
    with pytest.raises(Refusal, match="exists"):
        train(made.with_(**{**HYBRID, "steps": 1}, checkpoint__keep=3))
    assert len(list(Path(made.recipe.runs).glob("tiny-????????"))) == 2


def test_a_sweep_over_seeds_trains_from_one_pool(made: Any) -> None:
    for seed in (0, 5):
        train(made.with_(run=f"seed{seed}", seed=seed, **{**HYBRID, "steps": 1}))
    first, second = (folder(made, f"seed{seed}") / "final" / "model.safetensors" for seed in (0, 5))
    assert first.read_bytes() != second.read_bytes()


def test_only_the_newest_checkpoints_and_the_best_are_kept(made: Any) -> None:
    train(made.with_(run="kept", **HYBRID, checkpoint__every=1, checkpoint__keep=2, checkpoint__best="loss/bc"))
    best = max(metrics(made, "kept"), key=lambda row: row["loss/bc"])["step"]
    steps = {int(path.name.removeprefix("checkpoint-")) for path in folder(made, "kept").glob("checkpoint-*")}
    assert steps == {5, 6, best} and best < 5


def test_the_probe_measures_at_its_steps_and_at_the_end(made: Any) -> None:
    train(made.with_(run="probed", **{**HYBRID, **PROBE, "steps": 5, "probe__kl": True, "optimiser__ema": None}))
    probed = {row["step"]: row for row in metrics(made, "probed") if "probe/exact" in row}
    assert set(probed) == {2, 4, 5}
    assert all(0 <= row["probe/exact"] <= 1 and 1 <= row["probe/n_tokens"] <= 4 for row in probed.values())
    assert probed[5]["probe/kl"] != 0


def test_a_run_stops_when_its_rule_says_so_and_says_why(made: Any) -> None:
    rule = {"metric": "probe/n_tokens", "above": 0.5, "after": 3}
    train(made.with_(run="stopped", **{**HYBRID, **PROBE}, stop=[rule]))
    assert metrics(made, "stopped")[-1]["step"] == 4
    (row,) = _journal(made, "runs", "stopped")
    assert (row["status"], row["reason"], row["steps"]) == ("matched", "probe/n_tokens above 0.5", 4)


def test_training_needs_no_pool_where_rl_has_no_weight(made: Any) -> None:
    import shutil

    for table in ("samples", "groups", "rewards", "scores"):
        shutil.rmtree(made.lake.root / table)
    train(made.with_(run="bc", **{**HYBRID, "losses__rl": 0.0}, reward=None))
    assert (folder(made, "bc") / "final" / "model.safetensors").is_file()


def test_phases_read_only_what_they_weigh(made: Any) -> None:
    train(made.with_(run="phases", **{**HYBRID, "steps": 3}, losses__phases=[{"steps": 2, "rl": 0.0, "pt": 0.0}]))
    rows = metrics(made, "phases")
    assert ["drift/token_ess" in row for row in rows] == [False, False, True]
    assert ["loss/pt" in row for row in rows] == [False, False, True]


def test_epochs_count_the_groups_that_have_a_sample_in_the_loss(made: Any) -> None:
    recipe = made.with_(losses__bc=0.0, losses__pt=0.0, replay__epochs=2.0, replay__prompts=1)
    reading = resolve(recipe)
    assert reading.pool is not None
    starts, in_loss = reading.pool.advantages.group_starts, reading.pool.in_loss.copy()
    assert step_count(recipe, reading) == 2 * len(starts)
    in_loss[: starts[1]] = False  # the first group's samples were all cut by length
    reading.pool = dataclasses.replace(reading.pool, in_loss=in_loss)
    assert step_count(recipe, reading) == 2 * (len(starts) - 1)
