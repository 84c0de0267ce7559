"""Runs Python programs that nobody vouches for: in namespaces without network, in a root of their own, under limits.

Linux 5.12 or newer, with `unshare` of util-linux and user namespaces (or root). Writes nothing outside memory. Refuses to run
anything where the kernel does not give the fence. Stops: endless loops and sleeps, fork bombs, memory, network, reading or writing
any file but the system's libraries and this Python (read-only) and a small folder of the program's own, signals to other processes,
the caller's environment. Does not stop: faults of the kernel itself (there is no filter of system calls and no virtual machine),
the burning of its processor seconds, and a program that looks for its test in its own process's pipes, or makes an object that is
equal to everything."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.refusal import Refusal

INSIDE = Path(__file__).with_name("_inside.py")
NAMESPACES = ("--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child")
FOLDER = 16  # MB in the program's own folder
FILE = 1 << 20  # bytes of its largest file, its output included
PROCESSES = 16  # and threads
FILES = 64
PATIENCE = 4  # wall seconds a processor second: machines are shared
START = 20.0  # wall seconds for the fence itself
USERS = (
    2_100_000_000,
    40_000_000,
)  # first, count: numbers that no account has; a new one a run, so that processes are counted apart


@dataclass(frozen=True)
class Limits:
    """What one case may use."""

    seconds: int
    """Processor seconds of a process; four times as many by the clock for all of them."""
    megabytes: int
    """Address space of a process."""


@dataclass(frozen=True)
class Ended:
    """How a case ended: `right` where the program (and its test) ran through."""

    right: bool
    output: str | None
    """What it printed, where it had an input."""
    why: str | None
    """What went wrong: the exception, the signal, or time."""


def run(program: str, cases: Sequence[str], limits: Limits, *, inputs: bool) -> list[Ended]:
    """The program once a case: with the case as standard input, or followed by the case as Python that raises where it is wrong.

    Raises Refusal where the machine cannot fence it."""
    inner = {
        "CPU": limits.seconds,
        "AS": limits.megabytes << 20,
        "FSIZE": FILE,
        "NPROC": PROCESSES,
        "NOFILE": FILES,
        "CORE": 0,
    }
    wall = PATIENCE * limits.seconds
    told: dict[str, Any] = {"program": program, "inputs": inputs, "cases": len(cases), "wall": wall, "limits": inner}
    with tempfile.TemporaryDirectory() as place:
        told |= {
            "place": place,
            "megabytes": FOLDER,
            "user": USERS[0] + secrets.randbelow(USERS[1]) if os.geteuid() == 0 else None,
        }
        lines = _answered([told, *cases], START + len(cases) * (wall + 1))
    reports = [json.loads(line) for line in lines]
    missing = [Ended(False, None, "out of time")] * (len(cases) - len(reports))
    return [Ended(**report) for report in reports] + missing


def _answered(messages: Iterable[Any], timeout: float) -> list[str]:
    """Lines that the inner side wrote, the fence's own taken off."""
    process = subprocess.Popen(
        _command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "HOME": "/w"},
        start_new_session=True,
    )
    sent = b"".join(_framed(message) for message in messages)
    try:
        out, error = process.communicate(sent, timeout)
    except subprocess.TimeoutExpired:
        out, error = _killed(process)
    except BaseException:  # an interrupt above all: the program is in a session of its own, and would outlive us
        _killed(process)
        raise
    lines = out.decode().splitlines()
    if not lines:
        said = error.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise Refusal(
            f"programs cannot be fenced on this machine ({said[-1][:200]})",
            "leave `execution` out, or run where user namespaces are allowed (docker run --privileged)",
        )
    return lines[1:]


def _framed(message: Any) -> bytes:
    content = json.dumps(message).encode()
    return b"%8d" % len(content) + content


def _killed(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()


def _command() -> list[str]:
    unshare = shutil.which("unshare")
    if unshare is None:
        raise Refusal(
            "programs are fenced by `unshare` (util-linux on Linux), which is not here",
            "apt-get install util-linux, or leave `execution` out",
        )
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [unshare, *user, *NAMESPACES, os.path.realpath(sys.executable), "-s", "-S", "-P", str(INSIDE)]


@functools.cache
def refuse_unfenced() -> None:
    """Refuse at once, not after hours of sampling, a machine that cannot fence programs."""
    [ended] = run("", ["assert 1"], Limits(5, 256), inputs=False)
    if not ended.right:
        raise Refusal(f"an empty program does not run in the fence: {ended.why}", "leave `execution` out")
