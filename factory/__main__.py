"""`python -m factory recipe=R`: makes the tables of a recipe. Its stages do the work; this is the edge of the command."""

from __future__ import annotations

import sys

from data.command import Command
from factory.config import FactoryRecipe


def body(recipe: FactoryRecipe) -> None:
    """Run the recipe's stages, or print what they would cost."""
    from factory.stages import run

    run(recipe)


def components() -> dict[str, list[str]]:
    """The names of the reward components: the files of factory/rewards."""
    from factory.rewards import names

    return {
        "Reward components ('components.NAME={use: COMPONENT, …}', or use: path.to:function; docs/reference.md)": names()
    }


COMMAND = Command(
    "factory",
    FactoryRecipe,
    body,
    "python -m factory recipe=R [key=value …]: prompts, answers, samples, scores and rewards, as tables in a lake.",
    (
        "python -m factory recipe=demo",
        "python -m factory recipe=demo 'stages=[rewards]'     a component was added: one slice, nothing else",
        "python -m factory recipe=demo policy=run:NAME        the next round: sample from a trained run",
        "python -m factory recipe=demo estimate=true          tokens, hours, disk; makes nothing",
    ),
    names=components,
)

if __name__ == "__main__":
    sys.exit(COMMAND.main(sys.argv[1:]))
