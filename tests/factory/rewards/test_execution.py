"""Programs: right, wrong, none; and what they may not do, really tried. Nothing here is mocked: each case runs in the sandbox."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.refusal import Refusal
from factory.rewards import Batch, component
from factory.rewards._sandbox import Ended, Limits, run

Value = Callable[..., float | None]
LIMITS = Limits(seconds=1, megabytes=256)
RIGHT = "def tvífalda(x):\n    return 2 * x\n"
WRONG = "def tvífalda(x):\n    return x\n"
TESTS = ["assert tvífalda(2) == 4", "assert tvífalda('ð') == 'ðð'"]


@pytest.fixture(scope="module", autouse=True)
def _fence() -> None:
    try:
        run("", ["pass"], LIMITS, inputs=False)
    except Refusal as refusal:
        pytest.skip(f"{refusal.args[0]}")


@pytest.fixture(params=["as we are", "as a user without rights"])
def whoever(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root fences with its own rights, everybody else in a user namespace; root can go the second way too."""
    if request.param != "as we are":
        monkeypatch.setattr(os, "geteuid", lambda: 1000)


def fenced(program: str) -> str:
    return f"Her er forritið:\n```python\n{program}```\nGott!"


def tried(program: str, test: str = "pass") -> Ended:
    [ended] = run(program, [test], LIMITS, inputs=False)
    return ended


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (fenced(RIGHT), 1.0),
        (fenced(WRONG), 0.0),
        (fenced("def tvífalda(x) return 2 * x\n"), 0.0),
        (fenced(RIGHT + "raise SystemExit(0)\n"), 0.0),  # leaves before its test
        (fenced(RIGHT + "import os; os._exit(0)\n"), 0.0),
        (f"<think>{fenced(RIGHT)}</think>{fenced(WRONG)}", 0.0),
        (f"<think>{fenced(WRONG)}</think>{fenced(RIGHT)}", 1.0),
        (fenced(WRONG) + fenced(RIGHT), 1.0),  # the last block
        (f"```\n{RIGHT}```", 1.0),
        (RIGHT, None),
        (fenced(RIGHT)[:40], None),  # cut before the fence ends
        ("```python\n\n```", None),
        ("```json\n{}\n```", None),
        ("", None),
    ],
)
def test_right_is_one_wrong_is_zero_no_program_is_missing(value: Value, text: str, expected: float | None) -> None:
    assert value(text, use="execution", allow=True, references=TESTS) == expected


def test_the_share_of_tests_that_pass(value: Value) -> None:
    half = fenced("def tvífalda(x):\n    return x + 2\n")
    assert value(half, use="execution", allow=True, references=TESTS, partial=True) == 0.5
    assert value(half, use="execution", allow=True, references=TESTS) == 0.0


def test_what_fails_is_told() -> None:
    this = component({"use": "execution", "allow": True, "seconds": 1})
    texts = [fenced(WRONG), fenced("1 / 0\n"), fenced("while True: pass\n")]
    rewards = this.score(Batch.of_texts(texts, references=[TESTS[:1]] * 3))
    told = ["AssertionError: ", "ZeroDivisionError: division by zero", "out of time"]
    assert [reward.detail for reward in rewards] == [f"0 of 1 tests; {why}" for why in told]


def test_input_and_output_from_a_column_of_the_prompts() -> None:
    this = component({"use": "execution", "allow": True, "tests": "pairs"})
    pairs = [{"input": "2\nð\n", "output": "ðð"}, {"input": "1\nø\n", "output": "ø\n"}]
    right = fenced("n = int(input())\nprint(n * input(), ' ')\n")
    texts = [right, right.replace("n *", "2 *"), right.replace("' '", "1"), right + "tók eg feil?"]
    columns: dict[str, list[Any]] = {"pairs": [pairs, pairs, pairs, None]}
    rewards = this.score(Batch.of_texts(texts, columns=columns))
    assert [reward.value for reward in rewards] == [1.0, 0.0, 0.0, None]
    another = [f"{passed} of 2 tests; another output" for passed in (1, 0)]
    assert [reward.detail for reward in rewards] == [None, *another, "no tests in pairs"]
    assert this.score(Batch.of_texts(texts[:1]))[0].detail == "no tests in pairs"
    assert this.needs == set()


def test_the_program_by_the_prompts_own_pattern(value: Value) -> None:
    spec = {"use": "execution", "allow": True, "program": "answer", "references": ["assert x == 4"]}
    assert value("svar: x = 4", **spec, answer_patterns="svar: (.*)") == 1.0
    assert value("x = 4", **spec, answer_patterns="svar: (.*)") is None


def test_tests_are_of_one_kind_and_known() -> None:
    this = component({"use": "execution", "allow": True, "tests": "pairs"})
    for wrong in ([{"inn": "2", "output": "4"}], [4], ["pass", {"input": "", "output": ""}]):
        with pytest.raises(Refusal, match="no tests"):
            this.score(Batch.of_texts([fenced(RIGHT)], columns={"pairs": [wrong]}))


def test_it_is_off_unless_allowed() -> None:
    for given, said in (({}, "allow: true"), ({"allow": True, "seconds": 0}, "at least 1 second")):
        with pytest.raises(Refusal, match=said):
            component({"use": "execution", **given})


@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(1000)"])
def test_an_endless_program_is_stopped(program: str) -> None:
    began = time.monotonic()
    assert tried(program) == Ended(False, None, "out of time")
    assert time.monotonic() - began < 30


def test_a_program_that_stops_its_own_clock_is_stopped() -> None:
    deaf = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nsignal.setitimer(signal.ITIMER_REAL, 0)\n"
    assert tried(deaf + "while True: pass") == Ended(False, None, "out of time")


COUNTING = """
import os, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(1000)
        made += 1
except OSError:
    raise SystemExit(made)
"""


def test_a_fork_bomb_is_stopped_and_nothing_of_it_stays() -> None:
    ended = tried(COUNTING)
    assert ended.why is not None and 0 < int(ended.why.removeprefix("SystemExit: ")) <= 16
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    assert tried(bomb) == Ended(False, None, "out of time")
    threads = "import threading, time\nfor _ in range(99): threading.Thread(target=time.sleep, args=(99,)).start()"
    assert tried(threads).why == "RuntimeError: can't start new thread"
    assert _inside() == set()


def _inside() -> set[int]:
    """Processes of this machine that are the sandbox's, once those that were told to end have had time for it."""
    began = time.monotonic()
    while (found := set(filter(_is_inside, Path("/proc").glob("[0-9]*")))) and time.monotonic() - began < 5:
        time.sleep(0.1)
    return {int(entry.name) for entry in found}


def _is_inside(process: Path) -> bool:
    try:
        return b"rewards/_inside.py" in (process / "cmdline").read_bytes()
    except OSError:
        return False


def test_a_process_that_is_left_behind_is_ended_before_the_next_case() -> None:
    daemon = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    while True: open('out', 'w').write('ð'); time.sleep(.001)\n"
    [first, second] = run(daemon + "import time; time.sleep(.1)\nprint(input())", ["á\n", "ø\n"], LIMITS, inputs=True)
    assert first.right and second.right
    assert _inside() == set()


@pytest.mark.parametrize("address", ["1.1.1.1", "127.0.0.1"])
def test_there_is_no_network(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):  # here it can be reached
            pass
        ended = tried(f"import socket; socket.create_connection(({address!r}, {port}), 2)")
    assert not ended.right and "unreachable" in (ended.why or "")


@pytest.mark.usefixtures("whoever")
def test_a_write_outside_its_own_folder_is_stopped(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    places = (tmp_path, Path("/tmp"), Path("/usr"), Path("/"), Path("/w/.."), Path(sys.base_prefix) / "lib")
    for outside in (place / f"{tmp_path.parent.name}-{tmp_path.name}.txt" for place in places):
        ended = tried(f"open({str(outside)!r}, 'w').write('ð')")
        assert not ended.right, outside
        assert ("No such file" if outside.parts[1] == "tmp" else "Read-only") in (ended.why or ""), outside
        assert not outside.exists()
    assert tried("open('own.txt', 'w').write('ð')", "assert open('/w/own.txt').read() == 'ð'").right


@pytest.mark.usefixtures("whoever")
def test_what_is_not_its_own_cannot_be_read_removed_or_signalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "canary-7c1f")
    secret = tmp_path / "secret"
    secret.write_text("canary-7c1f")
    tmp_path.chmod(0o777)
    secret.chmod(0o666)
    for program in (
        f"open({str(secret)!r}).read()",
        f"import os; os.remove({str(secret)!r})",
        "open('/etc/passwd').read()",
        "open('/proc/1/environ').read()",
        "import os; os.environ['API_KEY']",
        f"import os; os.kill({os.getpid()}, 9)",
        "import os; os.listdir('/root')[0]" if sys.base_prefix.startswith("/usr") else "open('/dev/sda')",
    ):
        assert not tried(program).right, program
    assert secret.read_text() == "canary-7c1f"
    assert tried("import os", "assert 'canary' not in str(dict(os.environ))").right


@pytest.mark.usefixtures("whoever")
def test_it_can_gain_no_rights() -> None:
    call = "import ctypes\nlibc = ctypes.CDLL(None)\nif libc.{}: raise OSError('no')"
    calls = (
        "unshare(0x10000000)",
        "mount(b't', b'/usr', b'tmpfs', 0, None)",
        "umount2(b'/usr', 2)",
        "sethostname(b'x', 1)",
    )
    for name in calls:
        assert tried(call.format(name)).why == "OSError: no", name
    assert not tried("import os; os.chroot('/w')").right
    assert not tried("import os; os.mknod('x', 0o20666, os.makedev(1, 1))").right


def test_memory_files_and_output_have_an_end() -> None:
    for program, said in (
        ("x = bytearray(1 << 30)", "MemoryError"),
        ("open('x', 'wb').write(b'x' * (2 << 20))", "File too large"),
        ("for i in range(99): open(str(i), 'wb').write(b'x' * (1 << 20))", "No space left"),
        ("f = [open('x', 'wb') for _ in range(99)]", "Too many open files"),
        ("def f(): f()\nf()", "RecursionError"),
    ):
        assert said in (tried(program).why or ""), program
    [ended] = run("while True: print('ð' * 1000)", [""], LIMITS, inputs=True)
    assert not ended.right and len(ended.output or "") <= 1 << 20


def test_cases_do_not_see_each_others_files() -> None:
    program = "import os\nassert 'left' not in os.listdir()\nos.makedirs('left/deep')\nopen('left/deep/x', 'w')"
    assert [ended.right for ended in run(program, ["", ""], LIMITS, inputs=True)] == [True, True]


def test_a_program_crash_is_a_failure_and_says_how() -> None:
    assert tried("import ctypes; ctypes.string_at(0)").why == "ended by SIGSEGV"
    assert tried("import os, signal; os.kill(os.getpid(), signal.SIGTERM)").why == "ended by SIGTERM"
    assert tried("raise ValueError('\\ud800')").right is False


def test_the_program_does_not_hold_its_test() -> None:
    spy = """
import gc, sys
frame, seen = sys._getframe(), ''
while frame:
    seen += str(frame.f_locals)[:10000]
    frame = frame.f_back
seen += ''.join(o for o in gc.get_objects() if isinstance(o, str))
told = 'sec' + 'ret-canary' in seen
"""
    assert tried(spy, "'secret-canary'; assert not told").right


def test_a_machine_that_cannot_fence_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refusal, match="util-linux"):
        run("", ["pass"], LIMITS, inputs=False)
    (tmp_path / "unshare").write_text("#!/bin/sh\necho unshare failed: Operation not permitted >&2\nexit 1\n")
    (tmp_path / "unshare").chmod(0o755)
    with pytest.raises(Refusal, match=r"cannot be fenced on this machine .*Operation not permitted"):
        run("", ["pass"], LIMITS, inputs=False)


def test_the_inner_side_alone_does_nothing() -> None:
    inside = Path(component.__code__.co_filename).with_name("_inside.py")
    done = subprocess.run([sys.executable, str(inside)], input=b"", capture_output=True, check=False)
    assert done.returncode == 1 and b"not the first process" in done.stderr
