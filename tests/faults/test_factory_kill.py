"""A factory killed with SIGKILL again and again ends with the shards of one that was left alone, byte for byte."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data.lake import Lake
from data.verify import verify

pytestmark = pytest.mark.slow
KILLS = 10
RECIPE = """# @package _global_
name: kill
prompts: {{path: {folder}/prompts.jsonl}}
student: {{path: {student}}}
teacher: {{path: {teacher}}}
sampling: {{n: 4, max_tokens: 24}}
answers: {{max_tokens: 8}}
components: {{chrf: {{use: similarity, metric: chrf}}, ll: {{use: teacher_loglik, form: token}}}}
reward: chrf + ll
factory:
  shard_groups: 4
  corpus: {{c: {{path: {folder}/corpus.jsonl, held_out: 0.2}}}}
  benchmarks: {{task: {{metrics: {{chrf: {{use: similarity, metric: chrf}}}}}}, fit: {{kind: likelihood}}}}
"""


@pytest.fixture
def start(tmp_path: Path, tiny_model: Callable[..., str]) -> Callable[[str], subprocess.Popen[str]]:
    """`start("lake")`: a process of the whole factory on a lake of that name."""
    rows = [
        {"messages": f"hvat eitur nummar {i} ?", "references": [f"nummar {i}"], "split": split_of(i)} for i in range(40)
    ]
    texts = [{"text": f"the boat number {i} sails home"} for i in range(40)]
    for name, lines in (("prompts", rows), ("corpus", texts)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines), encoding="utf-8")
    (tmp_path / "conf" / "recipe").mkdir(parents=True)
    models = {"student": tiny_model("llama"), "teacher": tiny_model("llama", seed=7)}
    (tmp_path / "conf" / "recipe" / "kill.yaml").write_text(RECIPE.format(folder=tmp_path, **models), encoding="utf-8")
    stages = "stages=[prompts,answers,samples,scores,rewards,selections,corpus,evaluate]"

    def go(lake: str) -> subprocess.Popen[str]:
        words = ["recipe=kill", f"lake={tmp_path / lake}", stages, "--config-dir", str(tmp_path / "conf")]
        return subprocess.Popen(
            [sys.executable, "-m", "factory", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return go


def split_of(number: int) -> str:
    return "held_out" if number % 10 == 9 else "train"


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def contents(lake: Path) -> dict[str, str]:
    """Path → sha256 of every derived shard."""
    files = [p for p in lake.rglob("*.parquet") if p.parent.name != "journal"]
    return {str(p.relative_to(lake)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def shards(lake: Path) -> int:
    """Shards on disk."""
    return sum(1 for _ in lake.glob("*/*/part-*.parquet"))


def killed_after(process: subprocess.Popen[str], lake: Path, new: int, delay: float) -> bool:
    """SIGKILL once so many new shards are there, and a moment later; False where the process was faster."""
    before = shards(lake)
    while shards(lake) < before + new:
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def test_ten_kills_leave_the_same_shards(start, tmp_path):
    lake, chance = tmp_path / "killed", random.Random(1)
    finished(start("whole"))
    finished(start("again"))
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    most = 2 * (shards(tmp_path / "whole") - KILLS) // KILLS - 1  # so that ten kills fall into all stages
    kills = [
        killed_after(start("killed"), lake, chance.randint(1, most), chance.uniform(0, 0.05)) for _ in range(KILLS)
    ]
    assert sum(kills) >= KILLS - 2  # a last one may come too late
    finished(start("killed"))
    assert contents(lake) == contents(tmp_path / "whole")
    assert verify(Lake.open(lake)).faults == [] and not list(lake.rglob("*.tmp"))


def test_a_call_beside_another_on_one_lake_makes_nothing_twice(start, tmp_path):
    """Two calls at once: the lock lets one of them make a slice; the other waits, or says who holds it."""
    both = [start("shared"), start("shared")]
    codes = []
    for process in both:
        _, err = process.communicate(timeout=240)
        codes.append(process.returncode)
        assert process.returncode == 0 or (process.returncode == 2 and len(err.splitlines()) <= 3), err
    assert 0 in codes
    finished(start("shared"))
    finished(start("alone"))
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")
