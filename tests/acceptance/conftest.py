"""One small demo, made once by the real commands, and copies of it to break, shift and continue.

Everything here starts processes, so everything here is slow. Under xdist the first worker that needs the demo makes it for all
(not by xdist_group: xdist 3.8 groups nothing under pytest 9.2, whose node ids it cannot change)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DEMO_TEXT = ROOT / "data" / "demo" / "files"  # where the recipes look
JOURNALS = ("runs", "metrics", "costs", "ratings")
HYBRID = ("recipe=demo", "run=demo-hybrid", "steps=40", "probe.every=20")
RL_ONLY = ("losses.bc=0", "losses.pt=0", "losses.kl=0", "probe.every=null")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)


@dataclass(frozen=True)
class Place:
    """A lake and its runs, and the project's commands on them."""

    folder: Path

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def places(self) -> tuple[str, str]:
        return f"lake={self.lake}", f"runs={self.runs}"

    def called(self, *words: str, prefix: Iterable[str] = ()) -> subprocess.CompletedProcess[bytes]:
        """`python -m words` to its end, whatever it comes to."""
        return subprocess.run(
            [*prefix, sys.executable, "-m", *words],
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            timeout=400,
        )

    def ran(self, *words: str, prefix: Iterable[str] = ()) -> bytes:
        """What `python -m words` prints; it must succeed."""
        done = self.called(*words, prefix=prefix)
        assert done.returncode == 0, f"{words}: {done.stdout.decode()}\n{done.stderr.decode()}"
        return done.stdout

    def factory(self, *words: str) -> str:
        return self.ran("factory", *words, *self.places).decode()

    def trainer(self, *words: str, prefix: Iterable[str] = ()) -> str:
        return self.ran("trainer", *words, *self.places, prefix=prefix).decode()

    def data(self, *words: str) -> str:
        return self.ran("data", *words, "--lake", str(self.lake)).decode()

    def sql(self, query: str) -> list[dict[str, Any]]:
        """The rows that `python -m data sql` answers; ids are 16 hex digits."""
        return json.loads(self.data("sql", query, "--format", "json"))

    def hashes(self) -> dict[str, str]:
        """Path → sha256 of every file of the lake, locks aside."""
        files = (p for p in self.lake.rglob("*") if p.is_file() and p.suffix != ".lock")
        return {str(p.relative_to(self.lake)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}

    def derived(self) -> dict[str, str]:
        """Path → sha256 of all Parquet files but those of the journal tables."""
        return {
            path: sha
            for path, sha in self.hashes().items()
            if path.endswith(".parquet") and path.split("/")[0] not in JOURNALS
        }

    def copied(self, folder: Path) -> Place:
        """The same lake and runs in another folder."""
        for name in ("lake", "runs"):
            shutil.copytree(self.folder / name, folder / name)
        return Place(folder)

    def weights(self, run: str) -> dict[str, Any]:
        """Tensor name → tensor, the final weights of a run."""
        from safetensors.torch import load_file

        return load_file(self.final(run))

    def final(self, run: str) -> Path:
        return self.runs / run / "final" / "model.safetensors"

    def metrics(self, run: str) -> list[dict[str, float]]:
        """metrics.jsonl, one entry a step."""
        text = (self.runs / run / "metrics.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def rewrite(self, path: str, tables: list[Any]) -> None:
        """Publish a slice again with other rows under the same keys: shard files and the manifest's hashes."""
        from data.contract import TABLES
        from data.lake import Lake
        from data.manifest import write_manifest
        from data.storage import write_shard

        slice_ = Lake.open(self.lake).slice(path)
        shards = [
            dataclasses.replace(shard, sha256=write_shard(TABLES[slice_.table], rows, file, shard.key, path))
            for shard, file, rows in zip(slice_.shards, slice_.files, tables, strict=True)
        ]
        write_manifest(dataclasses.replace(slice_, shards=tuple(shards)))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The demo's first pool and one student trained from it. Tests read it; those that write take `mine`."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    made, done = shared / "demo", shared / "demo.done"
    with filelock.FileLock(shared / "demo.lock"):
        if not done.exists():
            shutil.rmtree(made, ignore_errors=True)
            make(Place(made))
            done.touch()
    return Place(made)


def make(place: Place) -> None:
    """The demo's first half; both models side by side."""
    if not (DEMO_TEXT / "world.json").is_file():
        place.ran("data.demo")

    def model(name: str) -> None:
        place.factory(f"recipe=demo_{name}")
        place.trainer(f"recipe=demo_{name}")

    with ThreadPoolExecutor(2) as lanes:
        list(lanes.map(model, ("teacher", "student")))
    place.factory("recipe=demo")
    place.trainer(*HYBRID)


@pytest.fixture
def mine(demo: Place, tmp_path: Path) -> Place:
    """A copy of the demo that the test may change."""
    return demo.copied(tmp_path)


@pytest.fixture
def hybrid() -> tuple[str, ...]:
    """Words of the command that trained `demo-hybrid`."""
    return HYBRID


@pytest.fixture
def rl_only() -> tuple[str, ...]:
    """Words that leave replay as the only loss, without a probe."""
    return RL_ONLY
