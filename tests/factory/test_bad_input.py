"""Mistakes a user makes: at most three lines, exit code 2, nothing half-written, and a lake that verifies afterwards."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from data.config import ModelSettings
from data.lake import Lake
from data.refusal import Refusal
from data.verify import verify

PATH = "stages=[prompts,answers,samples,scores,rewards]"


@pytest.fixture
def refused(command, recipe):
    """`refused("override", …)`: the sentence of a call that must be refused, after all that holds for every refusal."""

    def go(*overrides):
        code, _, err = command(*overrides)
        lake = Lake.open(recipe.lake)
        assert code == 2, err
        assert len(err.splitlines()) <= 3 and "Traceback" not in err, err
        assert err.startswith("error: ") and "next: " in err
        assert not list(lake.root.rglob("*.tmp"))
        if lake.root.exists():
            assert verify(lake).faults == []
        return err

    return go


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["components.chrf.use=similarityy"], "did you mean 'similarity'"),
        (["components.chrf.metrik=chrf"], "did you mean 'metric'"),
        (["reward=loglik + chrff"], "did you mean 'chrf'"),
        (["reward=sum(chrf)"], "sum"),
        (["student.path=/nowhere/model"], "no model folder at /nowhere/model"),
        (["student.path=./nowhere"], "no model folder at ./nowhere"),
        (["policy=run:never"], "no finished run named never"),
        (["policy=never"], "neither student nor run:NAME"),
        (["prompts.path=prompt.jsonl"], "there is no file prompt.jsonl"),
        (["prompts.columns={references: refs}"], "did you mean 'references'"),
        (["prompts.columns={reference: references}"], "did you mean 'references'"),
        (["prompts.split=test"], "has no split 'test'"),
        (
            [
                "stages=[prompts,evaluate]",
                "policies=[student,run:one]",
                "benchmarks={task: {metrics: {long: {use: length}}}}",
            ],
            "no finished run named one",
        ),
        (["student.dtype=float33"], "dtype is 'float33'"),
        (["sampling.max_tokens=1000"], "positions of"),
        (["sampling.top_p=0"], "top_p"),
        (
            ["stages=[prompts,samples,scores,rewards]", "components.chrf.to=answers"],
            "compares with the teacher's answers",
        ),
        (["teacher=null"], "has no teacher"),
        (["stages=[prompts,samples,rewards]"], "has no scores by"),
        (["stages=[samples]"], "no prompts of"),
        (["stages=[prompts,scores]"], "no pool tiny"),
        (["sampling.stop=['two words']"], "a stop must be one token"),
    ],
)
def test_a_wrong_recipe_is_refused_in_a_sentence(refused, overrides, says):
    stages = [] if any(o.startswith("stages") for o in overrides) else [PATH]
    assert says in refused(*stages, *overrides)


def test_an_unknown_component_is_refused_before_any_work(refused, recipe):
    refused(PATH, "components.chrf.use=nothing")
    assert not Lake.open(recipe.lake).root.exists()


def test_a_prompt_too_long_is_named_with_both_lengths(refused, recipe, write_rows, prompt_rows):
    write_rows([*prompt_rows, {"messages": "orð " * 600, "split": "train"}])
    err = refused(PATH)
    assert "prompt " in err and "512 positions" in err and "with 6 to be drawn" in err


def test_a_teacher_shown_more_than_its_context_is_refused(refused, write_rows, prompt_rows):
    write_rows([{**row, "teacher_messages": "orð " * 600} for row in prompt_rows])
    assert "a cut context gives scores of another text" in refused("stages=[prompts,samples,scores]")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("", "has no rows"),
        ('{"messages": "a"}\n{"messages": \n', "line 2 is no JSON"),
        ('["a"]\n', "line 1 is no JSON object"),
        ('{"messages": "  "}\n', "is an empty prompt"),
        ('{"messages": 7}\n', "neither a text nor a list of messages"),
        ('{"messages": [{"text": "a"}]}\n', "without role and content"),
        ('{"text": "a"}\n', "no column holds the messages"),
        ('{"messages": "a", "split": "test"}\n', "neither train nor held_out"),
    ],
)
def test_a_broken_source_is_named_by_its_row(refused, recipe, tmp_path, lines, says):
    (tmp_path / "prompts.jsonl").write_text(lines, encoding="utf-8")
    assert says in refused(PATH)


def test_another_tokenizer_cannot_score_tokens(refused, tiny_model):
    err = refused(PATH, f"teacher.path={tiny_model('mistral')}")
    assert "have different tokenizers" in err and "scores need the same one" in err


def test_the_same_vocabulary_from_another_file_scores(command, tiny_model, tmp_path):
    teacher = ModelSettings(path=tiny_model("llama", tmp_path / "same", seed=5))
    file = tmp_path / "same" / teacher.path.rsplit("/", 1)[1] / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")  # other bytes, the same tokens
    code, _, err = command("stages=[prompts,samples,scores]", f"teacher.path={teacher.path}")
    assert (code, err) == (0, "")


def test_nan_from_a_component_is_refused_and_names_it(refused, tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "def bad(prompts, completions):\n    return [float('nan') for _ in completions]\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    err = refused(PATH, "components.bad={use: 'my_rewards:bad'}")
    assert "component 'bad' gave nan" in err


def test_a_component_without_a_function_is_refused(refused):
    assert "cannot import 'not_there'" in refused(PATH, "components.bad={use: 'not_there:f'}")


@pytest.fixture
def damaged(command, recipe):
    """A lake with samples whose first shard's file is then replaced by these bytes."""

    def go(content):
        command("stages=[prompts,samples]")
        lake = Lake.open(recipe.lake)
        file = lake.slices("samples")[-1].files[0]
        file.write_bytes(content(lake, file))
        return str(file)

    return go


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda lake, file: file.read_bytes()[:-200], "cannot be read"),
        (lambda lake, file: lake.slices("samples")[-1].files[1].read_bytes(), "a file of another slice"),
    ],
)
def test_a_cut_or_foreign_shard_is_refused_by_its_name(command, damaged, content, says):
    file = damaged(content)
    code, _, err = command("stages=[scores]")
    assert code == 2 and len(err.splitlines()) <= 3 and says in err and file in err


@pytest.mark.parametrize("content", [lambda b: b[:-100], lambda b: b"PAR1"])
def test_a_cut_shard_of_a_killed_run_is_refused(command, recipe, content):
    """A shard without a manifest is trusted only if its key and its footer are whole."""
    command("stages=[prompts,samples]")
    slice_ = Lake.open(recipe.lake).slices("samples")[-1]
    (slice_.files[0].parent / "_manifest.json").unlink()
    slice_.files[0].write_bytes(content(slice_.files[0].read_bytes()))
    code, _, err = command("stages=[samples]")
    assert code == 2 and len(err.splitlines()) <= 3 and "is no Parquet file" in err and f"rm {slice_.files[0]}" in err


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
