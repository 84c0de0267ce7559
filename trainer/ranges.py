"""Checks of single settings, shared by the config modules. Reads and writes nothing."""

from __future__ import annotations

import functools
from typing import Any

from data import refusal
from data.refusal import Refusal, nearest

NEXT = "python -m trainer recipe=demo"
in_range = functools.partial(refusal.in_range, command="trainer")


def one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Refuse a word that is none of the known ones."""
    if value not in known:
        raise Refusal(f"{name}={value}: {nearest(str(value), known)}", f"{NEXT} {name}={known[0]}")
