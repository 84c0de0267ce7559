"""Which components an expression names, and the slices that hold them for given samples or answers.

Reads manifests. Writes nothing. Refuses unknown names, with the nearest, and components that the recipe does not
describe, with what the lake says of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from data import pool as pools
from data.lake import Lake
from data.manifest import Slice
from data.refusal import Refusal
from data.typed import again
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
    texts = [text for text in expressions if text]
    for text in texts:
        _refuse_undescribed(lake, recipe, samples, text, known)
    return {name for text in texts for name in compile_expression(text, known).names} & known


def _refuse_undescribed(lake: Lake, recipe: TrainerRecipe, samples: Slice, text: str, known: set[str]) -> None:
    """A component that the lake has and the recipe does not: its description stands in the slice's manifest."""
    there = {s.label: s for s in lake.slices("rewards") if s.parents[:1] == (samples.path,) and s.settings.get("spec")}
    for name in dict.fromkeys(re.findall(r"\w+", text)):
        if name in there and name not in known:
            spec = there[name].settings["spec"]
            told = f"components.{name}={hydra_text({'use': spec.get('use')} | spec)}"
            raise Refusal(
                f"component {name} is in the lake ({there[name].path}), but the recipe {recipe.name} does not describe it",
                again("trainer", recipe.name, [told]),
            )


def hydra_text(value: Any) -> str:
    """A value as an override gives it.

    >>> hydra_text({"use": "length", "unit": "words", "most": 3, "tags": ["<a>", None, True]})
    "{use: length, unit: words, most: 3, tags: ['<a>', null, true]}"
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {hydra_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(hydra_text, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if not isinstance(value, str) or re.fullmatch(r"[A-Za-z_][\w./\-]*", value):
        return str(value)
    from hydra.core.override_parser.types import Quote, QuotedString

    return str(QuotedString(value, Quote.single).with_quotes())
