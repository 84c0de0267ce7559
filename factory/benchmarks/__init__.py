"""Benchmarks: what the stage `evaluate` measures of a policy, one kind a file.

A kind is one file of this folder: a docstring (what it measures, what it refuses), `Settings` (a frozen dataclass, a line under
each field) and `make(context, role, item)`, which publishes one slice of `evaluations`. Where they apply it also has
`check(recipe, item)` (refusals before any work), `components(item)` (metrics that are reward components), `planned(recipe, item,
sizes)` (what one policy costs) and `texts(item)` (its own texts, which a corpus is kept clear of). Files are found by name and
imported when a recipe asks for them. Refuses unknown kinds and settings, with the nearest name.

>>> benchmark("fit", {"kind": "likelihood", "limit": 8}).settings.limit
8
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.refusal import Refusal, nearest

if TYPE_CHECKING:
    from data.manifest import Slice
    from factory.config import FactoryRecipe
    from factory.context import Context
    from factory.rewards import Component

DEFAULT = "prompts"  # the kind of an entry that names none


@dataclass(frozen=True)
class Sizes:
    """What an estimate knows of a recipe's prompts."""

    prompts: int
    """Train prompts."""
    held_out: int
    length: float
    """Mean tokens of a prompt."""
    count: Callable[[str], int]
    """Tokens of a text by the policy's tokenizer."""


@dataclass(frozen=True)
class Planned:
    """What a benchmark asks of one policy, at most."""

    items: int
    tokens_in: float
    tokens_out: float
    """Drawn; 0 where texts are only read."""


@dataclass(frozen=True)
class Benchmark:
    """One entry of a recipe's `benchmarks`."""

    name: str
    """The recipe's label, the column `benchmark` of `evaluations`."""
    kind: str
    """File name in factory/benchmarks."""
    settings: Any
    """The file's `Settings`."""
    module: Any

    def check(self, recipe: FactoryRecipe) -> None:
        """Refuse before any work what would be refused after hours."""
        if hasattr(self.module, "check"):
            self.module.check(recipe, self)

    def make(self, context: Context, role: str) -> Slice:
        """The slice of `evaluations` for a policy (student, teacher, run:NAME), found or made."""
        made: Slice = self.module.make(context, role, self)
        return made

    def components(self) -> list[Component]:
        """Metrics that are reward components, which may ask models."""
        return list(self.module.components(self)) if hasattr(self.module, "components") else []

    def planned(self, recipe: FactoryRecipe, sizes: Sizes) -> Planned | None:
        """What it asks of one policy; None where nobody can tell beforehand."""
        plan: Planned | None = self.module.planned(recipe, self, sizes) if hasattr(self.module, "planned") else None
        return plan

    def texts(self) -> Iterator[str] | None:
        """Questions and answers that it has of its own; None where it measures the recipe's prompts or corpora."""
        return iter(self.module.texts(self)) if hasattr(self.module, "texts") else None


def names() -> list[str]:
    """The kinds that stand as files in this folder.

    >>> {"likelihood", "prompts"} <= set(names())
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def benchmark(name: str, spec: Any) -> Benchmark:
    """The benchmark that a recipe's entry describes: {"kind": "likelihood", "corpus": "fo"}."""
    from factory.rewards._settings import read

    given = dict(spec) if isinstance(spec, Mapping) else {}
    kind = given.pop("kind", DEFAULT)
    if kind not in names():
        raise Refusal(
            f"benchmarks.{name}.kind is {kind!r}: {nearest(str(kind), names())}",
            f"correct the recipe, or write factory/benchmarks/{kind}.py",
        )
    module = importlib.import_module(f"{__name__}.{kind}")
    return Benchmark(name, kind, read(module.Settings, given, f"benchmarks.{name} ({kind})"), module)


def benchmarks(recipe: FactoryRecipe) -> list[Benchmark]:
    """The recipe's benchmarks, in its order."""
    return [benchmark(name, spec) for name, spec in recipe.factory.benchmarks.items()]
