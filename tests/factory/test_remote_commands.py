"""The real commands over a lake on S3: made by the factory, verified, asked, trained from, by machines that share nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data import Lake

ROOT = Path(__file__).parents[2]
STAGES = "stages=[prompts,answers,samples,scores,rewards,selections]"


@pytest.fixture
def machine(tmp_path: Path, s3: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`machine(name, *words)`: `python -m …` with a folder of copies of its own."""

    def run(name: str, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GRPO_KD_CACHE": str(tmp_path / name)}
        done = subprocess.run(
            [sys.executable, "-m", *words], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.mark.slow
def test_a_lake_on_s3_is_made_verified_asked_and_trained_from(
    s3: str,
    command: Callable[..., tuple[int, str, str]],
    machine: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    for where in (s3, str(tmp_path / "local")):
        code, out, err = command(f"lake={where}", STAGES)
        assert code == 0, out + err
    code, out, _ = command(f"lake={s3}", STAGES)
    assert code == 0 and "rows in" not in out, "a second call makes nothing"
    local = Lake.open(tmp_path / "local")
    there = Lake.open(s3)
    for table in ("prompts", "answers", "groups", "samples", "scores", "rewards", "selections"):
        files = [[shard.sha256 for s in lake.slices(table) for shard in s.shards] for lake in (local, there)]
        assert files[0] and sorted(files[0]) == sorted(files[1]), f"{table}: the same bytes as in a folder"
    assert "no faults" in machine("b", "data", "verify", "--lake", s3).stdout
    recipe = tmp_path / "conf/recipe/tiny.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("trainer: null\n", ""), encoding="utf-8")
    words = (
        "--config-dir",
        str(tmp_path / "conf"),
        "recipe=tiny",
        f"lake={s3}",
        "steps=2",
        "run=far",
        "losses.pt=0",
        "replay.truncated=keep",
    )
    machine("c", "trainer", *words)
    query = "SELECT run, status, recipe FROM runs"
    rows = machine("d", "data", "sql", query, "--lake", s3, "--format", "json").stdout
    assert json.loads(rows) == [{"run": "far", "status": "finished", "recipe": "tiny"}]
    copied = {p.relative_to(tmp_path / "d").parts[2] for p in (tmp_path / "d").rglob("*.parquet")}
    assert copied == {"runs"}, "a query fetches what it reads"
    assert "tables" in machine("d", "data", "tables", "--lake", s3).stdout
    assert "chrf" in machine("e", "data", "inspect", "chrf", "--lake", s3).stdout
    stages = "stages=[samples]"
    code, out, err = command(f"lake={s3}", "policy=run:far", stages)
    assert code == 0, out + err
    assert Lake.open(s3).sql("SELECT DISTINCT round FROM samples ORDER BY 1").column(0).to_pylist() == [0, 1]
