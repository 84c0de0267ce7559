"""A lake on object storage, against a real server that speaks S3: written, verified, queried, raced for, cut off and killed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data import Key, Lake, Refusal
from data.contract import TABLES
from data.export import export
from data.lake import Publisher
from data.verify import collect, garbage, verify

Server = tuple[str, Path]
QUESTION = "SELECT pool, group_id, sample_index, text, chrf FROM reward_table ORDER BY ALL"


@pytest.fixture
def remote(s3: str, make_lake: Callable[[Lake], Lake]) -> Lake:
    return make_lake(Lake.open(s3))


def _objects(server: Server, uri: str) -> dict[str, bytes]:
    root = server[1] / uri.removeprefix("s3://")
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str, name: str = "elsewhere") -> Lake:
    """The lake as another machine sees it: without copies."""
    monkeypatch.setenv("GRPO_KD_CACHE", str(tmp_path / name))
    return Lake.open(uri)


def _prompts(texts: list[str]) -> pa.Table:
    schema = TABLES["prompts"].schema
    messages = [[{"role": "user", "content": text}] for text in texts]
    columns = {"prompt_id": list(range(len(texts))), "messages": messages, "split": ["train"] * len(texts)}
    return pa.table({name: pa.array(values, schema.field(name).type) for name, values in columns.items()})


def _two_shards(lake: Lake) -> Publisher:
    return lake.publish("prompts", Key({}, contents=("a", "b")), label="raced")


def _finish(publisher: Publisher, words: str) -> Any:
    for shard in publisher.pending():
        publisher.write(shard, _prompts([f"{words} {shard.index}"]))
    return publisher.finish()


def test_a_remote_lake_answers_as_a_local_one(
    remote: Lake, lake: Lake, s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = _elsewhere(monkeypatch, tmp_path, remote.uri)
    assert there.root != remote.root and verify(there).faults == []
    assert verify(there).counts["rows"] == verify(lake).counts["rows"]
    assert there.sql(QUESTION).equals(lake.sql(QUESTION))
    views = ("leaderboard", "run_curves", "cost_table", "group_table")
    for view in views:
        query = f"SELECT * FROM {view} ORDER BY ALL"
        assert there.sql(query).equals(lake.sql(query)), view
    assert there.scan("samples", label="demo").collect()["text"].to_list() == ["svar 0.0 ð"] + [
        row["text"] for row in lake.read(lake.slices("samples", label="demo")[-1], ["text"]).to_pylist()[1:]
    ]
    assert export(there, tmp_path / "copy.duckdb") == export(lake, tmp_path / "local.duckdb")
    shards = {sha for shards in [s.shards for s in lake.slices("samples")] for sha in [x.sha256 for x in shards]}
    assert {x.sha256 for s in there.slices("samples") for x in s.shards} == shards, "the same bytes as in a folder"


def test_only_the_files_that_a_query_needs_are_fetched(
    remote: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = _elsewhere(monkeypatch, tmp_path, remote.uri)
    there.sql("SELECT count(*) FROM prompts")
    assert {p.relative_to(there.root).parts[0] for p in there.root.rglob("*.parquet")} == {"prompts"}
    slice_ = there.slices("samples", label="demo")[0]
    there.read_shard(slice_, 1)
    assert [p.name.split(".")[0] for p in (there.root / slice_.path).glob("*.parquet")] == ["part-00001"]


def test_sql_cannot_write_or_read_anything_else(remote: Lake, tmp_path: Path) -> None:
    copy = remote.slices("prompts")[0].files[0]
    before = copy.read_bytes()
    for query in (f"COPY (SELECT 1) TO '{copy}'", f"WITH x AS (COPY (SELECT 1) TO '{copy}') SELECT 1"):
        with pytest.raises(Refusal):
            remote.sql(query)
    with pytest.raises(Refusal):
        remote.sql(f"SELECT prompt_id, (SELECT count(*) FROM read_text('{tmp_path}/copies/**')) FROM prompts")
    assert copy.read_bytes() == before


def test_a_damaged_object_is_found_and_a_damaged_copy_is_replaced(remote: Lake, s3_server: Server) -> None:
    slice_ = remote.slices("samples", label="demo")[0]
    slice_.files[0].write_bytes(b"a copy that a bad disk changed")
    with pytest.raises(Refusal, match=f"verify --lake {remote.uri}"):
        remote.read(slice_)
    assert verify(remote).faults == [] and remote.read(slice_).num_rows == slice_.rows
    place = s3_server[1] / remote.uri.removeprefix("s3://") / slice_.shards[0].file
    place.write_bytes(place.read_bytes()[:-1] + b"x")
    assert any("its sha256 is not the manifest's" in fault for fault in verify(Lake.open(remote.uri)).faults)
    place.unlink()
    assert any("is missing" in fault for fault in verify(Lake.open(remote.uri)).faults)


def test_a_second_run_finds_what_the_first_published(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _two_shards(Lake.open(s3)) as publisher:
        made = _finish(publisher, "mine")
    there = _elsewhere(monkeypatch, tmp_path, s3)
    found = there.find("prompts", Key({}, contents=("a", "b")))
    assert found is not None and found.shards == made.shards
    with _two_shards(there) as publisher:
        assert publisher.pending() == [] and publisher.finish().created == made.created
    renewed = there.renew(found)
    assert Lake.open(s3).slices("prompts")[-1].created == renewed.created != made.created


def test_two_writers_race_one_wins_and_the_others_parts_are_garbage(
    s3: str, s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Lake.open(s3)
    theirs = _elsewhere(monkeypatch, tmp_path, s3)
    with _two_shards(ours) as first, _two_shards(theirs) as second:
        for publisher, words in ((first, "ours"), (second, "theirs")):
            for shard in publisher.pending():
                publisher.write(shard, _prompts([f"{words} {shard.index}"]))
        won, lost = first.finish(), second.finish()
    assert won.shards == lost.shards and lost.created == won.created
    assert [row["messages"][0]["content"] for row in theirs.read(lost).to_pylist()] == ["ours 0", "ours 1"]
    assert garbage(ours) == [], "a writer may be at work on what is young"
    left = garbage(ours, hours=0)
    assert len(left) == 2 and not {p.name for p in left} & {Path(s.file).name for s in won.shards}
    assert collect(ours, left) > 0 and garbage(ours, hours=0) == [] and verify(ours).faults == []


def test_the_manifest_of_two_that_finish_at_once_is_ones_whole(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakes = [_elsewhere(monkeypatch, tmp_path, s3, f"m{i}") for i in range(6)]
    publishers = [_two_shards(lake).__enter__() for lake in lakes]
    made: list[Any] = []
    barrier = threading.Barrier(len(lakes))

    def run(number: int, publisher: Publisher) -> None:
        for shard in publisher.pending():
            publisher.write(shard, _prompts([f"{number} {shard.index}"]))
        barrier.wait()
        made.append(publisher.finish())

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(publishers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6 and len({slice_.shards for slice_ in made}) == 1
    assert len(garbage(lakes[0], hours=0)) == 10


def _slow(uri: str, started: Any) -> None:
    with _two_shards(Lake.open(uri)) as publisher:
        publisher.write(publisher.pending()[0], _prompts(["kept 0"]))
        started.set()
        time.sleep(60)


def test_a_killed_writers_shards_are_found_and_the_rest_is_made(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_slow, args=(s3, started))
    process.start()
    assert started.wait(60)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert Lake.open(s3).slices("prompts") == []
    there = _elsewhere(monkeypatch, tmp_path, s3)
    with _two_shards(there) as publisher:
        assert [shard.index for shard in publisher.pending()] == [1]
        made = _finish(publisher, "rerun")
    assert [r["messages"][0]["content"] for r in there.read(made).to_pylist()] == ["kept 0", "rerun 1"]
    assert garbage(there, hours=0) == [] and verify(there).faults == []


def test_an_unfinished_slices_parts_are_garbage_only_when_old(s3: str) -> None:
    lake = Lake.open(s3)
    with _two_shards(lake) as publisher:
        publisher.write(publisher.pending()[0], _prompts(["left"]))
    assert garbage(lake) == [] and len(garbage(lake, hours=0)) == 1


def test_a_part_that_is_gone_before_the_manifest_is_refused(s3: str) -> None:
    lake = Lake.open(s3)
    with _two_shards(lake) as publisher:
        for shard in publisher.pending():
            publisher.write(shard, _prompts([f"x {shard.index}"]))
        collect(lake, garbage(lake, hours=0))
        with pytest.raises(Refusal, match="was removed meanwhile"):
            publisher.finish()
    assert lake.slices("prompts") == []
    with _two_shards(lake) as publisher:
        _finish(publisher, "again")
    assert verify(lake).faults == []


def test_a_slice_whose_files_are_gone_is_made_again(s3: str, s3_server: Server) -> None:
    lake = Lake.open(s3)
    with _two_shards(lake) as publisher:
        made = _finish(publisher, "first")
    (s3_server[1] / s3.removeprefix("s3://") / made.shards[1].file).unlink()
    assert lake.find("prompts", Key({}, contents=("a", "b"))) is None
    with _two_shards(lake) as publisher:
        assert len(publisher.pending()) == 1
        _finish(publisher, "second")
    assert verify(lake).faults == [] and len(lake.slices("prompts")) == 1


def test_what_does_not_answer_is_refused_in_a_sentence(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refusal, match="no lake at"):
        Lake.open(s3, must_exist=True)
    with pytest.raises(Refusal, match="AWS_ENDPOINT_URL"):
        Lake.open("s3://no-such-bucket/x").slices("prompts")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Refusal, match="AWS_ENDPOINT_URL"):
        Lake.open(s3).slices("prompts")


def test_the_key_is_written_nowhere(remote: Lake, s3_server: Server, tmp_path: Path) -> None:
    remote.sql(QUESTION)
    written = [*tmp_path.rglob("*"), *(s3_server[1] / "lakes").rglob("*")]
    assert written and not any(b"canary-5f1c" in path.read_bytes() for path in written if path.is_file())


def test_the_copies_may_be_removed(remote: Lake) -> None:
    expected = remote.sql(QUESTION)
    shutil.rmtree(remote.root)
    assert Lake.open(remote.uri).sql(QUESTION).equals(expected)


def test_half_a_body_under_a_parts_name_is_written_again(s3: str, s3_server: Server) -> None:
    """A storage that is no S3 may keep what came before a connection was cut."""
    lake = Lake.open(s3)
    with _two_shards(lake) as publisher:
        publisher.write(publisher.pending()[0], _prompts(["x 0"]))
    part = next((s3_server[1] / s3.removeprefix("s3://")).rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    shutil.rmtree(lake.root)
    lake = Lake.open(s3)
    with _two_shards(lake) as publisher:
        assert len(publisher.pending()) == 2
        _finish(publisher, "x")
    assert verify(lake).faults == [] and len(part.read_bytes()) > 100
