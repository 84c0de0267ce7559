"""What a recipe's questions to models cost: the check of the teacher, co-teachers, translations, restatements, components that ask.

Reads the recipe alone. A translation or restatement is counted as long as its source may be; a wording as WORDING tokens; equal
texts, which are asked about once, as if all were different: each figure is "at most"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from data.config import ModelSettings
from data.writers import writer_model
from factory.benchmarks import Sizes, benchmarks
from factory.config import FactoryRecipe
from factory.rewards import Component, component
from factory.stages.rephrase import check_of
from factory.stages.teacher_check import PROMPTS, TOKENS

WORDING = 150  # tokens of our own wordings; a wording of the recipe's is counted by its characters
CHARACTERS = 4  # a token, about


class Asked(NamedTuple):
    """Tokens that a model reads and writes for one purpose."""

    name: str
    model: ModelSettings
    tokens_in: float
    tokens_out: float
    kept: bool = False
    """Whether what is written becomes answers in the lake."""


def asked(recipe: FactoryRecipe, prompts: int, length: float, held_out: int = 0) -> Iterator[Asked]:
    """Every purpose of the recipe's stages; `prompts` train prompts and `held_out` others, of `length` tokens each."""
    stages, told = set(recipe.factory.stages), recipe.answers.max_tokens
    answers = prompts * recipe.answers.n * (1 + len(recipe.co_teachers))
    if recipe.teacher and "teacher_check" in stages:
        some = min(prompts, PROMPTS)
        yield Asked("teacher_check", recipe.teacher, 5 * some * length, 5 * some * min(TOKENS, told))
    for name in recipe.co_teachers if "answers" in stages else ():
        yield Asked(
            f"answers ({name})", _model(recipe, name), prompts * length, prompts * recipe.answers.n * told, True
        )
    if (translate := recipe.translate) is not None:
        model, wording = _model(recipe, translate.by), _wording(translate.wording)
        if translate.prompts and "prompts" in stages:
            written = prompts * min(2 * length, translate.max_tokens)
            yield Asked("translate (prompts)", model, prompts * (length + wording), written)
        if "translate" in stages:
            hops, longest = 1 + (translate.via is not None), min(told, translate.max_tokens)
            yield Asked("translate (answers)", model, hops * answers * (told + wording), hops * answers * longest, True)
    if (rephrase := recipe.rephrase) is not None and "rephrase" in stages:
        longest, read = min(told, rephrase.max_tokens), length + told + _wording(rephrase.wording)
        yield Asked("rephrase", _model(recipe, rephrase.by), answers * read, answers * longest, True)
        check = check_of(recipe)
        yield from _component(recipe, "rephrase (check)", check, answers, length, longest)
    if "rewards" in stages:
        made = answers * (1 + (recipe.translate is not None) + (recipe.rephrase is not None))
        texts = prompts * recipe.sampling.n + (made if recipe.teacher else 0)
        for label, spec in recipe.components.items():
            longest = max(recipe.sampling.max_tokens, told)
            yield from _component(recipe, label, component(spec, label), texts, length, longest)
    for benchmark in benchmarks(recipe) if "evaluate" in stages else ():
        metrics = benchmark.components()
        plan = benchmark.planned(recipe, Sizes(prompts, held_out, length, len)) if metrics else None
        if plan is not None and plan.items:
            texts, longest = plan.items * max(len(recipe.factory.policies), 1), round(plan.tokens_out / plan.items)
            for metric in metrics:
                yield from _component(recipe, f"{benchmark.name}.{metric.name}", metric, texts, length, longest)


def _component(
    recipe: FactoryRecipe, label: str, item: Component, texts: int, length: float, longest: int
) -> Iterator[Asked]:
    """A component's replies: a judge's are as long as they may be, a translation as its text; then their scores."""
    if item.by is None:
        return
    settings: Any = item.settings
    judging = item.use == "judge"
    count = texts * (2 if judging and settings.mode == "pairwise" else 1)
    read = longest + _wording(settings.wording) + (length + longest * (settings.to != "nothing") if judging else 0)
    written = settings.max_tokens if judging else min(settings.max_tokens, 2 * longest)
    yield Asked(label, _model(recipe, item.by), count * read, count * written)
    if "reply_scores" in item.needs:
        yield Asked(f"{label} (scores)", _model(recipe, item.scorer or "teacher"), texts * length, texts * written)


def _model(recipe: FactoryRecipe, name: str) -> ModelSettings:
    model = writer_model(recipe, name)
    assert model is not None  # refused when the recipe was checked
    return model


def _wording(wording: str | None) -> float:
    return WORDING if wording is None else len(wording) / CHARACTERS
