"""Workers as actors of a real Ray: the same bytes on two nodes, whatever dies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from data.lake import Lake
from factory.config import ExecutorSettings
from factory.stages import run

from .conftest import costs

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
