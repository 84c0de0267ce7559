"""Reads tables: replays cached groups, answers and documents as training steps of the student.

>>> import trainer
>>> recipe = trainer.recipe("demo", "run=short", "steps=20")     # as the command line composes it; or TrainerRecipe(…) by hand

`trainer.train(recipe)` trains it. Names are imported when they are asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

import data  # noqa: F401  it says what is not installed while `python -m` looks for this package, before an import fails

if TYPE_CHECKING:
    from trainer.config import TrainerRecipe, TrainerSettings
    from trainer.journal import Run
    from trainer.loop import train
    from trainer.objectives import OBJECTIVES
    from trainer.view import StepView

__all__ = ["OBJECTIVES", "Run", "StepView", "TrainerRecipe", "TrainerSettings", "recipe", "train"]
PLACES = {"OBJECTIVES": "objectives", "Run": "journal", "StepView": "view", "train": "loop"}  # config has the others


def recipe(name: str, *overrides: str) -> "TrainerRecipe":
    """A recipe of conf/recipe as `python -m trainer recipe=NAME OVERRIDES` reads it. Refuses what the command refuses."""
    from data.command import composed
    from trainer.config import TrainerRecipe

    return composed("trainer", TrainerRecipe, [f"recipe={name}", *overrides])


if not TYPE_CHECKING:  # a checker would take every name for known

    def __getattr__(name: str) -> Any:
        """A public name, from the module that has it."""
        if name not in __all__:
            raise AttributeError(f"module 'trainer' has no attribute {name!r}")
        return getattr(importlib.import_module(f"trainer.{PLACES.get(name, 'config')}"), name)
