"""Trackers: where a run's metrics go beside the lake. A new one is one file here and its line in TRACKERS.

Gets the rows of metrics.jsonl as they are written. A tracker that is unknown or not installed is refused before anything is read;
one that fails later is said once and left: tracking never ends a run. A resumed run goes on in the tracker's own run."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from data.refusal import Refusal, nearest

TRACKERS = ("trackio", "wandb", "tensorboard")  # each a module here, named as the package that it needs
CREDENTIAL = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.I)  # names of variables
SHORTEST = 8  # characters of a value that is taken for a credential's: "true" in SAVE_TOKEN is none


@dataclass(frozen=True)
class Tracked:
    """What a tracker is told of a run. `id`: the same for all that resume it, and no other run's."""

    name: str
    id: str
    project: str
    folder: Path
    recipe: Mapping[str, Any]
    done: int
    """Steps that the run has behind it: above 0 it is resumed, and what was logged after them is logged again."""
    resumed: bool


class Tracker(Protocol):
    """One tracker's run: made by its module's `open`."""

    where: str
    """Where a person finds it."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One step's figures, finite all."""

    def close(self, status: str) -> None:
        """The end: the run's status in the journal, or `unfinished`."""


def check(names: Sequence[str]) -> None:
    """Refuse trackers that do not exist or are not installed."""
    for name in names:
        if name not in TRACKERS:
            raise Refusal(f"no tracker named {name!r}: {nearest(name, TRACKERS)}", f"trackers=[{TRACKERS[0]}]")
        if importlib.util.find_spec(name) is None:
            raise Refusal(f"trackers names {name}, which is not installed", f"pip install {name}")


def new_id(name: str) -> str:
    """An id for a run that begins; a later run of the same name has another."""
    return f"{name}-{secrets.token_hex(4)}"


class Trackers:
    """All trackers of one run; each works until its first failure."""

    def __init__(self, say: Callable[[str], None]):
        self.say = say
        self.open: dict[str, Tracker] = {}

    def begin(self, names: Sequence[str], run: Tracked) -> None:
        """Open each tracker and say where it is."""
        for name in names:
            with self._guarded(name), contextlib.redirect_stdout(io.StringIO()):  # they greet at length
                module = importlib.import_module(f"trainer.trackers.{name}")
                self.open[name] = module.open(run)
        for name, tracker in self.open.items():
            self.say(f"tracked by {name}: {tracker.where}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One step's figures, to each tracker that still works."""
        for name, tracker in list(self.open.items()):
            with self._guarded(name):
                tracker.log(step, values)

    def close(self, status: str) -> None:
        """End each tracker's run."""
        for name, tracker in list(self.open.items()):
            with self._guarded(name), contextlib.redirect_stdout(io.StringIO()):
                tracker.close(status)

    @contextlib.contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Whatever a tracker raises, the network's errors among it, ends its use and nothing else."""
        try:
            yield
        except Exception as error:
            self.open.pop(name, None)
            words = hidden(" ".join(str(error).split()), credentials())
            self.say(f"tracker {name} failed and is left; the run goes on: {type(error).__name__}: {words}")


@contextlib.contextmanager
def tracking(names: Sequence[str], run: Callable[[], Tracked], say: Callable[[str], None]) -> Iterator[Trackers]:
    """The run's trackers, closed as unfinished after an exception; else their user closes them with the run's status."""
    trackers = Trackers(say)
    if names:
        trackers.begin(names, run())
    try:
        yield trackers
    except BaseException:
        trackers.close("unfinished")
        raise


def credentials() -> list[str]:
    """Values of environment variables that are named like a credential."""
    return [value for name, value in os.environ.items() if CREDENTIAL.search(name) and len(value) >= SHORTEST]


def without_secrets(value: Any, secret: Sequence[str] | None = None) -> Any:
    """A recipe's plain values, where texts that hold a credential of the environment say (hidden) instead."""
    secret = credentials() if secret is None else secret
    if isinstance(value, Mapping):
        return {str(key): without_secrets(inner, secret) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(inner, secret) for inner in value]
    return hidden(value, secret) if isinstance(value, str) else value


def hidden(text: str, secret: Sequence[str]) -> str:
    """A text without the credentials in it.

    >>> hidden("https://me:sk-123456@host", ["sk-123456"])
    'https://me:(hidden)@host'
    """
    for value in sorted(secret, key=len, reverse=True):
        text = text.replace(value, "(hidden)")
    return text
