"""Every kind of damage is found and named, and what nobody names is collected."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import filelock
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import Lake
from data.contract import TABLES
from data.manifest import FILE, ShardFile, Slice, write_manifest
from data.storage import write_shard
from data.transfer import transfer
from data.verify import collect, garbage, verify


def test_a_whole_lake_has_no_fault_and_its_counts(lake: Lake) -> None:
    found = verify(lake)
    assert found.faults == []
    assert (found.counts["slices"], found.counts["files"], found.counts["journal files"]) == (17, 28, 6)


def _samples(lake: Lake) -> Slice:
    return lake.slices("samples", label="demo")[0]


def _remove(lake: Lake) -> None:
    _samples(lake).files[1].unlink()


def _cut(lake: Lake) -> None:
    path = _samples(lake).files[0]
    path.write_bytes(path.read_bytes()[:-20])


def _flip(lake: Lake) -> None:
    path = _samples(lake).files[0]
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)


def _orphan(lake: Lake) -> None:
    parent = lake.root / _samples(lake).parents[0] / FILE
    parent.unlink()


def _manifest(lake: Lake) -> None:
    (lake.root / _samples(lake).path / FILE).write_text("{", encoding="utf-8")


def _rekey(lake: Lake, keys: dict[str, list[int]], key: str | None = None, rows: int | None = None) -> None:
    """Rewrite a rewards shard, its manifest's sha256 with it: only the content is wrong."""
    slice_ = lake.slices("rewards", label="length")[0]
    shard = slice_.shards[1]
    table = pa.table(keys | {"value": [1.0], "valid": [True]})
    sha = write_shard(TABLES["rewards"], table, slice_.files[1], key or shard.key, "test")
    new = ShardFile(1, shard.key, shard.file, rows or shard.rows, sha)
    write_manifest(replace(slice_, shards=(slice_.shards[0], new)))


def _own_keys(lake: Lake) -> dict[str, list[int]]:
    table = pq.read_table(lake.slices("rewards", label="length")[0].files[1])
    return {"group_id": pa.array(table["group_id"].to_pylist(), pa.uint64()), "sample_index": [0]}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove, "part-00001.parquet is missing"),
        (_cut, "its sha256 is not the manifest's"),
        (_flip, "its sha256 is not the manifest's"),
        (_orphan, "its parent groups/demo-"),
        (_manifest, "is not a manifest"),
        (lambda lake: _rekey(lake, {"group_id": [1], "sample_index": [0]}), "holds other rows than its parent"),
        (lambda lake: _rekey(lake, _own_keys(lake), key="foreign"), "is a shard of another slice"),
        (lambda lake: _rekey(lake, _own_keys(lake), rows=2), "holds 1 rows, the manifest says 2"),
    ],
)
def test_damage_is_named(lake_copy: Lake, damage: Callable[[Lake], None], message: str) -> None:
    damage(lake_copy)
    faults = verify(lake_copy).faults
    assert any(message in fault for fault in faults), faults


def _cut_journal(lake: Lake) -> None:
    path = lake.root / "metrics" / "journal" / "r1.parquet"
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize("damage", [_remove, _cut, _flip, _orphan, _manifest, _cut_journal])
def test_what_a_copy_puts_right_is_counted_and_said_and_true(
    lake: Lake, lake_copy: Lake, damage: Callable[[Lake], None]
) -> None:
    damage(lake_copy)
    found = verify(lake_copy)
    assert found.lost + found.broken == len(found.faults) > 0
    step = found.next_step(lake_copy)
    assert f"python -m data pull GOOD_COPY --lake {lake_copy.root}" in step and " puts " not in step
    if "remove the slices" in step.partition("then")[0]:
        shutil.rmtree(lake_copy.root / "samples" / found.faults[0].split("/")[1])
    if "remove the journals'" in step.partition("then")[0]:
        (lake_copy.root / found.faults[0].split()[0]).unlink()
    transfer(lake, lake_copy)
    assert verify(lake_copy).faults == []


def test_what_no_copy_puts_right_is_told_apart(lake: Lake, lake_copy: Lake) -> None:
    _rekey(lake_copy, _own_keys(lake_copy), rows=2)
    alone = verify(lake_copy)
    assert alone.faults and not alone.lost and "pull" not in alone.next_step(lake_copy)
    _remove(lake_copy)
    assert "puts 1 right" in verify(lake_copy).next_step(lake_copy)


def test_an_object_that_is_gone_or_changed_is_pushed_again(
    lake: Lake, s3: str, s3_server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Lake.open(s3)
    transfer(lake, there)
    first, second = (s3_server[1] / s3.removeprefix("s3://") / shard.file for shard in _samples(lake).shards)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1] + b"x")
    monkeypatch.setenv("GRPO_KD_CACHE", str(tmp_path / "elsewhere"))
    found = verify(Lake.open(s3))
    assert found.lost == len(found.faults) == 2
    assert f"remove the changed files, then python -m data push {s3} --lake GOOD_COPY" in found.next_step(there)
    second.unlink()
    transfer(lake, Lake.open(s3))
    assert verify(Lake.open(s3)).faults == []


def test_a_cut_journal_file_is_named(lake_copy: Lake) -> None:
    _cut_journal(lake_copy)
    assert any(fault.startswith("metrics/journal/r1.parquet is no Parquet file") for fault in verify(lake_copy).faults)


def _leave(lake: Lake) -> list[Path]:
    folder = lake.root / "rewards" / "killed-000000000000"
    folder.mkdir()
    left = [
        folder / "part-00000.parquet",
        folder / ".part-00001.parquet.9.tmp",
        lake.root / "metrics/journal/.r1.9.tmp",
    ]
    for path in left:
        path.write_bytes(b"left by a killed run")
    return left


def test_only_what_no_manifest_names_is_garbage(lake_copy: Lake) -> None:
    assert garbage(lake_copy) == []
    left = _leave(lake_copy)
    found = garbage(lake_copy, hours=0)
    assert sorted(found) == sorted(left)
    assert collect(lake_copy, found) == 3 * 20
    assert garbage(lake_copy) == [] and verify(lake_copy).faults == []
    assert not (lake_copy.root / "rewards" / "killed-000000000000").exists()


def test_a_file_that_only_a_newer_slice_names_is_kept(lake_copy: Lake) -> None:
    samples = _samples(lake_copy)
    write_manifest(
        Slice(samples.root, "samples", "newer", "demo", samples.shards, parents=samples.parents, created="9")
    )
    (lake_copy.root / samples.path / FILE).unlink()
    assert garbage(lake_copy) == []


def test_a_slice_that_is_being_written_is_left_alone(lake_copy: Lake) -> None:
    left = _leave(lake_copy)
    with filelock.FileLock(lake_copy.root / "rewards" / ".killed-000000000000.lock"):
        assert garbage(lake_copy, hours=0) == [left[2]]
        assert garbage(lake_copy) == [], "a journal has no lock: what is young may be being written"


def test_a_slice_finished_since_garbage_looked_keeps_its_files(lake_copy: Lake) -> None:
    samples = _samples(lake_copy)
    manifest = lake_copy.root / samples.table / samples.name / FILE
    content = manifest.read_bytes()
    manifest.unlink()
    files = [path for path in garbage(lake_copy) if path.parent == manifest.parent]
    assert files
    manifest.write_bytes(content)
    assert collect(lake_copy, files) == 0 and all(path.is_file() for path in files)


def test_a_slice_taken_up_since_garbage_looked_keeps_its_files(lake_copy: Lake) -> None:
    samples = _samples(lake_copy)
    folder = lake_copy.root / samples.table / samples.name
    (folder / FILE).unlink()
    files = [path for path in garbage(lake_copy) if path.parent == folder]
    with filelock.FileLock(folder.parent / f".{folder.name}.lock"):
        assert collect(lake_copy, files) == 0
    assert collect(lake_copy, files) > 0 and not any(path.is_file() for path in files)
