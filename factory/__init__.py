"""Makes tables: stages (one a file) drive engines and reward components, and publish what they give in the lake.

>>> import factory
>>> recipe = factory.recipe("demo", "stages=[rewards]")     # as the command line composes it; or FactoryRecipe(…) by hand

`factory.run(recipe)` makes the tables. Names are imported when they are asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

import data  # noqa: F401  it says what is not installed while `python -m` looks for this package, before an import fails

if TYPE_CHECKING:
    from factory.config import FactoryRecipe, FactorySettings
    from factory.stages import run

__all__ = ["FactoryRecipe", "FactorySettings", "recipe", "run"]


def recipe(name: str, *overrides: str) -> "FactoryRecipe":
    """A recipe of conf/recipe as `python -m factory recipe=NAME OVERRIDES` reads it. Refuses what the command refuses."""
    from data.command import composed
    from factory.config import FactoryRecipe

    return composed("factory", FactoryRecipe, [f"recipe={name}", *overrides])


if not TYPE_CHECKING:  # a checker would take every name for known

    def __getattr__(name: str) -> Any:
        """A public name, from the module that has it."""
        if name not in __all__:
            raise AttributeError(f"module 'factory' has no attribute {name!r}")
        return getattr(importlib.import_module("factory.stages" if name == "run" else "factory.config"), name)
