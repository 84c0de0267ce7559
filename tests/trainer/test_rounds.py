from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.lake import Lake
from data.refusal import Refusal
from trainer import rounds as module
from trainer.config import Probe, TrainerRecipe, TrainerSettings
from trainer.journal import Run
from trainer.rounds import children, divided, last_value, main, metric_of, note, rounds, verdict
from trainer.rounds_config import RoundsSettings

PROBE = {"exact": {"use": "similarity", "metric": "exact", "to": "references"}}
ROOT = Path(__file__).resolve().parents[2]


def test_a_value_that_does_not_beat_the_best_ends_the_rounds_after_the_patience():
    assert verdict([0.3], "probe/exact", 1) is None
    assert verdict([0.3, 0.4], "probe/exact", 1) is None
    assert verdict([0.3, 0.3], "probe/exact", 1) == "probe/exact no better than round 1 (0.3 against 0.3)"
    assert verdict([0.3, 0.5, 0.4], "probe/exact", 1) == "probe/exact no better than round 2 (0.4 against 0.5)"
    assert verdict([0.3, 0.5, 0.4], "probe/exact", 2) is None
    assert verdict([0.5, 0.4, 0.3], "probe/exact", 2) is not None


def test_words_go_to_those_who_read_them():
    own, flags, shared = ["rounds=3"], ["--config-dir", "mine"], ["recipe=demo", "lake=there", "seed=4"]
    trainer = ["steps=5", "trainer.replay.prompts=2", "optimiser.lr=1"]
    factory = ["shard_groups=8", "factory.strict=true", "engine.batch_tokens=9"]
    words = divided([*trainer[:1], *factory, *own, *flags, *shared, *trainer[1:]])
    assert (words.own, words.flags, words.shared) == (own, flags, shared)
    assert (words.trainer, words.factory) == (trainer, factory)
    assert divided(["recipe=demo", "--config-dir=mine"]).flags == flags


def test_files_of_a_group_are_chosen_for_both_commands_but_who_computes_for_the_factory_alone():
    """`arm=replay` that reached the factory alone trained the recipe's own arm under the other's name."""
    shared = ["recipe=evidence", "arm=replay", "corpus=[wikipedia_fo]", "model@student=mistral7b"]
    factory = ["executor=local", "executor.workers=2", "engine=vllm", "endpoint=openai"]
    words = divided([*factory, *shared])
    assert (words.shared, words.factory, words.trainer) == (shared, factory, [])


@pytest.mark.parametrize("word", ["policy=run:x", "resume=x", "-m"])
def test_what_rounds_choose_themselves_is_refused(word, capsys):
    assert main(["recipe=demo", "rounds=2", word]) == 2
    assert "here" in capsys.readouterr().err


def recipe(tmp_path, **trainer):
    settings = TrainerSettings(**({"probe": Probe(every=5, components=PROBE)} | trainer))
    return TrainerRecipe(name="tiny", lake=str(tmp_path / "lake"), runs=str(tmp_path / "runs"), trainer=settings)


def test_a_later_round_draws_from_the_last_rounds_policy_and_makes_only_what_hangs_on_it(tmp_path):
    words = divided(["recipe=tiny", "seed=3", "stages=[prompts,samples]", "steps=5", "rounds=2"])
    first = children("tiny", 1, recipe(tmp_path), words)
    assert first[0] == ["factory", "recipe=tiny", "seed=3", "stages=[prompts,samples]"]
    assert first[1] == ["trainer", "recipe=tiny", "seed=3", "steps=5", "reuse=true", "run=tiny-round1"]
    second = children("tiny", 2, recipe(tmp_path), words)
    policy = "policy=run:tiny-round1"
    assert second[0] == ["factory", "recipe=tiny", "seed=3", policy, "stages=[samples,scores,rewards]"]
    assert second[1] == ["trainer", "recipe=tiny", "seed=3", policy, "steps=5", "reuse=true", "run=tiny-round2"]


def test_the_metric_is_the_one_given_or_the_probes_own(tmp_path):
    assert metric_of(RoundsSettings(rounds=2), recipe(tmp_path)) == "probe/exact"
    assert metric_of(RoundsSettings(rounds=2, metric="probe/n_tokens"), recipe(tmp_path)) == "probe/n_tokens"
    silent = recipe(tmp_path, probe=Probe())
    assert metric_of(RoundsSettings(rounds=2), silent) is None
    with pytest.raises(Refusal, match="has no probe"):
        metric_of(RoundsSettings(rounds=2, metric="probe/exact"), silent)


def fake(tmp_path, values, monkeypatch):
    """Children that leave what the real ones leave; the names of those that ran."""
    ran = []

    def called(words):
        name = next((w.removeprefix("run=") for w in words if w.startswith("run=")), None)
        ran.append((words[0], name))
        if name is not None:
            run = Run(name, tmp_path / "runs" / name)
            run.folder.mkdir(parents=True, exist_ok=True)
            line = {"step": 5, "probe/exact": values[int(name[-1]) - 1]}
            run.metrics_path.write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n" + json.dumps(line) + "\n")
            if run.record is None:
                run.write_record(
                    {"configuration": {}, "configuration_hash": "c", "slices": [], "status": "finished", "steps": 5}
                    | {"reason": "matched it", "reward_sql": None, "recipe": "tiny", "seconds": 1.0}
                )
        return 0

    monkeypatch.setattr(module, "called", called)
    return ran


def reasons(tmp_path):
    rows = Lake.open(tmp_path / "lake").sql("SELECT run, reason FROM runs ORDER BY run").to_pylist()
    return {row["run"]: row["reason"] for row in rows}


def test_rounds_stop_where_the_probe_stops_and_say_why_in_runs(tmp_path, monkeypatch, capsys):
    ran = fake(tmp_path, [0.3, 0.5, 0.5, 0.9], monkeypatch)
    (tmp_path / "lake").mkdir()
    assert rounds(RoundsSettings(rounds=4), recipe(tmp_path), divided(["recipe=tiny"])) == 0
    assert [name for what, name in ran if what == "trainer"] == ["tiny-round1", "tiny-round2", "tiny-round3"]
    why = "probe/exact no better than round 2 (0.5 against 0.5)"
    assert f"no further round: {why}" in capsys.readouterr().out
    assert reasons(tmp_path) == {"tiny-round3": f"matched it; rounds: {why}"}
    assert rounds(RoundsSettings(rounds=4), recipe(tmp_path), divided(["recipe=tiny"])) == 0
    assert reasons(tmp_path)["tiny-round3"] == f"matched it; rounds: {why}"  # said once
    assert rounds(RoundsSettings(rounds=4, patience=2), recipe(tmp_path), divided(["recipe=tiny"])) == 0
    assert ran[-1] == ("trainer", "tiny-round4") and reasons(tmp_path)["tiny-round3"] == "matched it"


def test_without_a_probe_all_rounds_are_run(tmp_path, monkeypatch):
    ran = fake(tmp_path, [0.5, 0.4, 0.3], monkeypatch)
    settings = RoundsSettings(rounds=3, run="mine")
    assert rounds(settings, recipe(tmp_path, probe=Probe()), divided(["recipe=tiny"])) == 0
    assert ran[-1] == ("trainer", "mine-round3")


def test_the_exit_code_of_a_child_that_fails_is_ours(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(module, "called", lambda words: ran.append(words[0]) or (3 if words[0] == "trainer" else 0))
    assert rounds(RoundsSettings(rounds=2), recipe(tmp_path), divided(["recipe=tiny"])) == 3
    assert ran == ["factory", "trainer"]


def test_a_metric_that_the_probe_does_not_give_is_refused_with_the_nearest(tmp_path, monkeypatch):
    fake(tmp_path, [0.3], monkeypatch)
    module.called(["trainer", "run=tiny-round1"])
    assert last_value(recipe(tmp_path), "tiny-round1", "probe/exact") == 0.3
    with pytest.raises(Refusal, match="did you mean 'probe/exact'"):
        last_value(recipe(tmp_path), "tiny-round1", "probe/exakt")


def test_a_note_without_a_reason_writes_nothing_new(tmp_path, monkeypatch):
    fake(tmp_path, [0.3], monkeypatch)
    module.called(["trainer", "run=tiny-round1"])
    note(recipe(tmp_path), "tiny-round1", None)
    assert not (tmp_path / "lake").exists()


TINY = """# @package _global_
# two rounds of a tiny student without a teacher
name: tiny
student: {{path: {model}}}
prompts: {{path: {prompts}, held_out: '0.3'}}
sampling: {{n: 4, max_tokens: 6}}
components: {{chrf: {{use: similarity, metric: chrf, to: references}}}}
reward: chrf
factory: {{stages: [prompts, samples, scores, rewards]}}
trainer:
  steps: 3
  losses: {{rl: 1, bc: 0, pt: 0, kl: 0.02}}
  replay: {{prompts: 4, truncated: keep}}
  optimiser: {{lr: 1e-3}}
  probe: {{every: 3, max_tokens: 6}}
"""


@pytest.mark.slow
def test_two_rounds_of_a_tiny_student_run_by_the_real_commands_and_are_found_again(tmp_path, tiny_model):
    prompts = tmp_path / "prompts.jsonl"
    questions = [
        {"messages": [{"role": "user", "content": f"what is {i}?"}], "references": ["the sun shines on the island"]}
        for i in range(24)
    ]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in questions), encoding="utf-8")
    (tmp_path / "conf" / "recipe").mkdir(parents=True)
    text = TINY.format(model=tiny_model("llama"), prompts=prompts)
    (tmp_path / "conf" / "recipe" / "tiny.yaml").write_text(text, encoding="utf-8")

    def run():
        words = ["--config-dir", str(tmp_path / "conf"), "recipe=tiny", "rounds=2", "metric=probe/chrf"]
        places = [f"lake={tmp_path / 'lake'}", f"runs={tmp_path / 'runs'}"]
        command = [sys.executable, "-m", "trainer.rounds", *words, *places]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300)

    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    rows = Lake.open(tmp_path / "lake").sql("SELECT run, policy, model_id FROM runs ORDER BY run").to_pylist()
    assert [row["run"] for row in rows] == ["tiny-round1", "tiny-round2"]
    assert rows[1]["policy"] == rows[0]["model_id"] != rows[0]["policy"]
    assert "round 2: probe/chrf" in done.stdout
    again = run()
    assert again.returncode == 0 and again.stdout.count("found run tiny-round") == 2
