"""Where an engine's shards are computed: in the command's process, in processes of this machine, or in actors of Ray.

The driver is the command itself: it alone publishes, locks, books costs and asks endpoints. Workers compute shards and hand their
rows back (worker.py); who computes which, and what becomes of a dead worker's shard, is scheduling.py's. No key names one."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from data.refusal import Refusal, nearest

if TYPE_CHECKING:
    from factory.config import FactoryRecipe
    from factory.executors.scheduling import Workers

EXECUTORS = ("in_process", "local", "ray")


def check(recipe: FactoryRecipe) -> None:
    """Refuse before any work an executor that there is not."""
    name, device = recipe.executor.name, recipe.factory.engine.device
    if name not in EXECUTORS:
        raise Refusal(f"no executor named {name!r}: {nearest(name, EXECUTORS)}", "executor=local")
    if name == "ray" and importlib.util.find_spec("ray") is None:
        raise Refusal("executor=ray needs Ray, which is not installed here", "pip install -e '.[ray]'")
    if name != "in_process" and ":" in device:
        raise Refusal(
            f"engine.device is {device}, and executor={name} gives each worker GPUs of its own", "engine.device=cuda"
        )


def distributes(recipe: FactoryRecipe, ability: str | None) -> bool:
    """Whether workers compute what asks engines for this ability; endpoints are asked by the driver alone, for its ledger."""
    return recipe.executor.name != "in_process" and ability not in (None, "ask")


def opened(recipe: FactoryRecipe) -> Workers:
    """The recipe's workers; none is started before it is needed."""
    from factory.executors.scheduling import Workers

    if recipe.executor.name == "ray":
        from factory.executors.ray import Ray

        return Workers(Ray(recipe))
    from factory.executors.local import Local

    return Workers(Local(recipe))
