"""`make demo`: text, two tiny models, a lake, seven students, one table, a report. Starts the project's own commands as processes.

Everything runs through `python -m factory` and `python -m trainer`, as a user would; finished slices and runs are found by their
configuration and kept. Each figure of the table is the answer of the SQL query printed above it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from data.refusal import Refusal

Command = Sequence[str]  # arguments behind `python -m`

BC_ONLY = ("losses.rl=0", "losses.kl=0")
RL_ONLY = ("losses.bc=0",)
POLICIES = {
    "student": "initial student",
    "demo-bc-raw": "BC on raw teacher answers",
    "demo-bc-best": "BC on filtered best-of-N",
    "demo-hybrid": "hybrid: replay + best-of-N + corpus",
    "demo-round2": "hybrid, second round",
    "demo-grpo": "replay alone, weights (seq_tis)",
    "demo-naive": "replay alone, no weights (naive)",
}

QUERY = """\
SELECT policy,
       avg(metrics['exact'])    FILTER (benchmark = 'held_out') AS exact_match,
       avg(metrics['language']) FILTER (benchmark = 'held_out') AS language_rate,
       sum(metrics['bits']) / sum(metrics['bytes'])                AS bits_per_byte
FROM evaluations WHERE label = 'demo' GROUP BY policy"""


def make(model: str) -> list[Command]:
    """The commands that make one of the two models from its text."""
    return [("factory", f"recipe=demo_{model}"), ("trainer", f"recipe=demo_{model}")]


def train(run: str, *overrides: str) -> Command:
    """A training on the first pool."""
    return ("trainer", "recipe=demo", f"run={run}", *overrides)


SECOND_ROUND = [
    train("demo-hybrid"),
    ("factory", "recipe=demo", "policy=run:demo-hybrid"),
    ("trainer", "recipe=demo", "policy=run:demo-hybrid", "run=demo-round2"),
]
CONTROLS = [
    train("demo-bc-raw", *BC_ONLY, "replay.bc=teacher"),
    train("demo-bc-best", *BC_ONLY),
    train("demo-grpo", *RL_ONLY),
    train("demo-naive", *RL_ONLY, "objective=naive"),
]
EVALUATE: Command = (
    "factory",
    "recipe=demo",
    "stages=[evaluate]",
    f"policies=[student,{','.join(f'run:{name}' for name in POLICIES if name != 'student')}]",
)

PHASES: list[list[list[Command]]] = [  # phases in turn; the lanes of a phase side by side, one core each
    [[("data.demo",)]],
    [make("teacher"), make("student")],
    [[("factory", "recipe=demo")]],
    [SECOND_ROUND, CONTROLS],
    [[EVALUATE]],
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all phases and print the table. Returns the exit code: 0, or that of the first command that failed."""
    parser = argparse.ArgumentParser(prog="python -m data.demo.run", description="The whole demo, in one table.")
    parser.add_argument("--lake", default="data/lake", help="folder of the lake (default data/lake)")
    parser.add_argument("--runs", default="runs", help="folder of the training runs (default runs)")
    parser.add_argument("--report", default="report.html", help="page about the lake (default report.html)")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    places = (f"lake={options.lake}", f"runs={options.runs}")
    before = _runs(options.lake)
    try:
        for phase in PHASES:
            _side_by_side(phase, places)
        trained = _runs(options.lake) - before
        print(_table(options.lake))
        _report(options.lake, options.runs, options.report)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return 2
    names = (
        ", ".join(sorted(trained)) if trained else "nothing: every slice and every run was found by its configuration"
    )
    print(f"\ntrained: {names}\nwall: {time.monotonic() - begin:.0f} s")
    return 0


def _report(lake: str, runs: str, out: str) -> None:
    from data.lake import Lake
    from data.report.page import write
    from data.report.source import Source

    write(Source(Lake.open(lake), Path(runs)), Path(out))
    print(f"\nreport: {out}")


def _runs(lake: str) -> set[str]:
    from data.lake import Lake

    return {row["run"] for row in Lake.open(lake).sql("SELECT run FROM runs").to_pylist()}


def _side_by_side(phase: list[list[Command]], places: Sequence[str]) -> None:
    failures: list[Refusal] = []

    def lane(commands: list[Command]) -> None:
        try:
            for command in commands:
                if not failures:
                    _run(command, places)
        except Refusal as refusal:
            failures.append(refusal)

    threads = [threading.Thread(target=lane, args=(commands,)) for commands in phase]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _run(command: Command, places: Sequence[str]) -> None:
    """One command to its end; what it says is printed whole, so that two lanes do not mix their lines."""
    words = [*command, *(places if command[0] in ("factory", "trainer") else ())]
    shown = "python -m " + " ".join(f"'{w}'" if "[" in w else w for w in command)
    begin = time.monotonic()
    threads = str(max(1, (os.cpu_count() or 2) // 2))  # two lanes share the machine
    done = subprocess.run(
        [sys.executable, "-m", *words],
        env=os.environ | {"OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(f"$ {shown}   ({time.monotonic() - begin:.0f} s)\n{done.stdout.rstrip()}\n", flush=True)
    if done.returncode:
        raise Refusal(f"{shown} ended with code {done.returncode}", f"{shown} --debug")


def _table(lake: str) -> str:
    from data.lake import Lake

    rows = {row["policy"]: row for row in Lake.open(lake).sql(QUERY).to_pylist()}
    lines = [
        f'python -m data sql "\n{QUERY}"',
        "",
        f"{'student':<38}{'exact match':>12}{'language':>10}{'bits/byte':>11}",
    ]
    for policy, name in POLICIES.items():
        row = rows[policy]
        lines.append(f"{name:<38}{row['exact_match']:>12.3f}{row['language_rate']:>10.3f}{row['bits_per_byte']:>11.3f}")
    return "\n".join([*lines, "", *_notes()])


def _notes() -> list[str]:
    return [
        "exact match and language: greedy answers to held-out prompts (facts in a form, and pairs, that no stage has seen);",
        "facts never asked at all cannot be learned. bits/byte: held-out Faroese sentences. One seed; nothing is tuned on it.",
    ]


if __name__ == "__main__":
    sys.exit(main())
