"""What policies make of benchmarks: one slice of `evaluations` for each policy and benchmark.

What is measured, and how, is said by the kinds of benchmarks (factory/benchmarks, one a file)."""

from __future__ import annotations

from data.manifest import Slice
from factory.benchmarks import benchmarks
from factory.context import Context


def run(context: Context) -> list[Slice]:
    """Evaluate every policy of the recipe on every benchmark."""
    items = benchmarks(context.recipe)
    if not items:
        context.say("evaluate: the recipe names no benchmark")
        return []
    policies = context.settings.policies or [context.recipe.policy]
    return [item.make(context, role) for role in policies for item in items]
