"""Workers as actors of a real Ray: the same bytes on two nodes, whatever dies."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from threading import Thread
from typing import Any

import pytest

from data.lake import Lake
from factory.config import ExecutorSettings
from factory.stages import run

from .conftest import alive, command_of, costs, descendants, finished, shards, until, workers

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes on this machine, one CPU each."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def test_two_nodes_make_the_bytes_of_one_process(whole, reference, hashes, cluster):
    run(dataclasses.replace(whole, executor=ExecutorSettings(name="ray", address=cluster.address)))
    assert hashes(Lake.open(whole.lake)) == hashes(Lake.open(reference.lake))
    assert costs(whole.lake) == costs(reference.lake)


def test_a_killed_actor_loses_nothing(long, start, hashes):
    """Another actor takes its shard; every shard that was there stays as it is."""
    process = start(long, "executor=ray", "executor.workers=1")
    until(lambda: shards(long.lake, "samples"))
    [first] = workers(process)
    os.kill(first, signal.SIGKILL)
    kept = hashes(Lake.open(long.lake))
    finished(process)
    made = hashes(Lake.open(long.lake))
    assert not alive(first) and len(kept) < len(made) and kept.items() <= made.items()
    alone = dataclasses.replace(long, lake=f"{long.lake}-alone")
    run(alone)
    assert made == hashes(Lake.open(alone.lake)) and costs(long.lake) == costs(alone.lake)


def test_a_node_that_leaves_loses_nothing(long, hashes, cluster):
    """The actor of a lost machine, one on each of three, is done without."""
    long = dataclasses.replace(long, sampling=dataclasses.replace(long.sampling, n=64))  # time for three to start
    node = cluster.add_node(num_cpus=1)
    settings = ExecutorSettings(name="ray", address=cluster.address, workers=3)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            run(dataclasses.replace(long, executor=settings))
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=work)
    thread.start()
    until(lambda: sum("ray::Served" in command_of(pid) for pid in descendants(os.getpid())) == 3)
    there = shards(long.lake, "samples")
    cluster.remove_node(node, allow_graceful=False)
    thread.join(timeout=240)
    assert not thread.is_alive() and not failed, failed
    assert there < shards(long.lake, "samples") == 12
    alone = dataclasses.replace(long, lake=f"{long.lake}-alone")
    run(alone)
    assert hashes(Lake.open(long.lake)) == hashes(Lake.open(alone.lake))


def test_a_killed_driver_leaves_no_actor(long, start, hashes):
    """The agents that Ray starts beside an actor end by themselves, a minute later."""
    process = start(long, "executor=ray", "executor.workers=1")
    until(lambda: shards(long.lake, "samples"))
    left = descendants(process.pid)
    actors = workers(process)
    process.kill()
    try:
        until(lambda: not any(map(alive, actors)), seconds=30)
    finally:
        for pid in filter(alive, left):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    kept = hashes(Lake.open(long.lake))
    run(long)
    assert actors and kept.items() <= hashes(Lake.open(long.lake)).items()
