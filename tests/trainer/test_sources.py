"""What a run finds in the lake, what it says of it, and what names its configuration."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.lake import Key
from data.manifest import Slice
from data.refusal import Refusal
from trainer.config import Losses
from trainer.loop import train
from trainer.sources import configuration_hash, resolve

POOL = {"losses__bc": 0.0, "losses__pt": 0.0, "steps": 1}


def imported(made: Any, publish: Callable[..., Slice], **columns: Any) -> Any:
    """The pool once more as an import, with other values in the columns of its groups and without scores."""
    lake, samples = made.lake, made.lake.slices("samples")[0]
    groups = lake.slice(samples.parent("groups"))
    prompts = lake.slice(groups.parent("prompts"))
    rows = [{**row, **columns} for row in lake.read(groups).to_pylist()]
    settings = {**samples.settings, "import": {"kind": "samples", "temperature": 1.0}}
    copy = publish(lake, "groups", Key(settings, (prompts,), groups.models), [rows[:3], rows[3:]], "tiny")
    taken = lake.read(samples).to_pylist()
    there = publish(lake, "samples", Key(settings, (copy,), samples.models), [taken[:12], taken[12:]], "tiny")
    points = lake.slices("rewards", label="points")[0]
    values = lake.read(points).to_pylist()
    publish(lake, "rewards", Key(points.settings, (there, copy, prompts)), [values[:12], values[12:]], "points")
    column = Key({"import": {"column": "stars"}}, (there, copy, prompts))
    publish(lake, "rewards", column, [values[:12], values[12:]], "stars")
    return made


def test_an_import_without_behaviour_is_flagged_and_is_its_own_reference(
    made: Any, publish_rows: Callable[..., Slice], capsys: pytest.CaptureFixture[str]
) -> None:
    train(imported(made, publish_rows, logprobs_mode="rescored").with_(run="rescored", losses__kl=0.5, **POOL))
    said = capsys.readouterr().out
    assert sum(line.startswith("warning: μ of samples/tiny") for line in said.splitlines()) == 1
    assert (Path(made.recipe.runs) / "rescored" / "final" / "model.safetensors").is_file()


def test_a_truncated_support_is_said_in_one_line(made: Any, publish_rows: Callable[..., Slice]) -> None:
    reading = resolve(imported(made, publish_rows, support="truncated").with_(**{**POOL, "losses__kl": 0.0}))
    assert sum("truncated support" in note for note in reading.notes) == 1


def test_a_pool_without_behaviour_is_refused(made: Any, publish_rows: Callable[..., Slice]) -> None:
    with pytest.raises(Refusal, match="no behaviour log-probabilities"):
        resolve(imported(made, publish_rows, logprobs_mode="none").with_(**{**POOL, "losses__kl": 0.0}))


def test_imported_rewards_answer_to_their_label(made: Any, publish_rows: Callable[..., Slice]) -> None:
    there = imported(made, publish_rows)
    reading = resolve(there.with_(reward="2*stars", **{**POOL, "losses__kl": 0.0}))
    assert any(path.startswith("rewards/stars") for path in reading.paths)
    with pytest.raises(Refusal, match="did you mean 'stars'"):
        resolve(there.with_(reward="strs", **{**POOL, "losses__kl": 0.0}))


def test_a_foreign_shard_is_refused_before_the_run_begins(made: Any) -> None:
    scores = made.lake.slices("scores")[0].files
    scores[0].write_bytes(scores[1].read_bytes())
    with pytest.raises(Refusal, match="another slice"):
        train(made.with_(**POOL))
    assert not Path(made.recipe.runs).exists()


def test_a_configuration_is_named_by_what_changes_its_result(made: Any, tmp_path: Path) -> None:
    def named(**changes: Any) -> str:
        recipe = made.with_(**{**POOL, **changes})
        return configuration_hash(recipe, resolve(recipe))

    plain = named()
    shutil.copytree(made.lake.root, tmp_path / "moved")
    same = [{"run": "x"}, {"reuse": True}, {"lake": str(tmp_path / "moved")}, {"runs": "elsewhere"}]
    same += [{"checkpoint__every": 3}, {"replay__micro_batch_tokens": 7}]
    assert all(named(**changes) == plain for changes in same)
    other = [{"seed": 1}, {"optimiser__lr": 1e-4}, {"reward": "points + length"}, {"steps": 2}, {"objective": "tis"}]
    other += [{"replay__prompts": 7}, {"losses__kl": 0.3}]
    assert len({plain, *(named(**changes) for changes in other)}) == 1 + len(other)


def test_a_policy_of_a_run_starts_at_its_weights(made: Any, publish_rows: Callable[..., Slice]) -> None:
    train(made.with_(run="first", **POOL))
    recipe = made.with_(policy="run:first", **{**POOL, "losses__rl": 0.0, "losses__pt": 1.0})
    reading = resolve(dataclasses.replace(recipe))
    assert reading.start.folder == Path(made.recipe.runs) / "first" / "final"
    assert reading.start.identity["tokenizer"] == resolve(made.with_(**POOL)).start.identity["tokenizer"]
    with pytest.raises(Refusal, match="another policy"):
        resolve(made.with_(policy="run:first", pool="tiny", **POOL))


@pytest.mark.parametrize("term", ["rl", "pt"])
def test_a_weight_that_rises_from_zero_is_read_when_epochs_say_the_steps(made: Any, term: str) -> None:
    rising = {"from": 0, "to": 1, "steps": 5}
    weights = {f"losses__{name}": 0.0 for name in ("rl", "pt", "kl")} | {"losses__bc": 1.0, f"losses__{term}": rising}
    found = resolve(made.with_(**weights, replay__epochs=2.0, replay__bc="teacher"))
    assert found.pool is not None if term == "rl" else found.corpus is not None


def test_what_the_probe_may_say_is_part_of_the_configuration(made: Any) -> None:
    recipe = made.with_(losses__rl=0.0, losses__kl=0.0, losses__bc=0.0, losses__pt=1.0, probe__every=1)
    shorter = dataclasses.replace(recipe, sampling=dataclasses.replace(recipe.sampling, max_tokens=5))
    assert configuration_hash(recipe, resolve(recipe)) != configuration_hash(shorter, resolve(shorter))


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ({"rl": 1.0, "phases": [{"steps": 2}, {"steps": 3, "rl": 0}]}, "from step 3 on .* in 3 steps"),
        ({"rl": {"from": 1, "to": 0, "steps": 4}}, "from step 5 on .* in 6 steps"),
        ({"rl": 1.0, "phases": [{"steps": 1}, {"steps": 1, "rl": 0}], "cycle": True}, "from step 2 on .* in 5 steps"),
    ],
)
def test_steps_that_would_train_nothing_are_refused_before_the_run(
    made: Any, losses: dict[str, Any], said: str
) -> None:
    weights = {"bc": 0.0, "pt": 0.0, "kl": 0.5, **losses}
    with pytest.raises(Refusal, match=said):
        train(made.with_(losses=Losses(**weights), steps=10))
    assert not Path(made.recipe.runs).exists()
    resolve(made.with_(losses=Losses(**{**weights, "pt": 0.1}), steps=10))


def test_memory_and_speed_are_not_part_of_the_configuration_but_rounding_is(made: Any) -> None:
    recipe = made.with_(losses__rl=0.0, losses__kl=0.0, losses__bc=0.0, losses__pt=1.0)
    smaller = made.with_(losses__rl=0.0, losses__kl=0.0, losses__bc=0.0, losses__pt=1.0, replay__micro_batch_tokens=7)
    optimiser = recipe.trainer.optimiser

    def with_compute(**changes: Any) -> Any:
        compute = dataclasses.replace(optimiser.compute, **changes)
        changed = dataclasses.replace(optimiser, compute=compute)
        return dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, optimiser=changed))

    hashes = {
        name: configuration_hash(one, resolve(one))
        for name, one in {
            "own": recipe,
            "smaller": smaller,
            "fsdp": with_compute(
                parallel="fsdp", layout="plain", activation_checkpointing=True, prefetch=0, memory=9.0
            ),
            "half": with_compute(autocast="bfloat16"),
        }.items()
    }
    assert hashes["own"] == hashes["smaller"] == hashes["fsdp"] != hashes["half"]
