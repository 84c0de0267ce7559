"""Whether the sample's Python program passes the prompt's tests, run in a sandbox. Off unless the recipe writes `allow: true`.

Range: [0, 1]; 1 right, 0 wrong (or the share of tests that pass), missing where the sample holds no program or the prompt no test.
Cost: some .1 s a sample and the programs' own time, on all processors. Linux only; what the sandbox stops and what it does not is
said in `_sandbox`: read it before you allow this. Cannot see: style, speed within the limit, whether the tests are any good; a
program may pass by heart, or by an object that equals everything. A machine under load can run a slow program out of time.
Tests stand in the prompts' references, or in a column of theirs: texts of Python, run after the program in its own names, which
raise where it is wrong ("assert tvífalda(2) == 4"); or {"input": "2\\n", "output": "4"}, what it reads and must print (white space
at the ends of lines aside)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from data.refusal import Refusal
from factory.rewards import Batch, Reward
from factory.rewards._sandbox import Ended, Limits, refuse_unfenced, run
from factory.rewards.text import answer_span, nfc, visible

VERSION = 1
NEEDS = frozenset({"references", "answer_patterns"})
RANGE = (0.0, 1.0)
TOLD = 120  # characters of a failure's text
_FENCE = re.compile(r"^[ \t]*```(?:python3?|py)?[ \t]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Settings:
    """Where program and tests stand, and what a program may use."""

    allow: bool = False
    """true: programs that a model wrote may run on this machine."""
    tests: str = "references"
    """references, or the prompts' column that holds the tests: a text, {input, output}, or a list of them."""
    program: Literal["fence", "answer"] = "fence"
    """The last fenced block of Python after the thinking; or the answer span, by the prompt's pattern."""
    partial: bool = False
    """Whether the value is the share of tests that pass, instead of 1 for all of them."""
    seconds: int = 5
    """Processor seconds of a test; four times as many by the clock."""
    megabytes: int = 512
    """Memory of a process."""

    def __post_init__(self) -> None:
        if not self.allow:
            raise ValueError("execution runs programs that a model wrote; write `allow: true` where that is meant")
        if self.seconds < 1 or self.megabytes < 64:
            raise ValueError("a program gets at least 1 second and 64 megabytes")
        refuse_unfenced()


def needs(settings: Settings) -> frozenset[str]:
    """The references where the tests stand there, and the patterns where the program is the answer."""
    own = {"references"} if settings.tests == "references" else set()
    return frozenset(own | ({"answer_patterns"} if settings.program == "answer" else set()))


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample."""
    assert settings.allow  # its __post_init__ refuses; no other way leads to running anything
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(lambda sample: _one(batch, sample, settings), range(len(batch))))


def _one(batch: Batch, sample: int, settings: Settings) -> Reward:
    program = program_in(batch.texts[sample], settings.program, batch.answer_patterns[sample])
    if not program:
        return Reward.missing("no program")
    told = batch.columns.get(settings.tests) if settings.tests != "references" else batch.references
    tests = _tests(told[sample] if told else None, settings)
    if not tests:
        return Reward.missing(f"no tests in {settings.tests}")
    failures = _failures(program, tests, Limits(settings.seconds, settings.megabytes))
    passed = len(tests) - len(failures)
    detail = f"{passed} of {len(tests)} tests; {failures[0]}" if failures else None
    return Reward(passed / len(tests) if settings.partial else float(not failures), detail=detail)


def program_in(text: str, where: str, pattern: str | None = None) -> str | None:
    """The program in a sample, NFC; None where there is none.

    >>> program_in("Hetta er:\\n```python\\nx = 1\\n```\\nGott!", "fence")
    'x = 1\\n'
    """
    if where == "answer":
        return answer_span(text, pattern)
    blocks = _FENCE.findall(visible(nfc(text)))
    return blocks[-1] if blocks and blocks[-1].strip() else None


def _tests(told: Any, settings: Settings) -> list[Any]:
    tests = told if isinstance(told, list) else [told]
    tests = [test for test in tests if test not in (None, "")]
    pairs = [
        isinstance(test, dict) and all(isinstance(test.get(k), str) for k in ("input", "output")) for test in tests
    ]
    if not (all(pairs) or all(isinstance(test, str) for test in tests)):
        raise Refusal(
            f"execution: {settings.tests} holds {str(tests)[:80]}, no tests",
            "give texts of Python that raise, or {input, output} pairs; one kind a prompt",
        )
    return tests


def _failures(program: str, tests: Sequence[Any], limits: Limits) -> list[str]:
    """What became of each test that did not pass, in order."""
    if isinstance(tests[0], str):
        return [_told(ended) for ended in run(program, tests, limits, inputs=False) if not ended.right]
    ends = run(program, [test["input"] for test in tests], limits, inputs=True)
    return [
        "another output" if ended.right else _told(ended)
        for ended, test in zip(ends, tests, strict=True)
        if not ended.right or _lines(ended.output or "") != _lines(test["output"])
    ]


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _told(ended: Ended) -> str:
    return "".join(c if c.isprintable() else " " for c in ended.why or "")[:TOLD]
