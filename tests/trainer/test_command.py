"""`python -m trainer` at its edge: what a mistake prints, that it leaves nothing behind, and that `--help` is light."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.settings import nested
from trainer.__main__ import COMMAND
from trainer.config import TrainerRecipe, TrainerSettings

BC = ["losses.rl=0", "losses.pt=0", "losses.kl=0", "replay.bc=teacher"]


def arguments(made: Any, *overrides: str) -> list[str]:
    """The command's arguments, behind `-m trainer`."""
    command = made.command(*overrides)
    return list(command[command.index("trainer") + 1 :])


def refused(made: Any, capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    """What the command says when it refuses: at most three lines, exit code 2, no run and no change of the lake."""
    before = hashes(made)
    assert COMMAND.main(arguments(made, *overrides)) == 2
    said = capsys.readouterr()
    assert 1 <= len(said.err.splitlines()) <= 3, said.err
    assert not Path(made.recipe.runs).exists() and hashes(made) == before
    return said.err


def hashes(made: Any) -> dict[str, str]:
    files = sorted(path for path in made.lake.root.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["lossses.bc=1"], "did you mean 'losses'"),
        (["losses.bx=1"], "did you mean 'bc'"),
        (["objective=gprpo"], "did you mean 'grpo'"),
        (["objective={grpo: -1}"], "-1"),
        (["reward=pionts"], "did you mean 'points'"),
        (["reward=avg(points)"], "avg"),
        (["reward=points; drop table x"], "not one expression"),
        (["reward=1"], "names no component"),
        (["reward=null"], "no reward"),
        (["reward=0*points"], "no group"),
        (["losses.aggregation=tokens"], "did you mean 'token'"),
        (["replay.advantage=median"], "replay.advantage=median"),
        (["optimiser.lr=-1"], "optimiser.lr=-1"),
        (["optimiser.schedule=linaer"], "did you mean 'linear'"),
        (["losses.rl=0", "losses.bc=0", "losses.pt=0"], "nothing to train"),
        (["student.path=/nowhere/at/all"], "no model folder at /nowhere/at/all"),
        (["policy=run:nobody"], "no finished run named nobody"),
        (["resume=nobody", *BC], "no run named nobody"),
        (["run=a/b", *BC], "letters, digits"),
        (["lake=/tmp/no/lake/here", *BC], "no prompts"),
        (["stop=[{metric: loss/bc}]", *BC], "no above, no below"),
        (["stop=[{metric: probe/n_tokns, above: 1}]", "probe.every=1", *BC], "did you mean 'probe/n_tokens'"),
        (["checkpoint.best=probe/exact", *BC], "probe.every is null"),
        (["probe.every=1", "probe.components={t: {use: teacher_loglik}}", *BC], "needs scores"),
        (["probe.every=1", "probe.components={t: {use: similarty}}", *BC], "similarity"),
        (["probe.every=1", "probe.max_tokens=5000", *BC], "longer than the model's context of 512"),
        (["sampling.temperature=0.5"], "no pool tiny under these sampling settings"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(
    made: Any, capsys: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    assert said in refused(made, capsys, *overrides)


def test_an_unknown_recipe_is_answered_with_the_nearest(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    given = [a if a != "recipe=tiny" else "recipe=tny" for a in arguments(made)]
    assert COMMAND.main(given) == 2
    assert "did you mean 'tiny'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("table", "overrides", "said"),
    [
        ("samples", [], "'stages=[prompts,samples,scores,rewards]'"),
        ("rewards", [], "'stages=[rewards]'"),
        ("scores", ["losses.kl=0.1", "losses.bc=0", "losses.pt=0"], "losses.kl=0"),
        ("answers", BC, "no teacher answers"),
        ("corpus", ["losses.rl=0", "losses.bc=0", "losses.pt=1"], "no corpus"),
    ],
)
def test_a_missing_table_is_answered_with_what_makes_it(
    made: Any, capsys: pytest.CaptureFixture[str], table: str, overrides: list[str], said: str
) -> None:
    shutil.rmtree(made.lake.root / table)
    assert said in refused(made, capsys, *overrides)


def test_a_pool_of_another_policy_is_refused(
    made: Any, capsys: pytest.CaptureFixture[str], tiny_model: Callable[..., str]
) -> None:
    other = tiny_model("llama", seed=3)
    assert "another policy, tokenizer or chat template" in refused(made, capsys, f"student.path={other}")
    template = "chat_template='{{ messages[0].content }}'"
    assert "another policy, tokenizer or chat template" in refused(made, capsys, f"student.{template}")


def test_a_shard_that_was_cut_or_swapped_is_refused(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = made.lake.slices("samples")[0].files
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    assert "samples" in refused(made, capsys)
    first.write_bytes(whole)
    points = made.lake.slices("rewards", label="points")[0].files
    points[0].write_bytes(points[1].read_bytes())
    said = refused(made, capsys)
    assert "other rows" in said or "another slice" in said


def test_a_full_disk_is_answered_in_a_sentence_and_leaves_the_lake_as_it_was(
    made: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    before = hashes(made)
    try:
        code = COMMAND.main(arguments(made, f"runs={small}/runs", "run=full", "steps=2", "losses.bc=0", "losses.pt=0"))
        said = capsys.readouterr().err
        assert code == 2 and len(said.splitlines()) <= 3
        assert "could not be written" in said
        assert not list((small / "runs" / "full").glob("final*"))
        assert hashes(made) == before
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_sweep_runs_each_job_under_its_own_name(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = [
        "objective=grpo,seq_tis",
        "seed=1,2",
        "steps=1",
        "losses.bc=0",
        "losses.pt=0",
        "probe.every=1",
        "probe.max_tokens=3",
    ]
    given = arguments(made, *sweep)
    assert COMMAND.main(["-m", *given]) == 0, capsys.readouterr().err
    records = [json.loads(path.read_text(encoding="utf-8")) for path in Path(made.recipe.runs).glob("*/run.json")]
    found = {(r["configuration"]["trainer"]["objective"], r["configuration"]["seed"]) for r in records}
    assert found == {("grpo", 1), ("grpo", 2), ("seq_tis", 1), ("seq_tis", 2)}
    assert len(list((made.lake.root / "runs" / "journal").glob("*.parquet"))) == 4


def test_help_is_light_and_names_every_setting() -> None:
    code = (
        "import sys; from trainer.__main__ import COMMAND; COMMAND.main(['--help']); "
        "print({'torch', 'transformers', 'duckdb', 'polars', 'datasets', 'hydra'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stderr.strip() == "set()"
    for cls in nested(TrainerSettings):
        assert all(field.name in done.stdout for field in dataclasses.fields(cls))


def test_no_section_of_settings_has_more_than_twelve_fields() -> None:
    for cls in nested(TrainerSettings):
        assert len(dataclasses.fields(cls)) <= 12, cls
    assert TrainerRecipe in nested(TrainerRecipe)


def test_every_setting_is_read_somewhere() -> None:
    root = Path(sys.modules["trainer.config"].__file__ or "").parent
    text = "".join(path.read_text(encoding="utf-8") for path in root.rglob("*.py") if path.name != "config.py")
    for cls in nested(TrainerSettings):
        for field in dataclasses.fields(cls):
            assert f".{field.name}" in text or f'"{field.name}"' in text, f"{cls.__name__}.{field.name}"
