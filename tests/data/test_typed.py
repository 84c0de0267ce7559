"""What a refusal's next command repeats of the words that were typed, and what keys are called elsewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from data.command import Command
from data.foreign import ALIKE, TRL
from data.pool import command
from data.refusal import Refusal
from data.settings import settings_of
from data.typed import now
from factory.config import FactoryRecipe
from trainer.config import TrainerRecipe, TrainerSettings

ROOT = Path(__file__).parents[2]
MINE = ["--config-dir", "docs/examples/mine"]


def refusing(section: str, stages: str = "samples") -> Command:
    """A command that lacks a table."""

    def body(recipe: Any) -> None:
        raise Refusal("not there", command(recipe, stages))

    return Command(section, TrainerRecipe if section == "trainer" else FactoryRecipe, body, "", [])


def next_of(capsys: pytest.CaptureFixture[str], section: str, *argv: str) -> list[str]:
    """The next command as a shell would divide it."""
    assert refusing(section).main(argv) == 2
    return shlex.split(capsys.readouterr().err.partition("next: ")[2])


def test_the_factory_is_told_what_the_trainer_was_told_and_nothing_of_the_trainers_own(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    said = next_of(
        capsys, "trainer", "recipe=capitals", *MINE, "run=own", "steps=5", "trainer.steps=6",
        "sampling.n=4", "student.path=my model", "lake=there", "components.w={use: length, unit: words}",
        "where=length > 3", "losses.bc=0", "engine=hf",
    )  # fmt: skip
    assert said == [
        "python", "-m", "factory", "recipe=capitals", *MINE, "sampling.n=4", "student.path=my model",
        "components.w={use: length, unit: words}", "where=length > 3", "engine=hf", "lake=there", "stages=[samples]",
    ]  # fmt: skip


def test_the_factory_repeats_its_own_words_but_for_the_stages(capsys):
    said = next_of(capsys, "factory", "recipe=demo", "stages=[translate]", "shard_groups=8", "estimate=true")
    assert said[3:] == ["recipe=demo", "shard_groups=8", "lake=data/lake", "stages=[samples]"]


def test_a_job_of_a_sweep_repeats_its_own_values(capsys):
    said = next_of(capsys, "trainer", "-m", "recipe=demo", "sampling.n=4,8", "seed=3")
    assert said[3:] == ["recipe=demo", "sampling.n=4", "seed=3", "lake=data/lake", "stages=[samples]"]


def test_a_recipe_made_in_python_is_named_alone():
    assert now() is None
    recipe = TrainerRecipe(name="own", lake="a lake", policy="run:x")
    assert command(recipe, "scores") == "python -m factory recipe=own 'lake=a lake' policy=run:x 'stages=[scores]'"


def test_a_next_command_composes_again(capsys):
    said = next_of(capsys, "trainer", "recipe=demo", "reward=agreement - 0.1*language", "sampling.n=4")
    kept: list[Any] = []
    assert Command("factory", FactoryRecipe, kept.append, "", []).main(said[3:]) == 0
    assert (kept[0].reward, kept[0].sampling.n) == ("agreement - 0.1*language", 4)


def test_each_job_says_what_it_is_and_the_table_stands_at_the_end(capsys):
    made: list[Any] = []
    sweep = Command(
        "trainer", TrainerRecipe, lambda recipe: made.append(recipe) or len(made), "", [],
        closing=lambda jobs, results: f"{[job.told for job in jobs]} {list(results)}",
    )  # fmt: skip
    assert sweep.main(["-m", "recipe=demo", "objective=grpo,seq_tis", "seed=1,2", "steps=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["[1/4] objective=grpo seed=1", "[2/4] objective=grpo seed=2"]
    assert lines[-1] == (
        "['objective=grpo seed=1', 'objective=grpo seed=2', 'objective=seq_tis seed=1', 'objective=seq_tis seed=2'] [1, 2, 3, 4]"
    )


def test_a_mistake_in_the_last_job_is_refused_before_the_first_one_runs(capsys):
    made: list[Any] = []
    sweep = Command("trainer", TrainerRecipe, made.append, "", [])
    assert sweep.main(["-m", "recipe=demo", "optimiser.lr=1e-5,-1"]) == 2
    assert capsys.readouterr().err.startswith("error: optimiser.lr=-1") and not made


@pytest.mark.parametrize(
    ("section", "given", "said", "to"),
    [
        ("trainer", ["lr=1e-6"], "it is optimiser.lr", "recipe=demo optimiser.lr=1e-6"),
        ("trainer", ["learning_rate=1e-6"], "TRL is optimiser.lr here", "recipe=demo optimiser.lr=1e-6"),
        ("trainer", ["beta=0.04", "steps=3"], "TRL is losses.kl here", "recipe=demo losses.kl=0.04 steps=3"),
        ("factory", ["num_generations=4"], "TRL is sampling.n here", "recipe=demo sampling.n=4"),
        ("trainer", ["scale_rewards=group"], "replay.advantage", "'replay.advantage=…'"),
        ("factory", ["beta=0.04"], "of the other command", "python -m trainer --help"),
        ("trainer", ["factory.budget=3"], "says nothing to trainer", "--help"),
    ],
)
def test_a_name_from_elsewhere_is_answered_with_ours(capsys, section, given, said, to):
    assert refusing(section).main(["recipe=demo", *given]) == 2
    error = capsys.readouterr().err
    assert said in error and error.strip().endswith(to)


def test_trls_names_are_those_of_the_glossary():
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1:3] for line in glossary.splitlines() if line.startswith("| ")]
    pairs = [(here, re.findall(r"`(\w+)", theirs)) for here, theirs in cells]
    known = {s.name.removeprefix("trainer.") for s in settings_of(TrainerRecipe)} | {
        s.name for s in settings_of(TrainerSettings)
    }
    for theirs, ours in TRL.items():
        assert ours in known, ours
        last = ours.rpartition(".")[2].removesuffix("s")  # `components` are a component each there
        assert any(theirs in row and last in here for here, row in pairs), theirs
    assert set(ALIKE) <= set(TRL)


def test_the_recipe_that_is_named_next_is_the_nearest(capsys):
    assert refusing("trainer").main(["recipe=dmo", "steps=3"]) == 2
    assert capsys.readouterr().err.strip().endswith("next: python -m trainer recipe=demo steps=3")
    assert refusing("trainer").main(["steps=3"]) == 2
    assert capsys.readouterr().err.strip().endswith("next: python -m trainer recipe=demo steps=3")


def test_a_folder_of_recipes_itself_is_answered_with_the_one_above(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert refusing("trainer").main(["--config-dir", "docs/examples/mine/recipe", "recipe=capitals"]) == 2
    assert "next: python -m trainer --config-dir docs/examples/mine recipe=capitals" in capsys.readouterr().err
    assert refusing("trainer").main(["--config-dir=docs/examples/mine/recipe", "recipe=capitals"]) == 2
    assert "next: python -m trainer --config-dir docs/examples/mine recipe=capitals" in capsys.readouterr().err


def test_the_folder_of_recipes_may_stand_behind_an_equals_sign(monkeypatch):
    monkeypatch.chdir(ROOT)
    kept: list[Any] = []
    command = Command("factory", FactoryRecipe, kept.append, "", [])
    assert command.main(["recipe=capitals", "--config-dir=docs/examples/mine"]) == 0
    assert command.main(["recipe=capitals", "--config-dir", "docs/examples/mine"]) == 0
    assert kept[0] == kept[1] and kept[0].name == "capitals"


def test_the_trainer_takes_what_the_factorys_section_says_about_finding(capsys):
    kept: list[Any] = []
    told = ["recipe=demo", "factory.imports={mine: {kind: answers, path: x.jsonl}}", "factory.soft_targets.kind=top_k"]
    assert Command("trainer", TrainerRecipe, kept.append, "", []).main(told) == 0, capsys.readouterr().err
    assert kept[0].factory["imports"]["mine"]["kind"] == "answers"
    assert kept[0].factory["soft_targets"]["kind"] == "top_k"
