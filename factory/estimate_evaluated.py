"""What benchmarks ask of the policies that a recipe evaluates: tokens read and drawn, at most.

Reads the benchmarks' own files; a hub data set and a command of others (EuroEval) are not counted. A run that is not there yet is
counted as the student that it will be trained from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from data.config import ModelSettings
from data.fingerprint import model_folder, policy_model
from data.refusal import Refusal
from factory.benchmarks import Planned, Sizes, benchmarks
from factory.config import FactoryRecipe


def evaluated(recipe: FactoryRecipe, sizes: Sizes) -> Iterator[tuple[str, ModelSettings, Planned]]:
    """(benchmark, model, tokens): one a benchmark and model; policies of one model together."""
    models = Counter(_model(recipe, role) for role in recipe.factory.policies or [recipe.policy])
    for item in benchmarks(recipe):
        plan = item.planned(recipe, sizes)
        if plan is None:
            continue
        for model, times in models.items():
            yield item.name, model, Planned(times * plan.items, times * plan.tokens_in, times * plan.tokens_out)


def _model(recipe: FactoryRecipe, role: str) -> ModelSettings:
    if role == "teacher":
        return recipe.teacher or recipe.student
    model = policy_model(replace(recipe, policy=role))
    if role != "student":
        try:
            model_folder(model, recipe.runs)
        except Refusal:
            return recipe.student
    return model
