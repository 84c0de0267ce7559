"""The inner side of the sandbox: the first process of fresh namespaces, a script that `_sandbox` starts, of the standard library.

Builds a root of its own (the system's libraries and this Python, read-only; /w, small and in memory, for the program), gives up
every privilege, then runs the program once a case in a child. Reads messages from standard input (eight digits of length, then
JSON): what the run is, then one a case. A case's test is read after its child was made, and reaches the child after the program has
run, so that the program does not hold it. Writes a JSON line a case to standard output, which children do not have."""

import contextlib
import ctypes
import json
import os
import resource
import secrets
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

RECURSIVE, READ_ONLY, NO_SUID, NO_DEVICES = 0x8000, 1, 2, 4
BIND, DETACH = 0x1000 | 0x4000, 2
MOUNT_SETATTR = 442  # the same number on every architecture; Linux 5.12
NO_NEW_PRIVILEGES, PARENT_DEATH = 38, 1
SHOWN = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")
LIBC = ctypes.CDLL(None, use_errno=True)


def must(name: str, *arguments: Any) -> None:
    """Call the C library; OSError where it says no."""
    given = [os.fsencode(a) if isinstance(a, str | Path) else a for a in arguments]
    if getattr(LIBC, name)(*given):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def own_root(place: str, megabytes: int) -> None:
    """Make the folder `place` the root of this mount namespace: nothing of the machine but what is SHOWN, and that read-only."""
    must("mount", "tmpfs", place, "tmpfs", NO_SUID | NO_DEVICES, "size=1m,mode=755")
    root = Path(place) / "root"
    (root / "w").mkdir(parents=True)
    for shown in dict.fromkeys([*SHOWN, sys.base_prefix]):
        _show(Path(shown), root / shown[1:])
    attributes = (ctypes.c_uint64 * 4)(READ_ONLY | NO_SUID, 0, 0, 0)
    must("syscall", MOUNT_SETATTR, -1, place, RECURSIVE, ctypes.byref(attributes), ctypes.sizeof(attributes))
    must("mount", "tmpfs", root / "w", "tmpfs", NO_SUID | NO_DEVICES, f"size={megabytes}m,nr_inodes=4k,mode=777")
    os.chdir(place)
    must("pivot_root", ".", ".")
    must("umount2", ".", DETACH)
    # one folder below the namespace's root: the kernel gives such processes no user namespace, hence no new rights
    os.chroot("root")
    os.chdir("/w")


def _show(source: Path, target: Path) -> None:
    if source.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.readlink())
    elif source.exists() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir() if source.is_dir() else target.touch()
        must("mount", source, target, None, BIND, None)


def give_up(user: int | None) -> None:
    """Become a user that owns nothing (where there was root to become it with), without capabilities, now and after any exec."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    must("capset", header, nothing)
    must("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    must("prctl", PARENT_DEATH, signal.SIGKILL, 0, 0, 0)  # a change of user has forgotten it


def message() -> Any:
    """The next message. Unbuffered: what is not asked for yet is in no process's memory."""
    parts, missing = [], int(os.read(0, 8))
    while missing:
        parts.append(os.read(0, missing))
        missing -= len(parts[-1])
    return json.loads(b"".join(parts))


def run_case(run: dict[str, Any]) -> dict[str, Any]:
    """One case: run the program in a child, with an input or before a test."""
    for left in Path().iterdir():  # by the case before
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    Path("in").write_text(message() if run["inputs"] else "", encoding="utf-8")
    (asking, telling), (hearing, saying) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(telling)
        os.close(hearing)
        _child(run, asking, saying)
    os.close(asking)
    os.close(saying)
    signal.setitimer(signal.ITIMER_REAL, run["wall"])
    secret = secrets.token_hex(16)
    test = None if run["inputs"] else message()
    with (
        contextlib.suppress(BrokenPipeError),
        os.fdopen(telling, "w", encoding="utf-8") as to_child,
    ):  # it may have ended
        json.dump([secret, test], to_child)
    ended = _wait(child)
    said = os.read(hearing, 4096).decode(errors="replace")
    os.close(hearing)
    right = said == secret
    output = Path("out").read_bytes().decode(errors="replace") if run["inputs"] else None
    return {"right": right, "output": output, "why": None if right else (said[:200] or ended)}


def _wait(child: int) -> str:
    """Wait for the child, then end and reap whatever it left behind. How it ended."""
    ended = os.waitpid(child, 0)[1]
    late = signal.setitimer(signal.ITIMER_REAL, 0)[0] == 0
    end_all()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    number = os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else None
    if late or number in (signal.SIGXCPU, signal.SIGKILL):
        return "out of time"
    return f"ended by {signal.Signals(number).name}" if number else "ended before its test"


def end_all(*_: Any) -> None:
    """Kill every process of this namespace but its first, which is this one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


def _child(run: dict[str, Any], asking: int, saying: int) -> None:
    """Run the program; then, where there is a test, ask for it and run it in the program's own names. Never returns."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        for name, amount in run["limits"].items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (amount, amount))
        output = os.open("out" if run["inputs"] else "/dev/null", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for number, opened in enumerate((os.open("in", os.O_RDONLY), output, os.open("/dev/null", os.O_WRONLY))):
            os.dup2(opened, number)
        sys.stdin, sys.stdout = os.fdopen(0, encoding="utf-8"), os.fdopen(1, "w", encoding="utf-8")
        names: dict[str, Any] = {"__name__": "__main__"}
        try:
            exec(compile(run["program"], "program", "exec"), names)
        except SystemExit as error:
            if not run["inputs"] or error.code not in (None, 0):
                raise
        sys.stdout.flush()
        with os.fdopen(asking, encoding="utf-8") as from_first:
            secret, test = json.load(from_first)
        if test is not None:
            exec(compile(test, "test", "exec"), names)
        os.write(saying, secret.encode())
    except BaseException as error:  # whatever the program raises is its result, SystemExit and KeyboardInterrupt too
        os.write(saying, f"{type(error).__name__}: {error}".encode(errors="replace")[:400])
    finally:
        os._exit(0)  # an exception whose text cannot be had must not carry the child back into the first process's code


def main() -> None:
    """Fence, then run every case."""
    if os.getpid() != 1:  # end_all would end other people's processes
        raise SystemExit("not the first process of a namespace of its own")
    run = message()
    own_root(run["place"], run["megabytes"])
    give_up(run["user"])
    signal.signal(signal.SIGALRM, end_all)
    print(json.dumps("fenced"), flush=True)
    for _ in range(run["cases"]):
        print(json.dumps(run_case(run)), flush=True)


if __name__ == "__main__":
    main()
