"""Which components an expression names, and the slices that hold them for given samples or answers.

Reads manifests. Writes nothing. Refuses unknown names, with the nearest."""

from __future__ import annotations

from collections.abc import Iterable

from data import pool as pools
from data.lake import Lake
from data.manifest import Slice
from trainer.config import TrainerRecipe


def find_components(lake: Lake, recipe: TrainerRecipe, base: Slice, names: Iterable[str]) -> dict[str, Slice]:
    """Slices of the named components for exactly these samples or answers. Imported rewards, which no recipe describes, answer
    to their label, and teacher answers have none of them."""
    imported = imported_rewards(lake, base)
    wanted = [name for name in sorted(names) if name in recipe.components or name in imported]
    return {
        name: pools.find_rewards(lake, recipe, name, base) if name in recipe.components else imported[name]
        for name in wanted
    }


def imported_rewards(lake: Lake, base: Slice) -> dict[str, Slice]:
    """Reward columns that came with an imported pool, by label."""
    found = lake.slices("rewards") if base.table == "samples" else []
    return {s.label: s for s in found if s.parents[:1] == (base.path,) and "import" in s.settings}


def component_names(lake: Lake, recipe: TrainerRecipe, samples: Slice, expressions: Iterable[str | None]) -> set[str]:
    """Components that the expressions name. Refuses unknown names, with the nearest."""
    from data.expression import compile_expression

    known = set(recipe.components) | set(imported_rewards(lake, samples))
    return {name for text in expressions if text for name in compile_expression(text, known).names} & known
