"""Labels that no column can have, a full disk that the same command goes on from; tests/faults has the table of mistakes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from data.config import ModelSettings
from data.lake import Lake
from data.refusal import Refusal
from data.verify import verify

PATH = "stages=[prompts,answers,samples,scores,rewards]"


def test_an_unknown_component_is_refused_before_any_work(command, recipe):
    assert command(PATH, "components.chrf.use=nothing")[0] == 2
    assert not Lake.open(recipe.lake).root.exists()


def test_the_same_vocabulary_from_another_file_scores(command, tiny_model, tmp_path):
    teacher = ModelSettings(path=tiny_model("llama", tmp_path / "same", seed=5))
    file = tmp_path / "same" / teacher.path.rsplit("/", 1)[1] / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")  # other bytes, the same tokens
    code, _, err = command("stages=[prompts,samples,scores]", f"teacher.path={teacher.path}")
    assert (code, err) == (0, "")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_said_and_the_same_command_goes_on(command, small_disk):
    import numpy as np

    filler = small_disk / "filler"
    lake = small_disk / "lake"
    filler.write_bytes(np.random.default_rng(0).bytes(160 * 1024))
    code, _, err = command(PATH, f"lake={lake}")
    assert code == 2 and len(err.splitlines()) <= 3 and "No space left on device" in err
    assert not list(lake.rglob("*.tmp")) and verify(Lake.open(lake)).faults == []
    made = {p: p.read_bytes() for p in lake.rglob("part-*.parquet")}
    assert made
    filler.unlink()
    code, _, err = command("stages=[prompts,answers,samples]", f"lake={lake}")
    assert (code, err) == (0, "") and all(p.read_bytes() == content for p, content in made.items())


@pytest.mark.parametrize("label", ["topic", "Text", "n_tokens", "a/b", "a.b", ""])
def test_a_label_that_no_column_can_have_is_refused_before_any_work(recipe, make, change, label):
    with pytest.raises(Refusal, match="component label"):
        make(change(recipe, components={label: {"use": "length"}}, reward=None))
    assert not Path(recipe.lake).exists()


def test_labels_that_differ_only_in_case_are_one_column_in_sql(recipe, make, change):
    both = {"Len": {"use": "length"}, "len": {"use": "length", "unit": "chars"}}
    with pytest.raises(Refusal, match="component label len"):
        make(change(recipe, components=both, reward="len"))
