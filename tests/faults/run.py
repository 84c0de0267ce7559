"""`make faults`: every bad input with the first line of its answer, then the kills with their counts.

Runs the tests of this folder and prints what they report: a case stands in one place, its test. FAULT_KILLS is the number of kills
(200). Exits with 1 where an input is not answered as it should be, where there are fewer than 100, or where a kill left a mark."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

FOLDER, LEAST = Path(__file__).resolve().parent, 100
OPTIONS = ["-o", "addopts=--import-mode=importlib", "-p", "no:terminal", "-p", "no:cacheprovider"]


class Listing:
    """Prints a line a bad input as its test ends, and a kill's counts as they are."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failed: list[str] = []

    def pytest_configure(self, config: pytest.Config) -> None:
        """The option that the terminal's plugin would have set."""
        config.option.tbstyle = "short"

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be collected is a failure, not a shorter list."""
        if report.failed:
            self._fail(report.nodeid, report.longreprtext)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One test: set up, called, torn down."""
        answers = [str(value) for name, value in report.user_properties if name == "answer"]
        if report.failed:
            print(f"{'':>4}  NOT ANSWERED  {_what(report.nodeid)}: {(answers or ['no answer'])[-1]}", flush=True)
            self._fail(report.nodeid, report.longreprtext)
        elif report.skipped:
            self.counts["skipped"] += 1
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            print(f"{'':>4}  {_what(report.nodeid)}: {reason}", flush=True)
        elif report.when == "call":
            for answer in answers:
                self.counts["answered"] += 1
                print(f"{self.counts['answered']:>4}  {_what(report.nodeid)}: {answer}  ok", flush=True)
            for name, value in report.user_properties:
                if name == "kills":
                    print(value, flush=True)

    def _fail(self, name: str, text: str) -> None:
        self.failed.append(name)
        print(text, flush=True)


def _what(nodeid: str) -> str:
    """The test's claim and its row, as words."""
    name = nodeid.rpartition("::")[2]
    test, _, row = name.partition("[")
    return re.sub(r"^test_", "", test).replace("_", " ") + (f" ({row[:-1]})" if row else "")


def run(*words: str) -> Listing:
    """The tests that pytest selects by these words."""
    listing = Listing()
    code = pytest.main([*OPTIONS, *words], plugins=[listing])
    if code and not listing.failed:
        listing.failed.append(f"pytest ended with {code}")
    return listing


def main() -> int:
    """The list, its total, the kills."""
    os.environ.setdefault("FAULT_KILLS", "200")
    inputs = run(str(FOLDER), f"--ignore={FOLDER / 'test_factory_kill.py'}")
    answered, failed = inputs.counts["answered"], len(inputs.failed)
    said = f"≥ {LEAST} bad inputs, all answered" if answered >= LEAST and not failed else f"{failed} not answered"
    print(f"{answered} bad inputs answered, {inputs.counts['skipped']} skipped: {said}", flush=True)
    kills = run(str(FOLDER / "test_factory_kill.py"))
    print("kills: " + ("the same lakes as without them" if not kills.failed else ", ".join(kills.failed)))
    return int(answered < LEAST or bool(inputs.failed or kills.failed))


if __name__ == "__main__":
    sys.exit(main())
