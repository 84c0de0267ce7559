"""Figures that views work out, where a wrong formula would look right: uneven documents, invalid values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from data import Lake, Slice
from data.scalars import read_scalars

Publish = Callable[..., Slice]


def test_bits_per_byte_is_a_ratio_of_sums(empty_lake: Lake, publish: Publish) -> None:
    rows: dict[str, list[Any]] = {
        "policy": ["p", "p"], "model_id": ["m", "m"], "benchmark": ["fit", "fit"], "item": ["0", "1"],
        "metrics": [[("bits", 30.0), ("bytes", 10.0)], [("bits", 10.0), ("bytes", 6.0)]],
    }  # fmt: skip
    publish(empty_lake, "evaluations", [rows], label="fit")
    found = empty_lake.sql("SELECT metric, value, n FROM leaderboard").to_pylist()
    assert found == [{"metric": "bits_per_byte", "value": 2.5, "n": 2}]


def test_a_value_that_is_not_valid_is_shown_nowhere(lake_copy: Lake, publish: Publish) -> None:
    samples = lake_copy.slices("samples", label="demo")[0]
    shards = []
    for number in range(len(samples.shards)):
        keys = lake_copy.read_shard(samples, number, ["group_id", "sample_index"]).to_pydict()
        count = len(keys["group_id"])
        shards.append(keys | {"value": [5.0] * count, "valid": [i % 2 == 0 for i in range(count)]})
    doubted = publish(lake_copy, "rewards", shards, label="doubt", parents=(samples,))
    values = [5.0, None, 5.0, None, 5.0, None, 5.0, 5.0]  # the second shard begins anew
    assert read_scalars(samples, {"doubt": doubted})["doubt"].to_pylist() == values
    shown = lake_copy.sql("SELECT doubt FROM reward_table WHERE pool = 'demo'")["doubt"].to_pylist()
    assert sorted(shown, key=str) == pytest.approx(sorted(values, key=str))
