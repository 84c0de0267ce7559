"""What a component's entry in the recipe says: what its values depend on, and which scorer gives it log-probabilities (the
teacher, the policy, the student, or one of the recipe's further `scorers` by name).

Reads a recipe, writes nothing. Refuses a name that the recipe does not know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.config import ModelSettings, Recipe
from data.refusal import Refusal, nearest

SCORERS = ("teacher", "policy", "student")
PORTIONS = (
    "device",
    "batch_tokens",
)  # where a component computes and in what portions: no value follows, no key holds it


def valued(component: Mapping[str, Any]) -> dict[str, Any]:
    """A component's entry without PORTIONS. A user's own function may mean anything by these names: its entry stays whole.

    >>> valued({"use": "reward_model", "models": ["a/b"], "device": "cuda"})
    {'use': 'reward_model', 'models': ['a/b']}
    """
    own = ":" in str(component.get("use"))
    return {name: value for name, value in component.items() if own or name not in PORTIONS}


def scorer_of(component: Mapping[str, Any]) -> str:
    """The scorer that a component's entry names: teacher where it says nothing."""
    return str(component.get("scorer") or "teacher")


def scorer_model(recipe: Recipe, scorer: str) -> ModelSettings | None:
    """The model behind a scorer's name, `policy` apart: that is the pool's own. None where the recipe has no teacher."""
    known = {"teacher": recipe.teacher, "student": recipe.student}
    if scorer not in known and scorer not in recipe.scorers:
        raise Refusal(
            f"no scorer named {scorer!r}: {nearest(scorer, [*SCORERS, *recipe.scorers])}",
            f"correct `scorer:`, or scorers.{scorer}.path=FOLDER",
        )
    return known[scorer] if scorer in known else recipe.scorers[scorer].model
