"""The stages of the factory, one a file: each finds what is there, makes what is missing, and says so in a line.

`run` goes through the recipe's stages in order. Refuses a stage that does not exist, before any work."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data.lake import Lake
from data.refusal import Refusal, nearest
from data.scorers import SCORERS, scorer_of
from factory import executors
from factory.config import STAGES, FactoryRecipe
from factory.context import Context
from factory.endpoints import check_endpoints
from factory.engines import require
from factory.sources import Source, is_file
from factory.writers import check_writers

MODULES = {name: f"factory.stages.{name}" for name in STAGES} | {"import": "factory.stages.imports"}
ABILITIES = {"answers": "answer", "samples": "generate", "scores": "score", "evaluate": "generate"}  # of the engine
SOFT_ABILITIES = {"sampled": {"sampled"}, "top_k": {"top_k"}, "student_m": {"top_k", "at"}}
WITHOUT = {"samples": "sampling.alpha=0", "soft_targets": "leave soft_targets out of stages"}


def run(recipe: FactoryRecipe) -> Lake:
    """Run the recipe's stages over its lake, or print their estimate; the lake."""
    if recipe.factory.estimate:
        _estimate(recipe)
        return Lake.open(recipe.lake)
    check(recipe)
    go_offline(recipe)
    context = Context(recipe, Lake.open(recipe.lake))
    try:
        _refuse_absent_engine(context)
        _refuse_other_tokens(context)
        for name in recipe.factory.stages:
            context.stage = name
            importlib.import_module(MODULES[name]).run(context)
    finally:
        context.close()
    return context.lake


def _estimate(recipe: FactoryRecipe) -> None:
    """Print what the recipe would cost; no weights and no component's file are fetched for it."""
    from factory.estimate import estimate
    from factory.rewards._hub import spared

    with spared():
        check(recipe)
        go_offline(recipe)
        estimate(recipe)


def check(recipe: FactoryRecipe) -> None:
    """Refuse at once what would be refused after hours: unknown stages, components, metrics and expressions."""
    stages = recipe.factory.stages
    for name in stages:
        if name not in MODULES:
            raise Refusal(f"no stage named {name!r}: {nearest(name, MODULES)}", f"stages=[{','.join(STAGES)}]")
    check_endpoints(recipe)
    executors.check(recipe)
    for name, ability in ABILITIES.items():
        if name in stages:
            require(recipe.factory.engine.does(ability), ability)
    _check_teacher(recipe)
    for name in recipe.scorers:
        if name in SCORERS or not re.fullmatch(r"\w[\w-]*", name):
            raise Refusal(
                f"scorers.{name}: letters, digits, dash and underscore, and none of {', '.join(SCORERS)}", "rename it"
            )
    check_writers(recipe)
    _check_labels(recipe)
    if {"rewards", "selections"} & set(stages):
        _check_rewards(recipe)
    from factory.benchmarks import benchmarks

    for item in benchmarks(recipe):  # their settings are read whether they are measured now or later
        if "evaluate" in stages:
            item.check(recipe)


def _refuse_absent_engine(context: Context) -> None:
    """Refuse a vLLM that is not here before the first stage works, where a stage will surely ask for it: what it makes of this
    recipe is not in the lake yet. Where workers compute, their environment is theirs."""
    recipe, lake = context.recipe, context.lake
    settings, imported = recipe.factory, {source.kind for source in recipe.factory.imports.values()}
    if find_spec("vllm") is not None or recipe.executor.name != "in_process":
        return
    asked = recipe.teacher is not None and recipe.teacher.endpoint is None
    for stage, label in (("samples", recipe.pool_label), ("answers", recipe.name)):
        wanted = stage in settings.stages and stage not in imported and (stage == "samples" or asked)
        if wanted and settings.engine.does(ABILITIES[stage]) == "vllm" and not lake.slices(stage, label=label):
            raise Refusal(
                f"{stage}: engine=vllm, and vLLM is not installed in this environment",
                "make vllm-env, then .venv-vllm/bin/python -m factory …; or engine=hf",
            )


def _asks_teacher(recipe: FactoryRecipe) -> list[str]:
    """Stages that read the teacher's distributions in the student's ids."""
    mixed = ["samples"] if recipe.sampling.alpha and "samples" in recipe.factory.stages else []
    return mixed + (["soft_targets"] if "soft_targets" in recipe.factory.stages else [])


def _check_teacher(recipe: FactoryRecipe) -> None:
    """What reads the teacher's distributions needs a teacher, an engine that gives them, and for a mixture two models at once."""
    settings = recipe.factory
    for name in _asks_teacher(recipe):
        asked = {"mix"} if name == "samples" else SOFT_ABILITIES[settings.soft_targets.kind]
        for ability in sorted(asked):
            require(settings.engine.does(ability), ability)
        if recipe.teacher is None:
            raise Refusal(f"{name}: recipe {recipe.name} has no teacher", f"teacher.path=FOLDER, or {WITHOUT[name]}")
    if "samples" in _asks_teacher(recipe):
        if any(source.kind == "samples" for source in settings.imports.values()):
            raise Refusal(
                f"sampling.alpha is {recipe.sampling.alpha}, but the pool is imported: its log-probabilities say how it was drawn",
                "sampling.alpha=0",
            )
        if settings.engine.resident < 2:
            raise Refusal(
                f"engine.resident is {settings.engine.resident}: a mixture has policy and teacher in memory at once",
                "factory.engine.resident=2",
            )


def _refuse_other_tokens(context: Context) -> None:
    """Refuse a teacher of other ids before the first stage works. Models that are not there yet are asked when their turn comes."""
    from data.fingerprint import model_folder, tokenizer_fingerprint

    for name in _asks_teacher(context.recipe):
        models = [context.model(role) for role in ("policy", "teacher")]
        try:
            folders = [model_folder(model, context.recipe.runs) for model in models]
        except Refusal:
            return
        files = {tokenizer_fingerprint(folder, m.gguf_file) for folder, m in zip(folders, models, strict=True)}
        ours, theirs = (context.tokens(r).vocabulary if len(files) > 1 else {} for r in ("policy", "teacher"))
        if ours != theirs:
            raise Refusal(
                f"{name}: {context.recipe.policy} {models[0].path} and teacher {models[1].path} have different tokenizers"
                f" ({len(ours)} and {len(theirs)} tokens); their ids must mean the same",
                WITHOUT[name],
            )


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
        if "scores" in component(spec, name).needs:
            _check_scorer(recipe, name, spec)
    imported = [column for source in recipe.factory.imports.values() for column in source.rewards]
    for text in (recipe.reward, recipe.where):
        if text:
            compile_expression(text, {*recipe.components, *imported})


def _check_scorer(recipe: FactoryRecipe, name: str, spec: Mapping[str, Any]) -> None:
    """A component that reads scores names a model of the recipe."""
    known, scorer = [*SCORERS, *recipe.scorers], scorer_of(spec)
    if scorer not in known:
        raise Refusal(
            f"component {name}: no scorer named {scorer!r}; {nearest(scorer, known)}",
            f"correct `scorer:`, or scorers.{scorer}.path=FOLDER",
        )


def go_offline(recipe: FactoryRecipe) -> None:
    """Where nothing of the recipe is on the hub, nothing may wait for it."""
    if _all_local(recipe):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _all_local(recipe: FactoryRecipe) -> bool:
    models = [m.path for m in (recipe.student, recipe.teacher, *recipe.scorers.values()) if m]
    sources: list[Source] = [recipe.prompts, *recipe.factory.imports.values(), *recipe.factory.corpus.values()]
    return all(p.startswith("run:") or Path(p).is_dir() for p in models) and all(is_file(s.path) for s in sources)
