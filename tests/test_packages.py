"""The packages as a notebook sees them: short names, imported late, typed; a recipe composed as the command line does."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import factory
import trainer
from data.command import Command
from data.refusal import Refusal
from factory.config import FactoryRecipe
from trainer.config import TrainerRecipe

ROOT = Path(__file__).parents[1]
PACKAGES = ("data", "factory", "trainer")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_name_that_a_package_promises_is_there_and_no_other(name: str) -> None:
    package = importlib.import_module(name)
    assert all(getattr(package, promised) is not None for promised in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_is_typed_and_its_import_loads_nothing(name: str) -> None:
    assert (ROOT / name / "py.typed").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["*"]
    code = (
        f"import sys, {name}; print(sorted({{'torch', 'pyarrow', 'numpy', 'omegaconf', 'hydra'}} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).strip() == "[]"


@pytest.mark.parametrize("module", [*PACKAGES, "trainer.average"])
def test_another_python_than_the_environments_is_told_so_in_one_refusal(module: str) -> None:
    words = [sys.executable, "-S", "-m", module, "--help"]  # -S: without what is installed
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env={})
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 2 and not done.stdout
    assert "has no" in done.stderr and "typer" in done.stderr and "next: .venv/bin/python -m" in done.stderr


def test_a_recipe_is_what_the_command_line_composes() -> None:
    kept: list[TrainerRecipe] = []
    words = ["reward=-1*(agreement)", "steps=7", "model_free.x=1"]
    Command("trainer", TrainerRecipe, kept.append, "", ()).main(["recipe=demo", *words[:2]])
    assert trainer.recipe("demo", *words[:2]) == kept[0] and kept[0].trainer.steps == 7
    made = factory.recipe("demo", "stages=[rewards]")
    assert isinstance(made, FactoryRecipe) and made.factory.stages == ["rewards"]
    with pytest.raises(Refusal, match="did you mean 'demo'"):
        factory.recipe("demmo")
    with pytest.raises(Refusal, match="no setting named 'model_free'"):
        trainer.recipe("demo", words[2])


def test_composing_leaves_the_programs_own_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["notebook", "word"])
    trainer.recipe("demo")
    assert sys.argv == ["notebook", "word"]


def test_running_gives_what_was_made(tmp_path: Path, tiny_model) -> None:
    from data.config import ModelSettings, PromptSource, Sampling
    from factory import FactorySettings

    mine = FactoryRecipe(
        name="mine",
        lake=str(tmp_path / "lake"),
        student=ModelSettings(path=tiny_model("llama")),
        prompts=PromptSource(path=str(ROOT / "docs" / "examples" / "prompts.jsonl"), limit=2),
        sampling=Sampling(n=2, max_tokens=3),
        components={"words": {"use": "length", "unit": "words"}},
        factory=FactorySettings(stages=["prompts", "samples", "rewards"]),
    )
    assert factory.run(mine).sql("SELECT words FROM reward_table").num_rows == 4
