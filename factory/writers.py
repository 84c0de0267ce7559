"""Whom a recipe asks beside its teacher: who translates, restates, judges and answers too. Checked when a recipe is composed.

Reads and writes nothing. Refuses names that the recipe does not know, unknown endpoints, scores wanted from an endpoint, and where
money is limited a model without a price."""

from __future__ import annotations

from data.refusal import Refusal, nearest
from data.writers import step_writers, steps, writer_model
from factory.benchmarks import benchmarks
from factory.config import FactoryRecipe
from factory.endpoints import Limit, check_bill
from factory.engines import require
from factory.rewards import Component, component


def asked(item: Component) -> dict[str, str]:
    """Role → name of the models that a component asks: who replies (by), and who scores the replies (scorer)."""
    if item.by is None:
        return {}
    return {"by": item.by} | ({"scorer": item.scorer or "teacher"} if "reply_scores" in item.needs else {})


def check_writers(recipe: FactoryRecipe) -> None:
    """Refuse before any work whoever cannot be asked, and wordings that cannot be filled."""
    from factory.stages import translate

    if recipe.translate is not None:
        translate.check(recipe.translate)
    limit = Limit.read(recipe.factory.budget)
    for where, name in _all(recipe).items():
        model = writer_model(recipe, name)
        if model is None:
            raise Refusal(f"{where} is {name}, and recipe {recipe.name} has no teacher", "teacher.path=FOLDER")
        if model.endpoint is None:
            require(recipe.factory.engine.does("answer"), "answer")
        elif model.endpoint not in recipe.factory.endpoints:
            known = nearest(model.endpoint, recipe.factory.endpoints or ["none yet"])
            raise Refusal(
                f"{where}: {name} is behind the endpoint {model.endpoint!r}; {known}",
                f"endpoint={model.endpoint} where conf/endpoint has it, or factory.endpoints.{model.endpoint}.base_url=URL",
            )
        elif where.endswith(".scorer"):
            raise Refusal(
                f"{where}: {name} is behind the endpoint {model.endpoint}, which gives no scores of texts",
                f"{where} names a model that runs here",
            )
        elif not recipe.factory.estimate:
            check_bill(recipe.factory.endpoints[model.endpoint], model.endpoint, model.path, limit)


def _all(recipe: FactoryRecipe) -> dict[str, str]:
    """Setting → name of everybody who is asked in the recipe's stages."""
    from factory.stages.rephrase import check_of

    stages = set(recipe.factory.stages)
    found = {f"{step}.{role}": name for step in steps(recipe) for role, name in step_writers(recipe, step).items()}
    items = {}
    if {"rewards", "selections"} & stages:
        items = {label: component(spec, label) for label, spec in recipe.components.items()}
    if "evaluate" in stages:
        for benchmark in benchmarks(recipe):
            items |= {f"benchmarks.{benchmark.name}.{item.name}": item for item in benchmark.components()}
    if recipe.rephrase is not None:
        items["rephrase.check"] = check_of(recipe)
    for label, item in items.items():
        found |= {f"{label}.{role}": name for role, name in asked(item).items()}
    return found
