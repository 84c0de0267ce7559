"""Shards on disk: what is refused, how precise log-probabilities are, and that the same rows are the same bytes."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import storage
from data.contract import TABLES
from data.refusal import Refusal
from data.storage import read_shard, round_mantissa, row_group_bounds, validated, write_shard


def _rewards(**changes: object) -> pa.Table:
    rows = {"group_id": [1, 1, 2], "sample_index": [0, 1, 0], "value": [0.5, None, 1.5], "valid": [True, False, True]}
    return pa.table(rows | changes)


def _scores(logprobs: list[list[float | None] | None]) -> pa.Table:
    n = len(logprobs)
    rows = {"group_id": list(range(n)), "sample_index": [0] * n, "scorer": ["t"] * n}
    return pa.table(rows | {"logprobs": pa.array(logprobs, pa.list_(pa.float32()))})


@given(st.floats(-8192.0, -(2.0**-14), width=32))
def test_rounding_keeps_fifteen_bits(value: float) -> None:
    rounded = float(round_mantissa(np.float32([value]))[0])
    assert abs(rounded - value) <= abs(value) * 2**-16
    assert np.float32([rounded]).view(np.uint32)[0] % 256 == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (_rewards().drop_columns("valid"), "columns missing .*valid"),
        (_rewards(extra=[1, 2, 3]), "not in the contract .*extra"),
        (_rewards(valid=[True, None, True]), "valid is null in 1 rows"),
        (_rewards(value=[0.5, float("nan"), 1.5]), "value holds NaN or infinity"),
        (_rewards(value=[0.5, float("-inf"), 1.5]), "value holds NaN or infinity"),
        (_rewards(sample_index=[0, 1, 300]), "sample_index"),
        (_rewards(value=["a", "b", "c"]), "value"),
    ],
)
def test_what_the_contract_forbids_is_refused(rows: pa.Table, message: str) -> None:
    with pytest.raises(Refusal, match=f"somewhere.*{message}"):
        validated(TABLES["rewards"], rows, "somewhere")


def test_log_probabilities_are_numbers_or_the_whole_list_is_missing() -> None:
    table = TABLES["scores"]
    for broken in ([float("nan")], [float("-inf")]):
        with pytest.raises(Refusal, match="logprobs holds"):
            validated(table, _scores([[-0.5], broken]), "x")
    answers = pa.table(
        {"prompt_id": [1], "candidate": [0], "text": ["ja"], "method": ["direct"], "logprobs": [[-1.0, None]]}
    )
    with pytest.raises(Refusal, match="logprobs holds null inside a list"):
        validated(TABLES["answers"], answers, "x")
    whole = validated(table, _scores([[-0.5, -0.25], None, [], [-1.0]]), "x")
    assert whole["logprobs"].to_pylist() == [[-0.5, -0.25], None, [], [-1.0]]
    assert validated(table, _scores([[-0.5], None, [-0.3, -0.1]]).slice(1), "x")["logprobs"].to_pylist() == [
        None, pytest.approx([-0.3, -0.1], rel=2**-16),
    ]  # fmt: skip


def test_a_token_that_a_scorer_has_no_number_for_stays_null_on_disk(tmp_path: Path) -> None:
    rows = _scores([[-0.5, None], None, [None, -0.3], []])
    write_shard(TABLES["scores"], rows, tmp_path / "x.parquet", "k", "x")
    read = read_shard(tmp_path / "x.parquet", "k")["logprobs"].to_pylist()
    assert read == [[-0.5, None], None, [None, pytest.approx(-0.3, rel=2**-16)], []]
    assert validated(TABLES["scores"], rows.slice(2), "x")["logprobs"].to_pylist() == [read[2], []]


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    table = TABLES["scores"]
    rows = _scores([[-0.1, -0.2], [-3.0]])
    shas = {write_shard(table, rows, tmp_path / name / "part.parquet", "k", "x") for name in ("a", "b")}
    assert len(shas) == 1
    assert write_shard(table, rows, tmp_path / "c.parquet", "other", "x") not in shas
    assert str(tmp_path).encode() not in (tmp_path / "a" / "part.parquet").read_bytes()


def test_log_probabilities_are_byte_stream_split(tmp_path: Path) -> None:
    write_shard(TABLES["scores"], _scores([[-0.1, -0.2]]), tmp_path / "x.parquet", "k", "x")
    group = pq.read_metadata(tmp_path / "x.parquet").row_group(0)
    encodings = {group.column(i).path_in_schema: group.column(i).encodings for i in range(group.num_columns)}
    assert "BYTE_STREAM_SPLIT" in encodings["logprobs.list.element"]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=200), st.booleans())
def test_row_groups_hold_whole_groups(sizes: list[int], tokens: bool) -> None:
    table = TABLES["samples" if tokens else "rewards"]
    rows = pa.table({"group_id": np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes)})
    before = storage.SCALAR_ROW_GROUP, storage.TOKEN_ROW_GROUP
    storage.SCALAR_ROW_GROUP, storage.TOKEN_ROW_GROUP = 32, 3
    try:
        bounds = row_group_bounds(table, rows)
    finally:
        storage.SCALAR_ROW_GROUP, storage.TOKEN_ROW_GROUP = before
    starts = np.cumsum([0, *sizes])
    assert bounds[0] == 0 and bounds[-1] == sum(sizes) and (np.diff(bounds) > 0).all()
    assert set(bounds) <= set(starts.tolist())
    for first, last in itertools.pairwise(bounds):
        groups = np.searchsorted(starts, last) - np.searchsorted(starts, first)
        assert groups <= 3 if tokens else (last - first <= 32 or groups == 1)


@pytest.mark.parametrize("table", ["rewards", "answer_rewards"])
@pytest.mark.parametrize(("values", "expected"), [([[0.5, 1.0]], 3), ([None], 1), ([None, [0.5]], 3)])
def test_rewards_with_values_a_token_have_the_small_row_groups_of_token_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, values: list[list[float] | None], expected: int
) -> None:
    monkeypatch.setattr(storage, "TOKEN_ROW_GROUP", 2)
    first, second = TABLES[table].keys
    count = 6
    rows = {first: range(count), second: [0] * count, "value": [0.5] * count, "valid": [True] * count}
    given_values = pa.array((values * count)[:count], pa.list_(pa.float32()))
    write_shard(
        TABLES[table],
        pa.table({k: list(v) for k, v in rows.items()} | {"values": given_values}),
        tmp_path / "x.parquet",
        "k",
        "x",
    )
    assert pq.read_metadata(tmp_path / "x.parquet").num_row_groups == expected


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(storage, "replace_durably", full)
    with pytest.raises(Refusal, match="could not be written") as refused:
        write_shard(TABLES["rewards"], _rewards(), tmp_path / "x.parquet", "k", "rewards/x shard 0")
    assert "free disk space" in refused.value.args[1] and list(tmp_path.iterdir()) == []


def test_a_foreign_missing_or_cut_shard_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "rewards" / "x" / "part-00000.parquet"
    write_shard(TABLES["rewards"], _rewards(), path, "k", "x")
    assert read_shard(path, "k", ["value"]).to_pydict() == {"value": [0.5, None, 1.5]}
    with pytest.raises(Refusal, match=f"{path} is a file of another slice"):
        read_shard(path, "other")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(Refusal, match=f"{path} cannot be read"):
        read_shard(path, "k")
    with pytest.raises(Refusal, match=r"nothing\.parquet cannot be read"):
        read_shard(path.with_name("nothing.parquet"), "k")
