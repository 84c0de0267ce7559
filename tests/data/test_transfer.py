"""push and pull: whole lakes and chosen slices, folder to folder and over object storage, cut and resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from data import Lake, Refusal
from data.manifest import write_manifest
from data.transfer import transfer
from data.verify import verify

QUESTION = "SELECT pool, group_id, sample_index, text, chrf FROM reward_table ORDER BY ALL"


def _files(root: Path) -> dict[str, bytes]:
    return {
        p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.suffix != ".lock"
    }


def test_a_whole_lake_goes_to_a_folder_byte_for_byte(lake: Lake, tmp_path: Path) -> None:
    copy = Lake.open(tmp_path / "copy")
    first = transfer(lake, copy)
    assert _files(copy.root) == _files(lake.root) and verify(copy).faults == []
    again = transfer(lake, copy)
    assert first.files == again.there > 0 and again.files == again.slices == again.bytes == 0


def test_to_object_storage_and_back(
    lake: Lake, s3: str, s3_server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Lake.open(s3)
    transfer(lake, there)
    assert _files(s3_server[1] / s3.removeprefix("s3://")) == _files(lake.root)
    assert verify(there).faults == [] and there.sql(QUESTION).equals(lake.sql(QUESTION))
    monkeypatch.setenv("GRPO_KD_CACHE", str(tmp_path / "elsewhere"))
    back = Lake.open(tmp_path / "back")
    transfer(Lake.open(s3), back)
    assert _files(back.root) == _files(lake.root)
    assert transfer(lake, Lake.open(s3)).files == 0


def test_a_chosen_slice_brings_what_it_was_made_from(lake: Lake, tmp_path: Path) -> None:
    copy = Lake.open(tmp_path / "copy")
    transfer(lake, copy, labels=["length"])
    assert [(t, s.label) for t in ("prompts", "groups", "samples", "rewards") for s in copy.slices(t)] == [
        ("prompts", "prompts"),
        ("groups", "demo"),
        ("samples", "demo"),
        ("rewards", "length"),
    ]
    assert verify(copy).faults == [] and not (copy.root / "runs").exists()
    name = lake.slices("answers")[0].path
    transfer(lake, copy, slices=[name])
    assert [s.path for s in copy.slices("answers")] == [name]


def test_names_that_are_not_there_are_refused(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="did you mean 'length'"):
        transfer(lake, Lake.open(tmp_path / "copy"), labels=["lenght"])
    with pytest.raises(Refusal, match="no slice samples/x"):
        transfer(lake, Lake.open(tmp_path / "copy"), slices=["samples/x"])


def test_a_damaged_shard_is_not_copied_and_its_slice_does_not_appear(lake_copy: Lake, tmp_path: Path) -> None:
    path = lake_copy.slices("samples", label="demo")[0].files[1]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    copy = Lake.open(tmp_path / "copy")
    with pytest.raises(Refusal, match="its sha256 is not the manifest's"):
        transfer(lake_copy, copy, labels=["demo"])
    assert copy.slices("samples") == [] and verify(copy).faults == []


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_another_slice_or_file_under_the_same_name_is_refused(
    lake_copy: Lake, lake: Lake, tmp_path: Path, s3: str, s3_server: tuple[str, Path], place: str
) -> None:
    target = Lake.open(tmp_path / "copy") if place == "folder" else Lake.open(s3)
    root = target.root if place == "folder" else s3_server[1] / s3.removeprefix("s3://")
    slice_ = lake.slices("prompts")[0]
    left = root / slice_.shards[0].file
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half of a file that no manifest names")
    transfer(lake, target, slices=[slice_.path])
    assert verify(target).faults == []
    write_manifest(replace(target.slices("prompts")[0], name="a-newer"))
    (root / slice_.path / "_manifest.json").unlink()
    named = root / "prompts/a-newer/_manifest.json"
    named.write_text(named.read_text().replace(slice_.shards[0].sha256, "0" * 64))
    with pytest.raises(Refusal, match="is another file"):
        transfer(lake, target, slices=[slice_.path])
    named.unlink()
    transfer(lake, target, slices=[slice_.path])
    manifest = root / slice_.path / "_manifest.json"
    manifest.write_text(manifest.read_text().replace(slice_.shards[0].sha256, "0" * 64))
    with pytest.raises(Refusal, match="holds another slice"):
        transfer(lake, Lake.open(target.uri), slices=[slice_.path])


def test_a_journal_that_differs_stays_unless_it_is_to_be_replaced(lake: Lake, lake_copy: Lake) -> None:
    rows = lake.journal("metrics")
    assert lake_copy.journal("metrics")[0].read_bytes() == rows[0].read_bytes()
    lake_copy.append("metrics", lake.sql("SELECT run, step, name, value FROM metrics WHERE run = 'r1' LIMIT 1"), "r1")
    theirs, said = lake_copy.journal("metrics")[0].read_bytes(), []
    transfer(lake, lake_copy, say=said.append)
    assert lake_copy.journal("metrics")[0].read_bytes() == theirs and any("--replace" in line for line in said)
    transfer(lake, lake_copy, replace=True)
    assert lake_copy.journal("metrics")[0].read_bytes() == rows[0].read_bytes()
