"""What policies make of benchmarks: one slice of `evaluations` for each policy and benchmark.

What is measured, and how, is said by the kinds of benchmarks (factory/benchmarks, one a file)."""

from __future__ import annotations

from data.manifest import Slice
from factory.benchmarks import benchmarks
from factory.context import Context
from factory.stages import intervals


def run(context: Context) -> list[Slice]:
    """Evaluate every policy of the recipe on every benchmark; then the intervals of all that the lake holds of these."""
    items = benchmarks(context.recipe)
    if not items:
        context.say("evaluate: the recipe names no benchmark")
        return []
    policies = context.settings.policies or [context.recipe.policy]
    made = [item.make(context, role) for role in policies for item in items]
    return made + intervals.publish(context, made)
