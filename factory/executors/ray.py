"""Workers as actors of Ray, on this machine or on many. Ray is imported here only, when it is used.

Without `executor.address` a cluster is started on this machine and ends with the command. Restarts and retries are ours, not
Ray's: a dead actor's shard is given to another one. Refuses to run without Ray, and a cluster that cannot be reached."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data.refusal import Refusal
from factory.config import FactoryRecipe
from factory.executors.local import SLOTS, gpus_each
from factory.executors.messages import Lost, Message, NoRoom, Order
from factory.executors.worker import Worker

ROOM_WITHIN = 300.0  # seconds until a cluster that grows must have room for a worker


class Served:
    """What Ray starts: a worker, behind methods that Ray calls."""

    def __init__(self, recipe: FactoryRecipe, folder: str):
        self.worker = Worker(recipe, folder)

    def pid(self) -> int:
        """Where it runs; answered once it has started."""
        return os.getpid()

    def serve(self, order: Order) -> Iterator[Message]:
        """The worker's messages, streamed."""
        yield from self.worker.serve(order)


class Actor:
    """A worker in an actor."""

    def __init__(self, handle: Any):
        self.handle = handle

    def messages(self, order: Order, slot: int) -> Iterator[Message]:
        """What the worker says of a shard."""
        import ray

        try:
            for said in self.handle.serve.options(num_returns="streaming").remote(order):
                yield ray.get(said)
        except ray.exceptions.RayTaskError:  # an error of ours
            raise
        except ray.exceptions.RayError as error:
            raise Lost(_first(error)) from error

    def close(self) -> None:
        """Kill the actor."""
        import ray

        with contextlib.suppress(Exception):  # it is dead, or its node, or the cluster is
            ray.kill(self.handle)


class Ray:
    """Starts actors in a cluster: the one at `executor.address`, or its own."""

    def __init__(self, recipe: FactoryRecipe):
        self.recipe, settings = recipe, recipe.executor
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        own: dict[str, Any] = {} if settings.address else {"include_dashboard": False}
        try:
            ray.init(address=settings.address or "local", log_to_driver=False, configure_logging=False, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise Refusal(
                f"no Ray cluster at {settings.address}: {_first(error)}",
                "ray start --head on one machine, then executor.address=HOST:6379; or executor.address=null",
            ) from error
        there, wanted = ray.cluster_resources(), settings.num_gpus
        if wanted is None:
            wanted = (
                gpus_each(recipe.factory.engine) if there.get("GPU") and recipe.factory.engine.device != "cpu" else 0
            )
        fit = int(there.get("GPU", 0) / wanted) if wanted else sum(node["Alive"] for node in ray.nodes())
        self.count = settings.workers or max(fit, 1)
        self.options = {"num_cpus": settings.num_cpus, "num_gpus": wanted, "resources": dict(settings.resources)}

    def start(self, number: int, stopped: Callable[[], bool]) -> Actor:
        """Start an actor, and wait until it runs: a shard is given to no actor that waits for room."""
        import ray

        options = {**self.options, "max_concurrency": SLOTS + 1, "max_restarts": 0}
        actor = Actor(ray.remote(Served).options(**options).remote(self.recipe, str(Path.cwd())))
        running, until = actor.handle.pid.remote(), time.monotonic() + ROOM_WITHIN
        while not ray.wait([running], timeout=0.5)[0]:
            if stopped() or time.monotonic() > until:
                actor.close()
                asked = ", ".join(f"{name} {value}" for name, value in self.options.items() if value)
                raise NoRoom(
                    f"Ray had no room for a worker ({asked}) in {ROOM_WITHIN:.0f} s: {ray.cluster_resources()}"
                )
        try:
            ray.get(running)
        except ray.exceptions.RayError as error:
            raise Lost(_first(error)) from error
        return actor

    def close(self) -> None:
        """Leave the cluster; an own one ends."""
        import ray

        ray.shutdown()


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
