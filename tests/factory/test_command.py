"""The command: what its edge refuses, what stays behind, and what `--help` loads."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from data.lake import Lake

HEAVY = "{'torch', 'transformers', 'datasets', 'duckdb', 'polars', 'hydra'}"


def test_help_is_light():
    """It takes a third of a second since it loads none of these."""
    code = f"import sys, factory.__main__ as m; m.COMMAND.main(['--help']); print({HEAVY} & set(sys.modules))"
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out.splitlines()[-1] == "set()"
    assert "shard_groups" in out and "estimate=true" in out


def test_the_command_makes_what_the_functions_make(command):
    code, out, err = command("stages=[prompts,samples]")
    assert (code, err) == (0, "")
    assert [line.split("/")[0] for line in out.splitlines()] == ["prompts", "groups", "samples"]


@pytest.mark.parametrize("override", ["teacher.path={}", "teacher={{path: {}}}"])
def test_what_a_recipe_leaves_out_may_be_named_on_the_command_line(command, tmp_path, tiny_model, override):
    student, teacher = tiny_model("llama"), tiny_model("llama", seed=7)
    (tmp_path / "conf" / "recipe" / "alone.yaml").write_text(
        f"# @package _global_\nname: alone\nstudent: {{path: {student}}}\nlake: {tmp_path}/alone\n"
        f"prompts: {{path: {tmp_path}/prompts.jsonl}}\n",
        encoding="utf-8",
    )
    code, out, err = command(
        "recipe=alone", "stages=[prompts,answers]", "answers.max_tokens=4", override.format(teacher)
    )
    assert (code, err) == (0, "") and "answers/alone-" in out


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("recipe=tyni", "did you mean 'tiny'"),
        ("stages=[smaples]", "did you mean 'samples'"),
        ("shard_group=3", "did you mean 'shard_groups'"),
        ("sampling.topp=1", "did you mean 'top_p'"),
        ("factory.engine.batch_token=3", "did you mean 'batch_tokens'"),
        ("engine.batch_token=3", "did you mean 'batch_tokens'"),
        ("sampling.n=0", "sampling.n is 0"),
        ("sampling.n=many", "sampling.n"),
        ("sampling.temperature=0", "greedy"),
        ("prompts.held_out=2", "no share"),
        ("sampling.alpha=1", "sampling.alpha=1.0 is outside"),
        ("soft_targets.kind=topk", "did you mean 'top_k'"),
        ("factory.soft_targets.draws=0", "soft_targets.draws=0 is outside"),
        ("translate.by=teacher", "null for one of translate"),
    ],
)
def test_a_mistake_is_one_sentence(command, override, says):
    code, _, err = command("stages=[prompts,samples]", override)
    assert code == 2
    assert len(err.splitlines()) <= 3 and "Traceback" not in err
    assert says in err


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_an_absent_vllm_is_refused_before_the_first_stage_and_not_where_it_has_nothing_to_do(command, recipe):
    code, out, err = command("engine.name=vllm", "stages=[prompts,samples]")
    assert (code, out) == (2, "") and "vLLM is not installed" in err and "make vllm-env" in err
    assert not Path(recipe.lake).exists() or not Lake.open(recipe.lake).slices("prompts")
    assert command("engine.name=vllm", "stages=[prompts]")[0] == 0
    assert command("stages=[samples,answers]")[0] == 0
    code, out, err = command("engine.name=vllm", "stages=[prompts,samples,answers]")
    assert (code, err) == (0, "") and out.count("found, nothing to do") == 5, out
