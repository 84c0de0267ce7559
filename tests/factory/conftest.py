"""Fixtures of the factory's tests: a file of prompts, a recipe over tiny random models, and the command run in this process."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.config import AnswerSampling, ModelSettings, PromptSource, Sampling
from data.lake import Lake
from factory.config import FactoryRecipe, FactorySettings
from factory.stages import run

PROMPTS = [
    ("hvat eitur høvuðsstaðurin ?", "Tórshavn"),
    ("what is the capital ?", "Tórshavn"),
    ("how many people live there ?", "13000"),
    ("báturin siglir", "til oynna"),
    ("sólin skínur", "í dag"),
    ("the little boat", "sails"),
]
COMPONENTS = {
    "loglik": {"use": "teacher_loglik", "form": "token"},
    "chrf": {"use": "similarity", "metric": "chrf"},
    "length": {"use": "length", "unit": "tokens"},
}


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., str]:
    """`write_rows(rows, name="prompts.jsonl")`: the path of a JSONL of these rows."""

    def write(rows: list[dict[str, Any]], name: str = "prompts.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def prompt_rows() -> list[dict[str, Any]]:
    """Five train prompts and a held-out one, each with a reference."""
    return [
        {"messages": [{"role": "user", "content": q}], "references": [a], "split": "held_out" if i == 5 else "train"}
        for i, (q, a) in enumerate(PROMPTS)
    ]


@pytest.fixture
def recipe(
    tmp_path: Path, tiny_model: Callable[..., str], write_rows: Callable[..., str], prompt_rows: list[dict[str, Any]]
) -> FactoryRecipe:
    """Student and teacher are random Llamas of one tokenizer; two prompts a shard, G = 3, 6 tokens."""
    return FactoryRecipe(
        name="tiny",
        lake=str(tmp_path / "lake"),
        runs=str(tmp_path / "runs"),
        student=ModelSettings(path=tiny_model("llama")),
        teacher=ModelSettings(path=tiny_model("llama", seed=7)),
        prompts=PromptSource(path=write_rows(prompt_rows)),
        sampling=Sampling(n=3, max_tokens=6),
        answers=AnswerSampling(max_tokens=6),
        components=dict(COMPONENTS),
        reward="loglik + chrf",
        factory=FactorySettings(shard_groups=2),
    )


@pytest.fixture
def make() -> Callable[..., Lake]:
    """`make(recipe, "prompts,samples")`: run these stages and return the lake; without stages the recipe's own."""

    def go(recipe: FactoryRecipe, stages: str | None = None) -> Lake:
        if stages is not None:
            recipe = changed(recipe, stages=stages.split(","))
        run(recipe)
        return Lake.open(recipe.lake)

    return go


def changed(recipe: FactoryRecipe, **values: Any) -> FactoryRecipe:
    """The recipe with other values; names of the factory's section go there."""
    own = {f.name for f in dataclasses.fields(FactorySettings)}
    section = dataclasses.replace(recipe.factory, **{k: v for k, v in values.items() if k in own})
    return dataclasses.replace(recipe, factory=section, **{k: v for k, v in values.items() if k not in own})


@pytest.fixture
def change() -> Callable[..., FactoryRecipe]:
    """`change(recipe, reward=…, shard_groups=…)`: the recipe with other values."""
    return changed


@pytest.fixture
def hashes() -> Callable[[Lake], dict[str, str]]:
    """`hashes(lake)`: path → sha256 of every derived Parquet file."""

    def of(lake: Lake) -> dict[str, str]:
        files = [p for p in lake.root.rglob("*.parquet") if p.parent.name != "journal"]
        return {str(p.relative_to(lake.root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}

    return of


@pytest.fixture
def conf(recipe: FactoryRecipe, tmp_path: Path) -> str:
    """A folder for `--config-dir` whose recipe `tiny` is `recipe`."""
    from omegaconf import OmegaConf

    folder = tmp_path / "conf" / "recipe"
    folder.mkdir(parents=True)
    content = OmegaConf.to_yaml(OmegaConf.structured(recipe))
    (folder / "tiny.yaml").write_text(f"# @package _global_\n{content}", encoding="utf-8")
    return str(tmp_path / "conf")


@pytest.fixture
def command(conf: str, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`command("stages=[prompts]", …)`: exit code, stdout and stderr of `python -m factory recipe=tiny …` in this process."""
    from factory.__main__ import COMMAND

    def go(*overrides: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = COMMAND.main(["recipe=tiny", *overrides, "--config-dir", conf])
        out, err = capfd.readouterr()
        return code, out, err

    return go
