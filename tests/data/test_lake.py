"""Find, publish, resume: shards are kept, nothing is made twice, and a slice exists from its manifest on."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pyarrow as pa
import pytest

from data import Key, Lake, Publisher, Refusal
from data.manifest import FILE, read_manifest


def _rows(first: int, n: int = 2) -> pa.Table:
    ids = [g for g in range(first, first + n) for _ in (0, 1)]
    return pa.table({"group_id": ids, "sample_index": [0, 1] * n, "value": [0.5] * 2 * n, "valid": [True] * 2 * n})


def _prompts(i: int) -> pa.Table:
    return pa.table({"prompt_id": [i], "messages": [[{"role": "user", "content": f"{i}"}]], "split": ["train"]})


def _publish(lake: Lake, contents: tuple[str, ...], label: str = "demo") -> Publisher:
    return lake.publish("prompts", Key({"a": 1}, contents=contents), label=label)


def test_a_slice_exists_from_its_manifest_on(empty_lake: Lake) -> None:
    key = Key({"a": 1}, contents=("x", "y"))
    with _publish(empty_lake, ("x", "y")) as publisher:
        for shard in publisher.pending():
            publisher.write(shard, _prompts(shard.index))
        assert empty_lake.find("prompts", key) is None
        slice_ = publisher.finish()
    assert empty_lake.find("prompts", key) == slice_ and slice_.rows == 2
    assert empty_lake.read(slice_)["prompt_id"].to_pylist() == [0, 1]
    assert empty_lake.find("prompts", Key({"a": 2}, contents=("x", "y"))) is None


def test_a_killed_publisher_leaves_its_shards_to_the_next(empty_lake: Lake) -> None:
    with _publish(empty_lake, ("x", "y")) as publisher:
        publisher.write(publisher.pending()[0], _prompts(0))
        (publisher.folder / ".part-00001.parquet.1.tmp").write_bytes(b"half")
    made = next((empty_lake.root / "prompts").glob("*/part-00000.parquet")).stat().st_mtime_ns
    with _publish(empty_lake, ("x", "y")) as publisher:
        assert [s.index for s in publisher.pending()] == [1]
        with pytest.raises(ValueError, match="1 shards are not made"):
            publisher.finish()
        publisher.write(publisher.pending()[0], _prompts(1))
        slice_ = publisher.finish()
    assert slice_.files[0].stat().st_mtime_ns == made
    assert sorted(p.name for p in slice_.files[0].parent.iterdir()) == [
        FILE,
        "part-00000.parquet",
        "part-00001.parquet",
    ]


def test_appending_names_the_old_files_and_makes_the_new(empty_lake: Lake) -> None:
    with _publish(empty_lake, ("x",)) as publisher:
        publisher.write(publisher.pending()[0], _prompts(0))
        old = publisher.finish()
    with _publish(empty_lake, ("x", "y")) as publisher:
        assert [s.index for s in publisher.pending()] == [1]
        publisher.write(publisher.pending()[0], _prompts(1))
        new = publisher.finish()
    assert new.files[0] == old.files[0] and new.name != old.name
    assert empty_lake.sql("SELECT slice, count(*) n FROM prompts GROUP BY ALL").to_pylist() == [
        {"slice": new.name, "n": 2}
    ]


def test_another_label_names_what_is_there(empty_lake: Lake) -> None:
    with _publish(empty_lake, ("x",)) as publisher:
        publisher.write(publisher.pending()[0], _prompts(0))
        publisher.finish()
    with _publish(empty_lake, ("x",), label="twin") as publisher:
        assert publisher.pending() == []
        twin = publisher.finish()
    assert len(empty_lake.slices("prompts")) == 2 and empty_lake.slices("prompts", label="twin") == [twin]


def test_keys_depend_on_values_and_parents_only(lake: Lake) -> None:
    samples = lake.slices("samples", label="demo")[0]
    other = lake.slices("samples", label="round1")[0]
    key = Key({"a": 1}, (samples,), {"scorer": "m"})
    assert key.shard_keys("scores") == Key({"a": 1}, (samples,), {"scorer": "m"}).shard_keys("scores")
    assert len(set(key.shard_keys("scores"))) == len(samples.shards)
    for changed in (Key({"a": 2}, (samples,), {"scorer": "m"}), Key({"a": 1}, (other,), {"scorer": "m"}),
                    Key({"a": 1}, (samples,), {"scorer": "n"})):  # fmt: skip
        assert not set(changed.shard_keys("scores")) & set(key.shard_keys("scores"))
    assert not set(key.shard_keys("rewards")) & set(key.shard_keys("scores"))


def test_a_sample_keyed_shard_must_repeat_its_parents_keys(lake_copy: Lake) -> None:
    samples = lake_copy.slices("samples", label="demo")[0]
    with lake_copy.publish("rewards", Key({"b": 1}, (samples,)), label="new") as publisher:
        shard = publisher.pending()[0]
        keys = shard.parent_rows(["group_id", "sample_index"])
        good = keys.append_column("value", pa.array([1.0] * 7)).append_column("valid", pa.array([True] * 7))
        with pytest.raises(Refusal, match="rows are not those of samples/demo"):
            publisher.write(shard, good.take(list(range(6, -1, -1))))
        with pytest.raises(Refusal, match="rows are not those of samples/demo"):
            publisher.write(shard, good.slice(0, 6))
        publisher.write(shard, good)


def _hold(root: Path, ready: object, done: object) -> None:
    with _publish(Lake.open(root), ("x",)):
        ready.set()  # type: ignore[attr-defined]
        done.wait(20)  # type: ignore[attr-defined]


def test_a_slice_being_written_is_refused_to_a_second_writer(empty_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(empty_lake.root, ready, done))
    process.start()
    assert ready.wait(20)
    publisher = _publish(empty_lake, ("x",))
    acquire = publisher._lock.acquire
    monkeypatch.setattr(publisher._lock, "acquire", lambda timeout: acquire(timeout=0.05))
    with pytest.raises(Refusal, match="is being written by another process"):
        publisher.__enter__()
    done.set()
    process.join()
    with publisher:
        assert len(publisher.pending()) == 1


def test_a_publisher_that_cannot_begin_frees_its_lock(empty_lake: Lake) -> None:
    with _publish(empty_lake, ("x",)) as publisher:
        path = publisher.folder / "part-00000.parquet"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"no parquet")
    broken = _publish(empty_lake, ("x",))
    with pytest.raises(Refusal, match="is no Parquet file"):
        broken.__enter__()
    assert not broken._lock.is_locked


def test_unknown_names_are_refused(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="did you mean 'samples'"):
        lake.slices("sampels")
    with pytest.raises(Refusal, match="no slice samples/x"):
        lake.slice("samples/x")
    with pytest.raises(Refusal, match="no lake at"):
        Lake.open(tmp_path / "nowhere", must_exist=True)
    with pytest.raises(Refusal, match="no slice of scores"):
        lake.scan("scores")


def test_a_broken_or_other_manifest_is_refused(lake_copy: Lake) -> None:
    slice_ = lake_copy.slices("prompts")[0]
    path = lake_copy.root / slice_.path / FILE
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"contract": 1', '"contract": 99'), encoding="utf-8")
    with pytest.raises(Refusal, match="was written under contract 99"):
        read_manifest(lake_copy.place, "prompts", slice_.name)
    path.write_text(text[:-10], encoding="utf-8")
    with pytest.raises(Refusal, match="is not a manifest"):
        lake_copy.slices("prompts")


def test_scan_is_the_newest_slice_as_polars(lake: Lake) -> None:
    frame = lake.scan("samples", label="demo").collect()
    assert frame.height == 8 and frame["text"][0] == "svar 0.0 ð"


def test_a_journal_file_of_the_same_name_replaces_the_older(lake_copy: Lake) -> None:
    rows = pa.table({"run": ["r1"], "step": [1], "name": ["loss"], "value": [0.5]})
    lake_copy.append("metrics", rows, "r1")
    assert lake_copy.sql("SELECT count(*) AS n FROM metrics WHERE run = 'r1'").to_pylist() == [{"n": 1}]
    with pytest.raises(ValueError, match="derived"):
        lake_copy.append("samples", rows, "r1")


@pytest.mark.parametrize("uri", ["http://host/lake", "s3://", "s3://key:secret@bucket/lake", "s3://bucket/a?b=c"])
def test_other_addresses_than_s3_are_refused(uri: str) -> None:
    with pytest.raises(Refusal, match="is no address of a lake"):
        Lake.open(uri)
