"""Who writes what a recipe reads beside its teacher: translators, judges, co-teachers; and which slices are theirs.

Reads manifests, writes nothing. A model is known by its settings, so its folder need not be there. Answers go through STEPS: each
step's slice has the one before it as its first parent, keeps its rows and adds its own. Refuses names that the recipe does not
know."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from data.config import ModelSettings, Recipe, model_settings
from data.lake import Lake
from data.manifest import Slice
from data.refusal import Refusal, nearest

STAGE_OF = {"co_teachers": "answers", "translate": "translate", "rephrase": "rephrase"}
"""What answers go through behind the teacher's own, in this order → the stage that does it."""


def find_model(lake: Lake, model: ModelSettings | None) -> str | None:
    """model_id of a model by its settings alone, from `models`: its folder need not be there. None where it is not known."""
    known = lake.slices("models", model=model_settings(model)) if model else []
    return known[-1].models["model"] if known else None


def writer_model(recipe: Recipe, name: str) -> ModelSettings | None:
    """The model that a recipe's `by:`, `scorer:` or `co_teachers` names; None for a teacher that the recipe does not have."""
    known = {"teacher": recipe.teacher, "student": recipe.student}
    known |= {n: s.model for n, s in recipe.scorers.items()} | dict(recipe.models)
    if name not in known:
        raise Refusal(
            f"no model named {name!r}: {nearest(name, known)}", f"correct the name, or models.{name}.path=FOLDER"
        )
    return known[name]


def find_writer(lake: Lake, recipe: Recipe, name: str) -> str | None:
    """model_id of the model of that name."""
    return find_model(lake, writer_model(recipe, name))


def asked_own(lake: Lake, recipe: Recipe, slice_: Slice) -> bool:
    """Whether the models that a component asked are the recipe's; a recipe without a teacher takes any teacher's."""
    for role, name in (slice_.settings.get("asked") or {}).items():
        if writer_model(recipe, name) is not None and slice_.models.get(role) != find_writer(lake, recipe, name):
            return False
    return True


def translated_prompts(recipe: Recipe) -> dict[str, Any] | None:
    """How the teacher's side of the prompts is translated; None where it is not."""
    if recipe.translate is None or not recipe.translate.prompts:
        return None
    return {k: v for k, v in asdict(recipe.translate).items() if k != "via"}


def translated_own(lake: Lake, recipe: Recipe, prompts: Slice) -> bool:
    """Whether a slice of prompts has the teacher's side as this recipe wants it: translated so, or not at all."""
    wanted = translated_prompts(recipe)
    if wanted is None or recipe.translate is None:
        return "translated" not in prompts.settings
    by = find_writer(lake, recipe, recipe.translate.by)
    return prompts.settings.get("translated") == wanted and prompts.models.get("translator") == by


def steps(recipe: Recipe, before: str | None = None) -> list[str]:
    """The steps that the recipe's answers go through, those before a step where one is named."""
    names = list(STAGE_OF)
    return (
        [name for name in names[: names.index(before)] if getattr(recipe, name)]
        if before
        else [name for name in names if getattr(recipe, name)]
    )


def step_settings(recipe: Recipe, step: str) -> dict[str, Any]:
    """What a step's rows depend on, beside models and parents."""
    own, tags = getattr(recipe, step), recipe.reasoning.settings
    if isinstance(own, list):
        return {step: list(own)}
    return {step: asdict(own)} | ({"reasoning": tags} if tags else {})


def step_writers(recipe: Recipe, step: str) -> dict[str, str]:
    """Role in the slice's `models` → name of everybody who writes or judges in a step."""
    if step == "co_teachers":
        return {name: name for name in recipe.co_teachers}
    if step == "translate":
        assert recipe.translate is not None
        return {"translator": recipe.translate.by}
    assert recipe.rephrase is not None
    asked = {role: str(recipe.rephrase.check[role]) for role in ("by", "scorer") if recipe.rephrase.check.get(role)}
    return {"writer": recipe.rephrase.by} | asked


def find_derived(lake: Lake, recipe: Recipe, base: Slice, step: str) -> Slice | None:
    """The newest slice that this step of the recipe made of exactly these answers."""
    models = {role: find_writer(lake, recipe, name) for role, name in step_writers(recipe, step).items()}
    found = [
        s
        for s in lake.slices("answers", **step_settings(recipe, step))
        if s.parents[0] == base.path
        and asked_own(lake, recipe, s)
        and s.settings.get("reasoning", {}) == (recipe.reasoning.settings if step != "co_teachers" else {})
        and all(s.models.get(role) == id_ for role, id_ in models.items())
    ]
    return found[-1] if found else None
