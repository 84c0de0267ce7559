"""A folder for each seed, where the README's commands make a world, its two models and a pool, and train what is asked for.

Everything is `python -m factory` and `python -m trainer`, started in the folder, so that `data/demo/files`, `data/lake` and `runs`
are its own. What is there is found by its configuration: a run killed half way goes on."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from data.demo.run import QUERY

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "build" / "evidence"
LANES = os.cpu_count() or 2  # worlds side by side, one thread each
TUNING = 0  # the world on which learning rates are chosen; it stands in no table

Found = TypeVar("Found")


@dataclass(frozen=True)
class World:
    """The world of one seed; `folder` holds all that belongs to it."""

    seed: int
    folder: Path

    def run(self, *words: str, python: str = sys.executable) -> str:
        """`python words` in the folder to its end; what it printed. Raises RuntimeError with its last lines."""
        began = time.monotonic()
        done = subprocess.run(
            [python, *words],
            cwd=self.folder,
            # the folder has a folder `data`, which must not be taken for the package
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
            capture_output=True,
            text=True,
        )
        said = f"$ python {shlex.join(words)}   ({time.monotonic() - began:.0f} s)"
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"{said}\n{done.stdout}{done.stderr}\n")
        print(f"seed {self.seed}: {said[:150]}", file=sys.stderr, flush=True)
        if done.returncode:
            raise RuntimeError(f"seed {self.seed}: {said}\n{(done.stdout + done.stderr)[-2000:]}")
        return done.stdout

    def factory(self, *words: str) -> str:
        """A factory command with the world's seed."""
        return self.run("-m", "factory", *words, f"seed={self.seed}")

    def trainer(self, *words: str) -> str:
        """A trainer command with the world's seed."""
        return self.run("-m", "trainer", *words, f"seed={self.seed}")

    def sql(self, query: str, lake: str = "lake") -> list[dict[str, Any]]:
        """Rows of a query over the world's lake, or another of its."""
        from data.lake import Lake

        return Lake.open(self.folder / "data" / lake).sql(query).to_pylist()

    def trained(self) -> set[str]:
        """Names of the runs that are finished."""
        found = set()
        for record in (self.folder / "runs").glob("*/run.json"):
            told = json.loads(record.read_text(encoding="utf-8"))
            if told.get("status") in ("finished", "matched", "stopped"):
                found.add(record.parent.name)
        return found


def made(seed: int, build: Path = BUILD) -> World:
    """The world of the seed with its teacher, its student and the student's first pool."""
    world = World(seed, build / f"world-{seed}")
    world.folder.mkdir(parents=True, exist_ok=True)
    world.run("-m", "data.demo", "--seed", str(seed))
    if not {"demo-teacher", "demo-student"} <= world.trained():
        for model in ("teacher", "student"):
            world.factory(f"recipe=demo_{model}")
            world.trainer(f"recipe=demo_{model}")
    world.factory("recipe=demo")
    return world


def evaluated(world: World, policies: Iterable[str], *words: str) -> dict[str, dict[str, float]]:
    """Policy → its figures on what was held out: exact, language, bits a byte; of runs, or of models that `words` name.

    `student` is the start."""
    there = world.trained()
    names = ["student", *(f"run:{name}" if name in there else name for name in policies)]
    world.factory("recipe=evidence", "stages=[evaluate]", f"policies=[{','.join(names)}]", *words)
    own = QUERY.replace("label = 'demo'", "label = 'evidence'")
    named = "policy, exact_match AS exact, language_rate AS language, bits_per_byte AS bits"
    return {row.pop("policy"): row for row in world.sql(f"SELECT {named} FROM ({own})")}


def side_by_side(seeds: Sequence[int], work: Callable[[World], Found]) -> list[Found]:
    """`work` on the world of every seed, as many at once as there are cores; in the order of the seeds."""
    with ThreadPoolExecutor(LANES) as lanes:
        return list(lanes.map(lambda seed: work(made(seed)), seeds))


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
