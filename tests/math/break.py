"""Breaks each formula in turn in a copy of the project and prints the test that went red; exit 1 if a mistake survives.

    python tests/math/break.py              every row of mutations.py, two at a time: minutes
    python tests/math/break.py drift "kl:"  the rows whose file or description contains one of these words

Reads mutations.py. Writes only to a temporary folder. Refuses a row whose text does not stand exactly once in its file, a selection
of tests that is not green before anything is broken, and a red that is no failed test (a syntax error proves nothing)."""

from __future__ import annotations

import gc
import importlib
import itertools
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("FAROESE_TEXT", str(ROOT.parent / "shared" / "faroese"))
sys.dont_write_bytecode = True

os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest  # noqa: E402
from mutations import MUTATIONS, Mutation  # noqa: E402

COPIED = ("data", "factory", "trainer", "tests", "conf", "pyproject.toml")
AT_ONCE = 2
LIMIT_SECONDS = 300
LIGHT = (
    "duckdb",
    "hydra",
    "hypothesis",
    "jinja2",
    "pyarrow.parquet",
    "rapidfuzz.distance",
    "sacrebleu.metrics",
    "sqlglot",
)
HEAVY = (
    "torch.distributed.tensor",
    "transformers.models.llama.modeling_llama",
    "transformers.models.mistral.modeling_mistral",
)
WITHOUT_TORCH = ("tests/data/", "tests/factory/rewards/")


class FirstRed:
    """A pytest plugin that keeps the name of the first test that failed, not of one that could not start."""

    name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.when == "call" and not self.name:
            self.name = report.nodeid


def copy_project(target: Path) -> None:
    """The sources without lakes, runs and caches."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*", "lake", "files", "runs")
            )
        elif source.is_file():
            shutil.copy(source, target / name)


def run_tests(project: Path, tests: Iterable[str]) -> tuple[int, str]:
    """(exit code, first red test) of pytest over these files of a copy, which shadows an installed project. Falls silent."""
    os.chdir(project)
    sys.path.insert(0, str(project))
    os.environ["PYTHONPATH"] = str(project)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    red = FirstRed()
    arguments = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "--rootdir", str(project), *tests]
    return int(pytest.main(arguments, plugins=[red])), red.name


def try_one(mutation: Mutation | None, tests: tuple[str, ...]) -> tuple[int, str]:
    """The tests in a fresh copy with this mistake, or with none, which has to be green."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        copy_project(project)
        if mutation is not None:
            path = project / mutation.file
            path.write_text(path.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8")
        return run_tests(project, tests)


def verdict(code: int, red: str) -> tuple[bool, str]:
    """(noticed, the line to print): only a failed test is a notice."""
    if code == 1 and red:
        return True, red
    return (
        False,
        "SURVIVED"
        if code == 0
        else f"pytest ended with {code} and no failed test: the row breaks the file, not the formula",
    )


def misplaced(mutations: Iterable[Mutation]) -> list[str]:
    """A line for each row whose old text does not stand exactly once in its file."""
    lines = []
    for mutation in mutations:
        count = (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old)
        if count != 1:
            lines.append(f"{mutation.file}: {mutation.breaks}: stands {count} times: {mutation.old!r}")
    return lines


def prepare(tests: Iterable[str]) -> None:
    """Load what these tests import before the forks, so that a child starts at once; nothing of the project itself.

    Examples come in a fixed order and are not made smaller: what is noticed once is noticed always, and soon."""
    light = all(test.startswith(WITHOUT_TORCH) for test in tests)
    for name in LIGHT if light else (*LIGHT, *HEAVY):
        importlib.import_module(name)
    from hypothesis import Phase, settings

    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("break", derandomize=True, deadline=None, database=None, phases=phases)
    settings.load_profile("break")
    gc.freeze()


def halves(tests: Iterable[str]) -> list[tuple[str, ...]]:
    """The tests in two parts, whole files."""
    parts: list[list[str]] = [[], []]
    for number, (_, group) in enumerate(itertools.groupby(sorted(tests), key=lambda test: test.split("::")[0])):
        parts[number % 2] += group
    return [tuple(part) for part in parts if part]


def try_all(chosen: list[Mutation]) -> int:
    """The number of mistakes that nobody noticed, or of 1 where the tests are red by themselves."""
    began = time.monotonic()
    every = {test for mutation in chosen for test in mutation.tests}
    prepare(every)
    # one task a process: a copy's modules must not outlive it
    with multiprocessing.get_context("fork").Pool(AT_ONCE, maxtasksperchild=1) as pool:
        for code, red in pool.starmap(try_one, [(None, part) for part in halves(every)]):
            if code != 0:
                print(f"not green before anything is broken: {red or f'pytest ended with {code}'}")
                return 1
        running = [(mutation, pool.apply_async(try_one, (mutation, mutation.tests))) for mutation in chosen]
        unnoticed = 0
        for mutation, result in running:
            noticed, line = verdict(*result.get(LIMIT_SECONDS))
            unnoticed += not noticed
            print(f"{'red ' if noticed else 'FAIL'}  {mutation.file}  {mutation.breaks}\n      {line}", flush=True)
    noticed_count, seconds = len(chosen) - unnoticed, time.monotonic() - began
    print(f"{len(chosen)} mistakes, {noticed_count} noticed, {unnoticed} not, {seconds:.0f} s")
    return unnoticed


def main(words: list[str]) -> int:
    """0 if every chosen mistake was noticed by a test that passes without it."""
    chosen = [m for m in MUTATIONS if not words or any(word in f"{m.file} {m.breaks}" for word in words)]
    wrong = misplaced(chosen)
    if wrong or not chosen:
        print("\n".join(wrong) or f"no row of mutations.py contains {' or '.join(words)}")
        return 1
    return 1 if try_all(chosen) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
