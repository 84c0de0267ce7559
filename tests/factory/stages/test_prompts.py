"""Prompts from files and the hub: which are sampled, and what more of them leave as it was."""

from __future__ import annotations

import json

import pytest

from data.config import PromptSource
from data.keys import nfc
from data.refusal import Refusal
from data.verify import verify

from .slices import PATH, newest


def test_held_out_prompts_are_neither_sampled_nor_answered(recipe, make):
    lake = make(recipe, "prompts,answers,samples")
    prompts = lake.read(newest(lake, "prompts")).to_pylist()
    held_out = {p["prompt_id"] for p in prompts if p["split"] == "held_out"}
    assert len(held_out) == 1
    for table in ("groups", "answers", "answer_tokens"):
        assert not held_out & set(lake.read(newest(lake, table), ["prompt_id"]).column(0).to_pylist())


def test_a_shard_without_train_prompts_is_empty_everywhere(recipe, change, make):

    lake = make(change(recipe, shard_groups=1), PATH)
    for table in ("groups", "samples", "scores", "rewards", "answers", "answer_tokens", "answer_rewards", "selections"):
        rows = [shard.rows for shard in newest(lake, table).shards]
        assert len(rows) == 6 and rows[5] == 0 and min(rows[:5]) > 0, table
    assert verify(lake).faults == []


def test_appended_prompts_keep_the_old_shards(recipe, make, write_rows, prompt_rows, hashes):
    lake = make(recipe, PATH)
    before = hashes(lake)
    more = [{"messages": "and one more ?", "references": ["ja"], "split": "train"}]
    write_rows([*prompt_rows, *more])
    make(recipe, PATH)
    after = hashes(lake)
    assert {k: after[k] for k in before} == before
    for table in ("prompts", "samples", "scores", "rewards"):
        slice_ = newest(lake, table)
        assert len(slice_.shards) == 4
        assert sum(slice_.name in shard.file for shard in slice_.shards) == 1, table  # one new shard, three old files


def test_a_larger_limit_keeps_the_shards_of_the_smaller(recipe, change, make, hashes):
    from dataclasses import replace

    lake = make(change(recipe, prompts=replace(recipe.prompts, limit=4)), "prompts,samples")
    before = hashes(lake)
    make(recipe, "prompts,samples")
    assert {k: v for k, v in hashes(lake).items() if k in before} == before
    small, large = lake.slices("samples")
    assert large.files[:2] == small.files and len(large.files) == 3


def test_hub_data_sets_come_through_the_datasets_library(recipe, change, make, monkeypatch, prompt_rows):
    import datasets

    asked = []

    def load(path, config, split):
        asked.append((path, config, split))
        return datasets.Dataset.from_list(prompt_rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    lake = make(
        change(recipe, prompts=PromptSource(path="someone/questions", config="fo", split="train[:6]")), "prompts"
    )
    assert asked == [("someone/questions", "fo", "train[:6]")] and newest(lake, "prompts").rows == 6

    def missing(path, config, split):
        raise datasets.exceptions.DatasetNotFoundError("no such data set")

    monkeypatch.setattr(datasets, "load_dataset", missing)
    with pytest.raises(Refusal, match="no data set someone/other"):
        make(change(recipe, prompts=PromptSource(path="someone/other")), "prompts")


def test_prompts_are_mapped_deduplicated_and_split(recipe, change, make, write_rows, capsys):
    rows = [
        {"q": "hvat eitur á?", "gold": "Á", "topic": 3, "level": 7},
        {"q": "hvat eitur a\u0301?", "gold": "other"},
        {"q": "hvat eitur ø?", "gold": ["Ø", "ø"]},
        *({"q": f"number {i}", "gold": None} for i in range(200)),
    ]
    path = write_rows(rows, "mapped.jsonl")
    source = PromptSource(
        path=path, columns={"messages": "q", "references": "gold"}, held_out="0.25", system="svara stutt"
    )
    lake = make(change(recipe, prompts=source, shard_groups=50), "prompts")
    prompts = lake.read(newest(lake, "prompts")).to_pylist()
    assert len(prompts) == 202 and newest(lake, "prompts").notes["duplicates"] == 1
    assert "1 rows ask what an earlier row asks" in capsys.readouterr().out
    first = prompts[0]
    assert first["messages"][0] == {"role": "system", "content": "svara stutt"}
    assert first["messages"][1] == {"role": "user", "content": nfc("hvat eitur á?")}
    assert first["references"] == ["Á"] and first["topic"] == "3" and json.loads(first["extra"]) == {"level": 7}
    assert prompts[1]["references"] == ["Ø", "ø"] and prompts[2]["references"] is None
    assert 30 <= sum(p["split"] == "held_out" for p in prompts) <= 70  # a quarter of 202, by hash


def test_prompts_that_come_back_are_the_newest_again(recipe, make, write_rows, prompt_rows):
    from data.pool import find_prompts

    lake = make(recipe, "prompts")
    first = find_prompts(lake, recipe)
    write_rows(prompt_rows[:3])
    make(recipe, "prompts")
    assert find_prompts(lake, recipe).name != first.name
    write_rows(prompt_rows)
    make(recipe, "prompts")
    assert find_prompts(lake, recipe).name == first.name


def test_parquet_and_csv_are_read_like_jsonl(recipe, change, make, prompt_rows, tmp_path):
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    flat = pa.table({"prompt": [r["messages"][0]["content"] for r in prompt_rows], "split": ["train"] * 6})
    pq.write_table(flat, tmp_path / "p.parquet")
    pyarrow.csv.write_csv(flat, tmp_path / "p.csv")
    lakes = [
        make(
            change(recipe, prompts=PromptSource(path=str(tmp_path / name)), lake=str(tmp_path / f"lake-{name}")),
            "prompts",
        )
        for name in ("p.parquet", "p.csv")
    ]
    ours, theirs = (lake.read(newest(lake, "prompts"), ["prompt_id", "messages"]) for lake in lakes)
    assert ours == theirs and ours.num_rows == 6
