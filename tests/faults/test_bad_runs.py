"""Run names, resumed runs, full and read-only disks: each as a row with what its sentence must say.

`refuses` (conftest.py) asserts the rest for each row: exit code 2, at most three lines on stderr, a next step that can be typed,
no half-written file, whatever was published unchanged, and a lake that verifies (or names the file that the row damaged)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.lake import Lake
from data.verify import verify
from trainer.journal import Run

Broken = Callable[[Any], object]


def rows(*found: tuple[Any, ...]) -> pytest.MarkDecorator:
    """Parametrise over rows (name, how it is broken or None, command line, what it says…)."""
    cases = [pytest.param(broken, line, says, id=name) for name, broken, line, *says in found]
    return pytest.mark.parametrize(("broken", "line", "says"), cases)


def running(place: Any, change: Callable[[Path], object] = lambda folder: None) -> None:
    """The finished run as one that was killed after its last checkpoint, then changed."""
    folder = place.root / "runs/one"
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    first = {k: v for k, v in record.items() if k not in ("reason", "steps", "seconds", "model_id")} | {
        "status": "running"
    }
    Run("one", folder).write_record(first)
    shutil.rmtree(folder / "final")
    change(folder)


def holding(name: str, content: str) -> Broken:
    return lambda place: place.write(f"runs/one/{name}", content)


@rows(
    ("exists", None, "trainer run=one", "run one exists"),
    ("exists, unfinished", running, "trainer run=one", "run one exists and is not finished", "resume=one"),
    ("exists in another folder", None, "trainer run=one runs=other", "run one exists in this lake", "runs/one"),
    ("exists, other settings", None, "trainer run=one reuse=true steps=3", "another configuration"),
    ("resumed, other settings", running, "trainer resume=one steps=3", "another configuration"),
    ("resumed, other reward", running, "trainer resume=one reward=chrf+length", "another configuration"),
    ("resumed, finished", None, "trainer resume=one checkpoint.every=1", "run one is finished"),
    ("resumed, nowhere", None, "trainer resume=nope", "no run named nope", "did you mean 'one'"),
    ("no file name", None, "trainer run=a/b", "letters, digits"),
    ("parent folder", None, "trainer run=..", "letters, digits"),
    ("no run in the folder", lambda p: p.write("runs/two/notes", "x"), "trainer run=two", "exists and is no run"),
    ("a file", lambda p: p.write("runs/two", "x"), "trainer run=two", "runs/two is a file"),
    ("runs is a file", None, "trainer runs=prompts.jsonl", "could not be written: Not a directory"),
    ("record that was cut", holding("run.json", "{"), "trainer run=one", "run.json is no record"),
    ("record of something else", holding("run.json", "[]"), "trainer resume=one", "run.json is no record"),
    ("record without status", holding("run.json", "{}"), "trainer resume=one", "run.json is no record"),
)
def test_a_run_that_exists_or_cannot(refuses, place, broken, line, says):
    if broken:
        broken(place)
    refuses(line, *says)


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


STATE, WEIGHTS = "checkpoint-2/training/state.safetensors", "checkpoint-2/model.safetensors"


@rows(
    ("state", cut(STATE, 500), "checkpoint-2 cannot be read"),
    ("empty state", cut(STATE, 0), "checkpoint-2 cannot be read"),
    ("no state", lambda f: (f / STATE).unlink(), "checkpoint-2 cannot be read"),
    ("weights", cut(WEIGHTS, 500), "checkpoint-2 cannot be read"),
    ("no weights", lambda f: (f / WEIGHTS).unlink(), "checkpoint-2 cannot be read"),
    ("cursors", cut("checkpoint-2/training/state.json", 9), "checkpoint-2 cannot be read"),
    ("no cursors", lambda f: (f / "checkpoint-2/training/state.json").write_text("{}"), "checkpoint-2 cannot be read"),
    ("metrics", lambda f: (f / "metrics.jsonl").write_text("{\n"), "metrics.jsonl holds a line"),
    ("other metrics", lambda f: (f / "metrics.jsonl").write_text("[]\n"), "metrics.jsonl holds a line"),
)
def test_a_run_whose_saved_state_was_cut(refuses, place, broken, line, says):
    running(place, broken)
    refuses("trainer resume=one checkpoint.every=1", line, *says, starts=True)


ALONE = "losses.bc=0 losses.pt=0 losses.kl=0"


def test_a_full_disk_under_the_factory_keeps_what_was_published(refuses, place, mount):
    small = mount("small", "size=300k")
    place.write("small/filler", os.urandom(180 * 1024))
    said = refuses(
        "factory lake=small/lake 'stages=[prompts,answers,samples,scores,rewards]'", "No space left on device"
    )
    assert "free disk space" in said and not list(small.rglob("*.tmp"))
    lake = Lake.open(small / "lake")
    made = {path: path.read_bytes() for path in lake.root.rglob("part-*.parquet")}
    assert made and verify(lake).faults == []


@pytest.mark.parametrize(
    ("kilobytes", "settings", "what"),
    [
        (4, "", "small/runs/full"),  # not even the record of the run
        (40, "", "small/runs/full/final"),
        (420, "checkpoint.every=1 steps=5", "small/runs/full/checkpoint-1"),
        (900, "checkpoint.every=1 steps=5", "small/runs/full/checkpoint-2"),
    ],
)
def test_a_full_disk_under_a_run_leaves_no_half_checkpoint(refuses, run, mount, kilobytes, settings, what):
    small = mount("small", f"size={kilobytes}k")
    line = f"trainer runs=small/runs {ALONE} {settings}"
    refuses(f"{line} run=full", f"{what} could not be written", "No space left", "free disk space", starts=True)
    whole = sorted(path.name for path in small.glob("runs/full/*") if path.is_dir())
    assert whole == (["checkpoint-1"] if kilobytes == 900 else [])
    if kilobytes > 4:
        subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
        assert run(f"{line} resume=full") == 0 and (small / "runs/full/final").is_dir()


@rows(
    ("export", None, "data export small/x.duckdb", "small/x.duckdb could not be written"),
    ("report", None, "data report --out small/x.html", "small/x.html cannot be written: No space left"),
    ("answer", None, "data sql 'FROM samples' --out small/x", "small/x cannot be written: No space left"),
)
def test_a_full_disk_under_an_export_leaves_nothing(refuses, place, mount, broken, line, says):
    small = mount("small", "size=4k")
    refuses(line, *says)
    assert list(small.iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("new", "factory lake=new"),
        ("other", "trainer runs=other run=two"),
        ("out", "data export out/x.duckdb"),
        ("out", "data sql 'SELECT 1' --out out/x"),
        ("out", "data report --out out/x.html"),
    ],
)
def test_a_folder_that_cannot_be_written(refuses, mount, folder, line):
    mount(folder, "ro")
    assert "Read-only file system" in refuses(line, "be written")


@pytest.mark.parametrize("line", ["factory 'stages=[samples]' seed=3", f"trainer run=two steps=1 {ALONE}"])
def test_a_lake_that_can_only_be_read(refuses, place, mount, line):
    """Training from it works; only the run's rows cannot be written."""
    shutil.move(place.root / "lake", place.root / "old")
    small = mount("lake", "size=20m")
    shutil.copytree(place.root / "old", small, dirs_exist_ok=True)
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    refuses(line, "could not be written: Read-only file system", starts=True)


@pytest.mark.parametrize("line", ["factory lake=new/lake", "trainer runs=new/runs run=two", "data export new/x.duckdb"])
def test_a_folder_without_permission(refuses, place, line):
    (place.root / "new").mkdir(mode=0o500)
    assert "new/" in refuses(line, "Permission denied", alone=True)


@pytest.mark.parametrize("line", ["trainer", "data sql 'FROM samples'", "data inspect chrf"])
def test_a_shard_without_permission(refuses, place, line):
    path = place.shard("samples")
    path.chmod(0)
    try:
        refuses(line, path.name, alone=True, damaged=path.name if os.geteuid() else None)
    finally:
        path.chmod(0o600)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("factory components.chrf.use=similarty", "did you mean 'similarity'"),
        ("trainer run=one", "run one exists"),
        ("data sql 'DROP TABLE samples'", "only one SELECT"),
    ],
)
def test_a_real_command_says_the_same(in_a_process, line, says):
    done = in_a_process(line)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 2, done.stderr
    assert done.stderr.startswith("error: ") and says in done.stderr and "next: " in done.stderr
