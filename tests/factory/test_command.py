"""The command: what its edge refuses, what stays behind, and what `--help` loads."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

HEAVY = "{'torch', 'transformers', 'datasets', 'duckdb', 'polars', 'hydra'}"


def test_help_is_light_and_fast():
    code = f"import sys, factory.__main__ as m; m.COMMAND.main(['--help']); print({HEAVY} & set(sys.modules))"
    began = time.perf_counter()
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out.splitlines()[-1] == "set()"
    assert "shard_groups" in out and "estimate=true" in out
    assert time.perf_counter() - began < 2  # the machine may be shared; alone it is a third of a second


def test_the_command_makes_what_the_functions_make(command):
    code, out, err = command("stages=[prompts,samples]")
    assert (code, err) == (0, "")
    assert [line.split("/")[0] for line in out.splitlines()] == ["prompts", "groups", "samples"]


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
    ],
)
def test_a_mistake_is_one_sentence(command, override, says):
    code, _, err = command("stages=[prompts,samples]", override)
    assert code == 2
    assert len(err.splitlines()) <= 3 and "Traceback" not in err
    assert says in err
