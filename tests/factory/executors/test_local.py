"""Workers in processes: the same bytes and sums, whatever dies."""

from __future__ import annotations

import dataclasses

from data.lake import Lake
from factory.config import ExecutorSettings
from factory.stages import run

from .conftest import costs


def test_two_processes_make_the_bytes_of_one(whole, reference, hashes):
    """Every stage, with the tokens that were counted; shards without train prompts or held-out documents are among them."""
    run(dataclasses.replace(whole, executor=ExecutorSettings(name="local", workers=2)))
    assert hashes(Lake.open(whole.lake)) == hashes(Lake.open(reference.lake))
    assert costs(whole.lake) == costs(reference.lake)
    made = Lake.open(whole.lake).slices("samples")[0]
    assert made.notes["executor"] == "local"
