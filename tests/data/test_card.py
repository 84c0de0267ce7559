"""The lake as a data set repository: `datasets` loads every table of it by name, offline, and no file that no manifest names."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from datasets import get_dataset_config_names, load_dataset

from data import Lake, Refusal
from data.__main__ import main
from data.card import NAME, configurations, write
from data.keys import hex_id
from data.overview import overview


@pytest.fixture
def carded(lake_copy: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lake:
    """A lake with an unfinished slice, and its card written."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)
    left = lake_copy.root / "samples" / "killed" / "part-00000.parquet"
    left.parent.mkdir()
    left.write_bytes(b"no table")
    with pytest.raises(SystemExit) as ended:
        main(["card", "--lake", str(lake_copy.root)])
    assert ended.value.code in (0, None)
    return lake_copy


def _loaded(lake: Lake, name: str, tmp_path: Path) -> list[dict[str, object]]:
    rows = load_dataset(str(lake.root), name, split="train", cache_dir=str(tmp_path / "cache"))
    return [dict(row) for row in rows]


def test_every_table_loads_by_its_name_with_all_its_rows(carded: Lake, tmp_path: Path) -> None:
    held = {row["table"]: row["rows"] for row in overview(carded)[0].to_pylist() if row["rows"]}
    del held["evaluations"]  # its metrics are a map
    names = set(get_dataset_config_names(str(carded.root)))
    assert names == {*held, "rewards-chrf", "rewards-length", "answer_rewards-chrf"}
    for table, rows in held.items():
        assert len(_loaded(carded, table, tmp_path)) == rows, table


def test_values_are_the_lakes_own(carded: Lake, tmp_path: Path) -> None:
    columns = ("group_id", "sample_index", "token_ids", "behaviour_logprobs", "text")
    ours = carded.sql(f"SELECT {', '.join(columns)} FROM samples ORDER BY group_id, sample_index").to_pylist()
    theirs = [{name: row[name] for name in columns} for row in _loaded(carded, "samples", tmp_path)]
    theirs = [row | {"group_id": hex_id(row["group_id"])} for row in theirs]  # SQL shows as text what the files hold
    assert sorted(theirs, key=lambda row: (row["group_id"], row["sample_index"])) == ours
    lengths = [row["value"] for row in _loaded(carded, "rewards-length", tmp_path)]
    assert sorted(lengths) == [1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 4.0, 5.0]


def test_files_load_as_plain_parquet_too(carded: Lake, tmp_path: Path) -> None:
    files = [str(carded.root / file) for file in configurations(carded)["prompts"]]
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["language"] == ["fo"] * 3


def test_the_card_says_licence_language_and_slices(carded: Lake) -> None:
    text = (carded.root / NAME).read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["license"], front["language"]) == ("other", ["fo"])
    assert all(f"`{s.path}`" in text for s in carded.slices("samples"))
    assert str(carded.root) not in text and "map column: `evaluations`" in text


def test_a_file_that_older_slices_hold_is_named_alone_and_garbage_beside_it_is_not_loaded(lake_copy: Lake) -> None:
    slice_ = lake_copy.slices("samples", label="demo")[0]
    (slice_.files[0].parent / "part-00009.parquet").write_bytes(b"left by a kill")
    named = [file for file in configurations(lake_copy)["samples"] if slice_.path in file]
    assert named == [shard.file for shard in slice_.shards]


def test_a_card_of_another_hand_is_kept_and_ones_own_is_renewed(lake_copy: Lake) -> None:
    path = lake_copy.root / NAME
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(Refusal, match="not of this command"):
        write(lake_copy)
    assert path.read_text(encoding="utf-8") == "mine"
    assert write(lake_copy, replace=True) == path and write(lake_copy) == path


def test_a_lake_on_object_storage_is_to_be_pulled_first(s3: str) -> None:
    with pytest.raises(Refusal) as refused:
        write(Lake.open(s3))
    assert f"data pull {s3}" in refused.value.args[1]
