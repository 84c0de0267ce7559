"""Workers as processes of this machine, one engine a GPU.

A worker is spawned, never forked, in a process group of its own, so that what an engine starts ends with it. It ends itself when
the driver is gone: the kernel closes the pipe that says so even after SIGKILL."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread

from data.refusal import Refusal
from factory.config import EngineSettings, FactoryRecipe
from factory.engines import AT_ONCE
from factory.executors.messages import Counted, Lost, Message, Order

SLOTS = max(AT_ONCE.values())  # shards that a worker may have at once; each has a pipe


class Process:
    """A worker in a process."""

    def __init__(self, recipe: FactoryRecipe, environment: dict[str, str]):
        spawn = multiprocessing.get_context("spawn")
        pairs = [spawn.Pipe() for _ in range(SLOTS)]
        self.pipes = [ours for ours, _ in pairs]
        theirs = [theirs for _, theirs in pairs]
        self.process = spawn.Process(target=work, args=(recipe, str(Path.cwd()), theirs, environment))
        self.process.start()
        for end in theirs:
            end.close()

    def messages(self, order: Order, slot: int) -> Iterator[Message]:
        """What the worker says of a shard."""
        try:
            self.pipes[slot].send(order)
            while isinstance(message := self.pipes[slot].recv(), Counted):
                yield message
            yield message
        except (EOFError, OSError) as error:
            self.process.join(timeout=5)
            raise Lost(_ending(self.process.exitcode)) from error

    def close(self) -> None:
        """Kill the worker and what it started."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.kill()  # it may not have a group of its own yet
        self.process.join()


class Local:
    """Starts the workers of this machine."""

    def __init__(self, recipe: FactoryRecipe):
        self.recipe = recipe
        engine, workers = recipe.factory.engine, recipe.executor.workers
        gpus = gpu_sets(engine)
        self.count = workers or max(len(gpus), 1)
        self.environments = [self._environment(gpus, number) for number in range(self.count)]

    def _environment(self, gpus: list[str], number: int) -> dict[str, str]:
        if gpus:
            return {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}
        threads = max((os.cpu_count() or 1) // self.count, 1)  # threads that spin on shared cores are far slower
        return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}

    def start(self, number: int, stopped: Callable[[], bool]) -> Process:
        """Start a worker; what is wrong with it shows at its first order."""
        return Process(self.recipe, self.environments[number])

    def close(self) -> None:
        """Nothing is left."""


def gpu_sets(engine: EngineSettings) -> list[str]:
    """The GPUs of each worker as CUDA names them: one, or as many as vLLM spreads a model over. Empty where none is used."""
    if engine.device == "cpu":
        return []
    import torch

    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    ids = shown.split(",")[:count] if shown else [str(i) for i in range(count)]
    each = gpus_each(engine)
    if 0 < len(ids) < each:
        raise Refusal(
            f"engine.vllm.tensor_parallel_size is {each}, and there are {len(ids)} GPUs here",
            f"engine.vllm.tensor_parallel_size={len(ids)}",
        )
    return [",".join(ids[i : i + each]) for i in range(0, len(ids) - each + 1, each)]


def gpus_each(engine: EngineSettings) -> int:
    """GPUs of one worker, where there are any."""
    return engine.vllm.tensor_parallel_size if "vllm" in (engine.name, engine.scorer) else 1


def work(recipe: FactoryRecipe, folder: str, pipes: list[Connection], environment: dict[str, str]) -> None:
    """A worker's life: a thread a pipe, until the driver is gone."""
    os.setpgrp()
    os.environ.update(environment)  # before torch is imported
    from factory.executors.worker import Worker

    worker = Worker(recipe, folder)
    for pipe in pipes:
        Thread(target=_serve, args=(worker, pipe), daemon=True).start()
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _serve(worker: object, pipe: Connection) -> None:
    from factory.executors.worker import Worker

    assert isinstance(worker, Worker)
    with contextlib.suppress(EOFError, OSError):  # the driver is gone: the main thread knows
        while True:
            for message in worker.serve(pipe.recv()):
                pipe.send(message)


def _ending(code: int | None) -> str:
    if code is None:
        return "closed its pipe"
    if code < 0:
        name = signal.Signals(-code).name
        return f"by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"with exit code {code}"
