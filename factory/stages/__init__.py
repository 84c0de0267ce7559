"""The stages of the factory, one a file: each finds what is there, makes what is missing, and says so in a line.

`run` goes through the recipe's stages in order. Refuses a stage that does not exist, before any work."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

from data.lake import Lake
from data.refusal import Refusal, nearest
from factory.config import STAGES, FactoryRecipe
from factory.context import Context
from factory.engines import require
from factory.sources import Source, is_file

MODULES = {name: f"factory.stages.{name}" for name in STAGES} | {"import": "factory.stages.imports"}
ABILITIES = {"answers": "answer", "samples": "generate", "scores": "score", "evaluate": "generate"}  # of the engine


def run(recipe: FactoryRecipe) -> None:
    """Run the recipe's stages over its lake, or print their estimate."""
    check(recipe)
    if _all_local(recipe):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing of the recipe is on the hub: nothing may wait for it
    if recipe.factory.estimate:
        from factory.estimate import estimate

        estimate(recipe)
        return
    context = Context(recipe, Lake.open(recipe.lake))
    try:
        for name in recipe.factory.stages:
            importlib.import_module(MODULES[name]).run(context)
    finally:
        context.close()


def check(recipe: FactoryRecipe) -> None:
    """Refuse at once what would be refused after hours: unknown stages, components, metrics and expressions."""
    stages = recipe.factory.stages
    for name in stages:
        if name not in MODULES:
            raise Refusal(f"no stage named {name!r}: {nearest(name, MODULES)}", f"stages=[{','.join(STAGES)}]")
    for name, ability in ABILITIES.items():
        if name in stages:
            require(recipe.factory.engine.name, ability)
    _check_labels(recipe)
    if {"rewards", "selections"} & set(stages):
        _check_rewards(recipe)
    if "evaluate" in stages:
        from factory.rewards import component

        for benchmark in recipe.factory.benchmarks.values():
            for metric, spec in benchmark.metrics.items():
                component(spec, metric)


def _check_labels(recipe: FactoryRecipe) -> None:
    """A label becomes a folder, a column of reward_table and a name in expressions; SQL does not tell A from a."""
    from data.expression import SAMPLE_COLUMNS
    from data.views import VIEWS

    taken = {c.name for c in VIEWS["reward_table"].columns} | set(SAMPLE_COLUMNS)
    imported = (column for source in recipe.factory.imports.values() for column in source.rewards)
    for label in dict.fromkeys([*recipe.components, *imported]):
        if not re.fullmatch(r"\w[\w-]*", label):
            raise Refusal(
                f"component label {label!r}: letters, digits, dash and underscore only", "rename it in the recipe"
            )
        if label.casefold() in taken:
            raise Refusal(
                f"component label {label} is a column of samples or of reward_table", "rename it in the recipe"
            )
        taken.add(label.casefold())


def _check_rewards(recipe: FactoryRecipe) -> None:
    from data.expression import compile_expression
    from factory.rewards import component

    for name, spec in recipe.components.items():
        component(spec, name)
    imported = [column for source in recipe.factory.imports.values() for column in source.rewards]
    for text in (recipe.reward, recipe.where):
        if text:
            compile_expression(text, {*recipe.components, *imported})


def _all_local(recipe: FactoryRecipe) -> bool:
    models = [m.path for m in (recipe.student, recipe.teacher) if m]
    sources: list[Source] = [recipe.prompts, *recipe.factory.imports.values(), *recipe.factory.corpus.values()]
    return all(p.startswith("run:") or Path(p).is_dir() for p in models) and all(is_file(s.path) for s in sources)
