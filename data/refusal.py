"""The one exception for mistakes that their reader can repair.

Every command prints it as at most three lines (what and where, then the next command) and exits with code 2."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


class Refusal(Exception):
    """What is wrong and where, in one sentence, with the command that repairs it.

    Both parts stay in `args`, so that the exception survives pickling between processes.
    >>> print(Refusal("no recipe named demmo", "python -m factory recipe=demo"))
    error: no recipe named demmo
           next: python -m factory recipe=demo
    """

    def __init__(self, what: str, next_command: str):
        super().__init__(what, next_command)

    def __str__(self) -> str:
        what, next_command = self.args
        return f"error: {what}\n       next: {next_command}"


def in_range(name: str, value: float | None, low: float, high: float = math.inf, *, command: str = "factory") -> None:
    """Refuse a number below `low`, above `high`, or not finite; None is off and passes."""
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        raise Refusal(f"{name}={value} is outside {low:g} … {high:g}", f"python -m {command} --help")


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause naming the nearest known name, or the list of them.

    >>> nearest("agrement", ["agreement", "length"])
    "did you mean 'agreement'?"
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
