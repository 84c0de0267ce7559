"""A factory killed with SIGKILL again and again ends with the shards of one that was left alone, byte for byte."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from data.lake import Lake
from data.manifest import FILE
from data.verify import collect, garbage, verify

pytestmark = pytest.mark.slow
LENGTHS = "SELECT n_tokens, count(*) FROM samples GROUP BY 1 ORDER BY 1"
KILLS, A_LAKE = int(os.environ.get("FAULT_KILLS", "20")), 10  # `make faults` sets 200
COMMON = """# @package _global_
name: kill
prompts: {{path: {folder}/prompts.jsonl}}
student: {{path: {student}}}
sampling: {{n: 4, max_tokens: 24}}
"""
RECIPES = {
    "whole": COMMON
    + """
teacher: {{path: {teacher}}}
answers: {{max_tokens: 8}}
translate: {{by: teacher, max_tokens: 8}}
rephrase: {{max_tokens: 8, check: {{use: similarity, metric: chrf}}}}
components: {{chrf: {{use: similarity, metric: chrf, to: references}}, ll: {{use: teacher_loglik, form: token}}}}
reward: chrf + ll
factory:
  shard_groups: 4
  stages: [prompts, answers, translate, rephrase, samples, scores, soft_targets, rewards, selections, corpus, teacher_check,
    evaluate]
  soft_targets: {{draws: 16}}
  corpus: {{c: {{path: {folder}/corpus.jsonl, held_out: 0.2}}}}
  benchmarks: {{task: {{metrics: {{chrf: {{use: similarity, metric: chrf, to: references}}}}}}, fit: {{kind: likelihood}}}}
""",
    "imported": COMMON
    + """
components: {{chrf: {{use: similarity, metric: chrf, to: references}}}}
reward: chrf + told
factory:
  shard_groups: 4
  stages: [prompts, import, scores, rewards, selections]
  imports: {{old: {{kind: samples, path: {folder}/pool.jsonl, rewards: [told]}}}}
""",
}


@pytest.fixture
def start(tmp_path: Path, tiny_model: Callable[..., str]) -> Callable[[str, str], subprocess.Popen[str]]:
    """`start("whole", "lake")`: a process of this factory on a lake of that name."""
    rows = [
        {"messages": f"hvat eitur nummar {i} ?", "references": [f"nummar {i}"], "split": split_of(i)} for i in range(40)
    ]
    texts = [{"text": f"the boat number {i} sails home"} for i in range(40)]
    pool = [
        row | {"completion": f"svar {ids[0]}", "token_ids": ids, "logprobs": [-1.5] * len(ids), "told": len(ids) / 8}
        for number, row in enumerate(rows)
        for ids in ([40 + number + j + k for k in range(1 + (number + j) % 7)] for j in range(4))
        if row["split"] == "train"
    ]
    for name, lines in (("prompts", rows), ("corpus", texts), ("pool", pool)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines), encoding="utf-8")
    (tmp_path / "conf" / "recipe").mkdir(parents=True)
    models = {"student": tiny_model("llama"), "teacher": tiny_model("llama", seed=7)}
    for name, text in RECIPES.items():
        path = tmp_path / "conf" / "recipe" / f"{name}.yaml"
        path.write_text(text.format(folder=tmp_path, **models), encoding="utf-8")

    def go(name: str, lake: str) -> subprocess.Popen[str]:
        words = [f"recipe={name}", f"lake={tmp_path / lake}", "--config-dir", str(tmp_path / "conf")]
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


def under_way(lake: Path) -> str:
    """The table whose slice is not finished; where all are, that a command starts, or is between two."""
    open_ = [p.parent.parent.name for p in lake.glob("*/*/part-*.parquet") if not (p.parent / FILE).exists()]
    return open_[0] if open_ else "no slice"


def killed(process: subprocess.Popen[str], lake: Path, chance: random.Random, most: int, seconds: float) -> bool:
    """SIGKILL at a random time, or a moment after a random number of new shards; False where the process was faster."""
    before, new, end = shards(lake), chance.randint(1, most), time.monotonic() + chance.uniform(0.3, seconds)
    by_time, delay = chance.random() < 0.3, chance.uniform(0, 0.05)
    while (time.monotonic() < end) if by_time else (shards(lake) < before + new):
        if process.poll() is not None:
            break
        time.sleep(0.002)
    time.sleep(0 if by_time else delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("recipe", RECIPES)
def test_kills_leave_the_same_shards(start, tmp_path, recipe, record_property):
    """Each lake is killed ten times and then finished: its files are those of a lake left alone, and nothing lies about."""
    began = time.monotonic()
    finished(start(recipe, "alone"))
    seconds, wanted = time.monotonic() - began, contents(tmp_path / "alone")
    lengths = Lake.open(tmp_path / "alone").sql(LENGTHS)
    most = 2 * (len(wanted) - A_LAKE) // A_LAKE - 1  # so that ten kills fall into all stages
    share = KILLS * 4 // 5 if recipe == "whole" else KILLS - KILLS * 4 // 5
    chance, landed, where = random.Random(1), 0, Counter[str]()
    for number in itertools.count():
        lake = tmp_path / f"killed-{number}"
        for _ in range(min(A_LAKE, share - landed)):
            if killed(start(recipe, lake.name), lake, chance, most, seconds):
                landed += 1
                where[under_way(lake)] += 1
        finished(start(recipe, lake.name))
        assert contents(lake) == wanted
        opened = Lake.open(lake)
        assert verify(opened).faults == [] and opened.sql(LENGTHS) == lengths
        collect(opened, garbage(opened, hours=0))
        assert not list(lake.rglob("*.tmp"))
        if landed >= share:
            break
    stages = ", ".join(f"{table} {count}" for table, count in where.most_common())
    record_property(
        "kills", f"{landed} kills of recipe {recipe} over {number + 1} lakes, the slice under way: {stages}"
    )
    record_property(
        "kills", f"  {len(wanted)} files each: all the same, none lost or twice; {len(lengths)} lengths of samples"
    )


def test_a_call_beside_another_on_one_lake_makes_nothing_twice(start, tmp_path):
    """Two calls at once: the lock lets one of them make a slice; the other waits, or says who holds it."""
    both = [start("whole", "shared"), start("whole", "shared")]
    codes = []
    for process in both:
        _, err = process.communicate(timeout=240)
        codes.append(process.returncode)
        assert process.returncode == 0 or (process.returncode == 2 and len(err.splitlines()) <= 3), err
    assert 0 in codes
    finished(start("whole", "shared"))
    finished(start("whole", "alone"))
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")
