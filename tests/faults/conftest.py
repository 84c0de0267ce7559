"""One small lake with everything in it (pool, scores, rewards, answers, corpus, a finished run), copied for every mistake.

`place` is a test's own folder: paths in the recipe are relative to it, so that a copy is the same lake. `refuses` runs a command
in this process and checks all that holds for every refusal."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from data.command import Command
from data.contract import TABLES
from data.lake import Lake
from data.manifest import Slice
from data.refusal import Refusal
from data.verify import verify

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """# @package _global_
name: tiny
lake: lake
runs: runs
student: {{path: {student}}}
teacher: {{path: {teacher}}}
prompts: {{path: prompts.jsonl}}
sampling: {{n: 3, max_tokens: 6}}
answers: {{max_tokens: 6}}
components:
  loglik: {{use: teacher_loglik, form: token}}
  chrf: {{use: similarity, metric: chrf}}
  length: {{use: length, unit: tokens}}
reward: loglik + chrf
where: length > 0
factory:
  shard_groups: 2
  corpus: {{plain: {{path: corpus.jsonl, held_out: 0.3}}}}
  benchmarks: {{task: {{metrics: {{long: {{use: length}}}}}}}}
trainer: {{steps: 2, replay: {{prompts: 4, truncated: keep}}}}
"""
QUESTIONS = [
    "hvat eitur staðurin ?",
    "what is the capital ?",
    "how many live there ?",
    "báturin siglir",
    "sólin skínur",
]
EVERYTHING = "stages=[prompts,answers,samples,scores,rewards,selections,corpus]"
PROGRESS = re.compile(
    r"(\w+/\S+: |pool \w+/|reward as SQL: |best of n: |run \S+ (started|resumed)|step \d+|warning: |memory: |imports\.\w+: "
    r"|answers: |slices \d+|fault: )"
)
"""How every line begins that a command prints on stdout before it refuses."""

WITHOUT_RIGHTS = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")
"""Before a command: root, but stopped by a file's mode as anybody is."""


@dataclass(frozen=True)
class Place:
    """A folder with a recipe, its sources, its lake and its runs; the working folder of the test."""

    root: Path
    conf: Path

    @property
    def lake(self) -> Lake:
        """The lake as it is on disk now."""
        return Lake.open(self.root / "lake")

    def slice(self, name: str) -> Slice:
        """The oldest slice of a table, or of a label in it: `rewards:chrf`."""
        table, _, label = name.partition(":")
        return self.lake.slices(table, label=label or None)[0]

    def shard(self, name: str, index: int = 0) -> Path:
        """A shard's file of that slice."""
        return self.slice(name).files[index]

    def manifest(self, name: str) -> Path:
        """That slice's manifest."""
        return self.root / "lake" / self.slice(name).path / "_manifest.json"

    def write(self, name: str, content: str | bytes | list[object]) -> Path:
        """A file of the folder, written over; a list becomes JSON lines."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def recipe(self, text: str) -> None:
        """Lines of YAML in place of the recipe's own keys of those names."""
        path = self.conf / "recipe" / "tiny.yaml"
        own = path.read_text(encoding="utf-8")
        for key in re.findall(r"^(\w+):", text, re.M):
            own = re.sub(rf"^{key}:.*\n(?:[ ].*\n)*", "", own, flags=re.M)
        path.write_text(own + text + "\n", encoding="utf-8")

    def argv(self, line: str) -> tuple[str, list[str]]:
        """(program, arguments) of a line such as `trainer reward=chrf`, with this place's recipe and lake."""
        program, *words = shlex.split(line)
        if program == "data":
            return program, words if "--lake" in words else [*words, "--lake", "lake"]
        chosen = [] if any(w.startswith("recipe") for w in words) else ["recipe=tiny"]
        words = [w for w in words if w != "recipe"]
        return program, [*chosen, *words, *(["--config-dir", str(self.conf)] if "--config-dir" not in words else [])]


def files(root: Path) -> dict[str, str]:
    """Path → sha256 of every file below a folder, locks left out."""
    found = sorted(p for p in root.rglob("*") if p.is_file() and not p.name.endswith(".lock"))
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def commands() -> dict[str, Command]:
    """The two commands with recipes."""
    from factory.__main__ import COMMAND as FACTORY
    from trainer.__main__ import COMMAND as TRAINER

    return {"factory": FACTORY, "trainer": TRAINER}


def called(program: str, argv: list[str]) -> int:
    """The exit code of `python -m PROGRAM ARGV…`, in this process."""
    if program != "data":
        return commands()[program].main(argv)
    from data.__main__ import main

    try:
        main(argv)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Path:
    """The lake that every test copies."""
    root = tmp_path_factory.mktemp("faults")
    place, before = Place(root, root / "conf"), Path.cwd()
    rows: list[object] = [{"messages": q, "references": ["Tórshavn"], "split": "train"} for q in QUESTIONS]
    place.write("prompts.jsonl", [*rows, {"messages": "the little boat", "references": ["sails"], "split": "held_out"}])
    place.write("corpus.jsonl", [{"text": f"the boat number {i} sails to the island"} for i in range(12)])
    models = {"student": tiny_model("llama"), "teacher": tiny_model("llama", seed=7)}
    place.write("conf/recipe/tiny.yaml", RECIPE.format(**models))
    os.chdir(root)
    try:
        assert called(*place.argv(f"factory '{EVERYTHING}'")) == 0
        assert called(*place.argv("trainer run=one checkpoint.every=1")) == 0
    finally:
        os.chdir(before)
    return root


@pytest.fixture
def place(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The test's own copy, and its working folder."""
    root = shutil.copytree(base, tmp_path / "place")
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(str(root))
    return Place(root, root / "conf")


@pytest.fixture
def refuses(place: Place, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Callable[..., str]:
    """`refuses("trainer reward=chfr", "did you mean 'chrf'")`: what stderr says, after all that holds for every refusal.

    `damaged`: what `verify` must name, where the test itself damaged the lake. `starts`: the mistake shows only once the run has
    its folder. `alone`: as a process that may do no more than the files' modes say, also where root runs the tests."""

    def go(line: str, *says: str, damaged: str | None = None, starts: bool = False, alone: bool = False) -> str:
        before = {folder: files(place.root / folder) for folder in ("lake", "runs")}
        capfd.readouterr()
        program, argv = place.argv(line)
        if alone:
            done = process(place, line, *(WITHOUT_RIGHTS if os.geteuid() == 0 else ()))
            code, out, err = done.returncode, done.stdout, done.stderr
        else:
            running = set(threading.enumerate())
            code = called(program, argv)
            out, err = capfd.readouterr()
            check_threads(running)
        answered(request, err.replace(f"{place.root}/", ""))
        check_message(place, code, out, err, says)
        assert not list(place.root.rglob("*.tmp")), "half-written files stay behind"
        after = {folder: files(place.root / folder) for folder in before}
        if program == "factory":  # it may finish a slice before it meets the mistake; what was there stays
            assert before["lake"].items() <= after["lake"].items()
        else:  # a run that has a checkpoint has rows in the journal
            changed = {k for k in before["lake"] | after["lake"] if before["lake"].get(k) != after["lake"].get(k)}
            assert not {k for k in changed if not starts or "/journal/" not in k}, changed
        kept = {k: v for k, v in before["runs"].items() if not starts or not k.endswith("run.json")}
        assert kept.items() <= after["runs"].items() and (starts or after["runs"] == kept)
        check_lake(place, damaged)
        return err

    return go


def check_threads(running: set[threading.Thread]) -> None:
    """A process waits for its threads: one that never ends would hang the command behind its message.

    Those that only wait for work are ended with who holds them; at a process's end they are told so."""
    gc.collect()
    for thread in set(threading.enumerate()) - running:
        if not thread.daemon:
            thread.join(30)
            assert not thread.is_alive(), f"{thread.name} does not end"


def answered(request: pytest.FixtureRequest, text: str) -> None:
    """Note what a bad input was answered with, for the list of `make faults` (run.py)."""
    request.node.user_properties.append(("answer", next(iter(text.splitlines()), "")))


def check_message(place: Place, code: int, out: str, err: str, says: tuple[str, ...]) -> None:
    """Exit code 2, at most three lines, what and where, a next step that can be typed, and no more on stdout than progress."""
    assert code == 2, f"exit code {code}\n{out}{err}"
    lines = err.splitlines()
    assert len(lines) <= 3 and "Traceback" not in out + err, err
    assert lines[0].startswith("error: ") and re.fullmatch(r"\s+next: \S.*", lines[-1]), err
    for what in says:
        assert what in err, err
    odd = [line for line in out.splitlines() if not PROGRESS.match(line)]
    assert not odd, odd
    check_next(place, lines[-1].partition("next: ")[2])


def check_next(place: Place, text: str) -> None:
    """Commands in the next step are real ones: module, subcommand and every key exist, and quotes are closed."""
    from data.__main__ import app

    plain = re.sub(r"(?<=\w)'(?=s\b)", "", text.replace("…", "X"))  # the factory's stage
    words = [word.rstrip(",;") for word in shlex.split(plain)]
    subcommands = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    for i, word in enumerate(words):
        if words[i : i + 2] == ["python", "-m"]:
            program = words[i + 2]
            assert program in ("data", "factory", "trainer") and len(words) > i + 3, text
            assert program != "data" or words[i + 3] in {*subcommands, "--help"}, text
        elif re.match(r"[a-z_]+(\.\w+)*=[^)]*$", word):
            assert any(is_setting(place, program, word) for program in commands()), (word, text)


def is_setting(place: Place, program: str, word: str) -> bool:
    """Whether a command takes an override of this key, whatever its value."""
    recipe = [] if word.startswith("recipe=") else ["recipe=tiny"]
    given = "recipe=tiny" if word == "recipe=X" else word
    try:
        commands()[program].prepared([*recipe, given, "--config-dir", str(place.conf)])
    except Refusal:
        return False
    return True


def check_lake(place: Place, damaged: str | None) -> None:
    """`verify` finds nothing, or names what the test damaged."""
    root = place.root / "lake"
    if not any((root / name).is_dir() for name in TABLES):
        return
    faults = verify(Lake.open(root)).faults
    assert (faults == []) if damaged is None else any(damaged in fault for fault in faults), faults


def process(place: Place, line: str, *before: str) -> subprocess.CompletedProcess[str]:
    """The line as a real command, behind what comes before it."""
    program, argv = place.argv(line)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*before, sys.executable, "-m", program, *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=place.root, env=environment, timeout=120)


@pytest.fixture
def in_a_process(place: Place, request: pytest.FixtureRequest) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """`in_a_process("trainer …")`: the same line as a real command."""

    def go(line: str) -> subprocess.CompletedProcess[str]:
        done = process(place, line)
        answered(request, done.stderr.replace(f"{place.root}/", ""))
        return done

    return go


@pytest.fixture
def mount(place: Place) -> Iterator[Callable[[str, str], Path]]:
    """`mount("small", "size=256k")`: a real file system over a folder of the place; skipped without root."""
    mounted: list[Path] = []

    def go(name: str, options: str) -> Path:
        folder = place.root / name
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("mounting a small file system needs root")
        mounted.append(folder)
        return folder

    yield go
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def run(place: Place) -> Callable[[str], int]:
    """`run("trainer …")`: the exit code of a line in this process."""
    return lambda line: called(*place.argv(line))
