"""The one exception for mistakes that their reader can repair.

Every command prints it as at most three lines (what and where, then the next command) and exits with code 2."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from urllib.parse import urlsplit


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
        what, next_command = (_one_line(part) for part in self.args)
        return f"error: {what}\n       next: {next_command}"


def _one_line(text: str) -> str:
    """Without line breaks and control characters: words of a server or a file must not move the cursor or pass for a command.

    >>> _one_line("no\\n       next: rm \\x1b[2J")
    'no        next: rm  [2J'
    """
    return "".join(c if c.isprintable() else " " for c in str(text))


def in_range(name: str, value: float | None, low: float, high: float = math.inf, *, command: str = "factory") -> None:
    """Refuse a number below `low`, above `high`, or not finite; None is off and passes."""
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        raise Refusal(f"{name}={value} is outside {low:g} … {high:g}", f"python -m {command} --help")


def is_address(url: str) -> bool:
    """Whether a text is an http address that can be connected to.

    >>> [is_address(url) for url in ("https://host:8000/v1", "host/v1", "http://", "http://host:99999")]
    [True, False, False, False]
    """
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, or none below 65536
        return False


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """A clause naming the nearest known name, or the list of them where none is as near as `cutoff` (1: the same).

    >>> nearest("agrement", ["agreement", "length"])
    "did you mean 'agreement'?"
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
