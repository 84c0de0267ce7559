"""Progress of a stage or a copy: a bar with rate and time left on a terminal, else a line now and then. Writes to stderr only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_EVERY = 10.0  # seconds between lines where there is no terminal


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of items just done."""
    if sys.stderr.isatty():
        yield from _bar(what, total, unit)
    else:
        yield from _lines(what, total, unit)


def _bar(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    with Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), console=Console(stderr=True)
    ) as bar:
        task, began, done = bar.add_task(what, total=total, rate=""), time.monotonic(), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar.update(task, advance=count, rate=f"{_rate(done, began):,.1f} {unit}/s")

        yield advance


def _lines(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    began = last = 0.0
    done = 0

    def advance(count: int) -> None:
        nonlocal began, done, last
        began = began or time.monotonic()  # the model's loading is no part of the rate
        last = last or began
        done += count
        if time.monotonic() - last >= LINE_EVERY:
            last, rate = time.monotonic(), _rate(done, began)
            left = (total - done) / rate
            print(f"{what}: {done:,}/{total:,} {unit}, {rate:,.1f}/s, {left:,.0f} s left", file=sys.stderr, flush=True)

    yield advance


def _rate(done: int, began: float) -> float:
    return done / max(time.monotonic() - began, 1e-9)
