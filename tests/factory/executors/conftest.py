"""Every stage that workers take part in, as one recipe over tiny random models, and the processes that a command starts."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from data.config import SoftTargets
from factory.config import CorpusSource, FactoryRecipe
from factory.stages import run

STAGES = ["prompts", "answers", "samples", "scores", "soft_targets", "rewards", "corpus", "evaluate"]


@pytest.fixture
def whole(recipe: FactoryRecipe, change: Callable[..., FactoryRecipe], write_rows: Callable[..., str]) -> FactoryRecipe:
    """A recipe of every stage with engines: 5 train prompts in 3 shards, one held out, 8 documents."""
    documents = write_rows([{"text": f"the boat number {i} sails home"} for i in range(8)], "corpus.jsonl")
    chrf = {"chrf": {"use": "similarity", "metric": "chrf"}}
    asked = [
        {
            "id": f"{split}{i}",
            "context": f"the boat {i}",
            "question": "hvat ?",
            "answers": {"text": ["boat"]},
            "split": split,
        }
        for split, i in product(("train", "test"), range(3))
    ]
    foqa = {"kind": "foqa", "path": write_rows(asked, "foqa.jsonl"), "iterations": 2, "shots": 1, "max_tokens": 4}
    own = {"kind": "items", "path": foqa["path"], "columns": {"messages": "context", "references": "question"}}
    return change(
        recipe,
        stages=STAGES,
        soft_targets=SoftTargets(kind="sampled", draws=8),
        corpus={"plain": CorpusSource(path=documents, held_out=0.4)},
        benchmarks={
            "task": {"metrics": chrf},
            "fit": {"kind": "likelihood"},
            "foqa": foqa,
            "own": {**own, "metrics": ["exact"]},
        },
    )


@pytest.fixture
def reference(whole: FactoryRecipe, tmp_path: Path, change: Callable[..., FactoryRecipe]) -> FactoryRecipe:
    """The same recipe with a lake that the command's own process made."""
    made = change(whole, lake=str(tmp_path / "reference"))
    run(made)
    return made


@pytest.fixture
def long(recipe: FactoryRecipe, change: Callable[..., FactoryRecipe], write_rows: Callable[..., str]) -> FactoryRecipe:
    """A pool of twelve shards that take a moment each: time to kill somebody."""
    rows = [{"messages": f"hvat eitur nummar {i} ?", "split": "train"} for i in range(12)]
    return change(
        recipe,
        prompts=dataclasses.replace(recipe.prompts, path=write_rows(rows)),
        sampling=dataclasses.replace(recipe.sampling, n=4, max_tokens=96),
        shard_groups=1,
        stages=["prompts", "samples"],
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start(recipe, "executor=local", …)`: a process of the factory; it and what it left behind are killed in the end."""
    started: list[subprocess.Popen[str]] = []

    def go(recipe: FactoryRecipe, *words: str) -> subprocess.Popen[str]:
        folder = tmp_path / "conf" / "recipe"
        folder.mkdir(parents=True, exist_ok=True)
        settings = OmegaConf.to_container(OmegaConf.structured(recipe))
        settings.pop("executor")  # a recipe's own would come before the group's
        content = OmegaConf.to_yaml(settings)
        (folder / "tiny.yaml").write_text(f"# @package _global_\n{content}", encoding="utf-8")
        argv = [sys.executable, "-m", "factory", "recipe=tiny", *words, "--config-dir", str(tmp_path / "conf")]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(argv, text=True, **pipes))
        return started[-1]

    yield go
    for process in started:
        below = descendants(process.pid)
        process.kill()
        process.communicate()
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def finished(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """(stdout, stderr) of a command that must end with this code."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out, err


def shards(lake: str | Path, table: str = "*") -> int:
    """Shards on disk."""
    return sum(1 for _ in Path(lake).glob(f"{table}/*/part-*.parquet"))


def until(holds: Callable[[], object], seconds: float = 180) -> None:
    """Wait for something to be so."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def command_of(pid: int) -> str:
    """A process's command line; empty where it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


def descendants(pid: int) -> list[int]:
    """A process's children, their children and so on."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (thread / "children").read_text().split()]
    return found + [grandchild for child in found for grandchild in descendants(child)]


def workers(process: subprocess.Popen[str]) -> list[int]:
    """Pids of the workers that a command has now: spawned by it, or actors of Ray."""
    return [p for p in descendants(process.pid) if "spawn_main" in command_of(p) or "ray::Served" in command_of(p)]


def costs(lake: str) -> dict[str, list[int]]:
    """Slice → what its making took: items, tokens in, tokens out, by the journal."""
    from data.lake import Lake
    from data.storage import read_shard

    opened = Lake.open(lake)
    rows = [row for path in opened.journal("costs") for row in read_shard(path, path.stem).to_pylist()]
    return {row["produced"]: [row["items"], row["tokens_in"], row["tokens_out"], row["device"]] for row in rows}
