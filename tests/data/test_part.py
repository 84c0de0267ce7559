"""What goes with a label: what hangs on its rows, what that was made from, the models and journals that speak of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from data import Lake, Slice
from data.manifest import write_manifest
from data.part import Part, part_of
from data.transfer import summary, transfer
from data.verify import garbage, unfinished, verify

Publish = Callable[..., Slice]


def _held(part: Part) -> set[tuple[str, str]]:
    return {(s.table, s.label) for s in part.slices}


def test_with_a_pool_go_its_scores_and_rewards_and_no_other_pools(lake: Lake) -> None:
    part = part_of(lake, ["round1"])
    assert _held(part) == {("prompts", "prompts"), ("groups", "round1"), ("samples", "round1"), ("rewards", "chrf")}
    (rewards,) = (s for s in part.slices if s.table == "rewards")
    assert rewards.parents == (lake.slices("samples", label="round1")[0].path,)
    paths = [s.path for s in part.slices]
    assert all(paths.index(parent) < paths.index(s.path) for s in part.slices for parent in s.parents)


def test_the_prompts_label_is_all_that_was_asked_of_them(lake: Lake) -> None:
    everything = {(s.table, s.label) for s in part_of(lake).slices}
    of_prompts = {pair for pair in everything if pair[0] not in ("evaluations", "intervals")}
    assert _held(part_of(lake, ["prompts"])) == of_prompts


@pytest.fixture
def compared(lake_copy: Lake, publish: Publish) -> Lake:
    """Both pools have a component that compares with the teacher's answers, and the models are known by their rows."""
    (answers,) = lake_copy.slices("answers")
    write_manifest(replace(answers, models={"teacher": "m-teacher"}))
    for pool in ("demo", "round1"):
        samples = lake_copy.slices("samples", label=pool)[0]
        write_manifest(replace(samples, models={"policy": f"m-{pool}"}, settings={"mixed_with": "m-mixed"}))
        kept = [lake_copy.read_shard(samples, i, ["group_id", "sample_index"]) for i in range(len(samples.shards))]
        scored = [
            {name: keys[name].to_pylist() for name in keys.column_names}
            | {"value": [1.0] * len(keys), "valid": [True] * len(keys)}
            for keys in kept
        ]
        publish(lake_copy, "rewards", scored, label="agreement", parents=(samples, answers))
    for name in ("m-demo", "m-round1", "m-teacher", "m-mixed", "m-else"):
        publish(lake_copy, "models", [{"model_id": [name], "name": [name]}], label=name, models={"model": name})
    return lake_copy


def test_answers_that_a_pool_was_compared_with_come_with_their_tokens_and_rewards(compared: Lake) -> None:
    held = _held(part_of(compared, ["round1"]))
    assert {("answers", "teacher"), ("answer_tokens", "teacher"), ("answer_rewards", "chrf")} <= held
    assert {label for table, label in held if table == "samples"} == {"round1"}


def test_models_that_are_named_go_with_it_and_no_others(compared: Lake) -> None:
    models = {label for table, label in _held(part_of(compared, ["round1"])) if table == "models"}
    assert models == {"m-round1", "m-teacher", "m-mixed"}
    path = compared.slices("answers")[0].path
    assert _held(part_of(compared, paths=[path])) == {
        ("prompts", "prompts"), ("answers", "teacher"), ("models", "m-teacher"),
    }  # fmt: skip


@pytest.mark.parametrize(("label", "goes"), [("demo", True), ("length", False), ("teacher", True)])
def test_a_corpus_goes_with_the_prompts_it_was_kept_clear_of(
    lake_copy: Lake, publish: Publish, label: str, goes: bool
) -> None:
    document = {"document_id": [1], "text": ["x"], "token_ids": [[1]], "bytes": [1], "split": ["train"]}
    (prompts,) = lake_copy.slices("prompts")
    write_manifest(replace(prompts, settings={"source": {"path": "here"}}))
    for name, clear_of in (("own", {"path": "here"}), ("others", {"path": "there"})):
        made = publish(lake_copy, "corpus", [document], label=name, content=name)
        write_manifest(replace(made, settings={"clear_of": clear_of}))
    corpora = {held for table, held in _held(part_of(lake_copy, [label])) if table == "corpus"}
    assert corpora == ({"own"} if goes else set())


def _run(lake: Lake, name: str, recipe: str, slices: str) -> None:
    row = {"run": [name], "recipe": [recipe], "status": ["finished"], "configuration": ["{}"], "slices": [slices]}
    row |= {"configuration_hash": ["h"], "created_at": [datetime(2026, 1, 1, tzinfo=UTC)]}
    lake.append("runs", pa.table(row), name)
    lake.append("metrics", pa.table({"run": [name], "step": [1], "name": ["loss"], "value": [1.0]}), name)


def _cost(lake: Lake, name: str, produced: str, recipe: str) -> None:
    row = {"stage": ["x"], "recipe": [recipe], "produced": [produced], "seconds": [1.0]}
    lake.append("costs", pa.table(row | {"created_at": [datetime(2026, 1, 1, tzinfo=UTC)]}), name)


def test_journals_that_speak_of_the_part_go_with_it(lake_copy: Lake) -> None:
    rewards = next(s for s in lake_copy.slices("rewards") if s.parents[0].startswith("samples/round1"))
    _run(lake_copy, "reader", "mine", f'["{rewards.path}"]')
    _run(lake_copy, "reads-more", "mine", f'["{rewards.path}", "samples/another"]')
    _run(lake_copy, "named", "round1", '["samples/another"]')
    for name, produced, recipe in (
        ("slice", rewards.path, "demo"),
        ("training", "reader", "mine"),
        ("paid", "ledger/1", "round1"),
        ("other", "ledger/2", "mine"),
    ):
        _cost(lake_copy, name, produced, recipe)
    part = part_of(lake_copy, ["round1"])
    found = {table: {path.stem for path in paths} for table, paths in part.journals.items()}
    assert found == {
        "runs": {"reader", "named"}, "metrics": {"reader", "named"}, "costs": {"slice", "training", "paid"},
    }  # fmt: skip
    assert part_of(lake_copy, paths=[rewards.path]).journals == {}


@pytest.fixture
def shared(lake_copy: Lake) -> Lake:
    """A second label whose slices name the first one's files."""
    for table in ("groups", "samples"):
        (slice_,) = lake_copy.slices(table, label="demo")
        parents = tuple(path.replace("groups/demo", "groups/again") for path in slice_.parents)
        write_manifest(replace(slice_, name=slice_.name.replace("demo", "again"), label="again", parents=parents))
    return lake_copy


def test_a_file_of_two_slices_is_copied_and_counted_once(shared: Lake, tmp_path: Path) -> None:
    copy = Lake.open(tmp_path / "copy")
    first = transfer(shared, copy)
    files = list(shared.root.rglob("*.parquet"))
    assert (first.files, first.there, first.slices_there) == (len(files), 0, 0)
    assert first.bytes == sum(path.stat().st_size for path in files)
    assert "there" not in summary(first, ("a", "b"))
    again = transfer(shared, copy)
    assert (again.files, again.there, again.slices_there) == (0, len(files), first.slices)
    assert f"there before: {first.slices} slices, {len(files)} files" in summary(again, ("a", "b"))


def test_folders_that_hold_another_labels_files_are_neither_unfinished_nor_garbage(
    shared: Lake, tmp_path: Path
) -> None:
    copy = Lake.open(tmp_path / "copy")
    transfer(shared, copy, labels=["again"])
    assert (copy.root / "samples" / shared.slices("samples", label="demo")[0].name).is_dir()
    assert verify(copy).faults == [] and garbage(copy) == [] and unfinished(copy) == []
    left = copy.root / "samples" / "killed" / "part-00000.parquet"
    left.parent.mkdir()
    left.write_bytes(b"left")
    assert unfinished(copy) == [("samples/killed", False)]
