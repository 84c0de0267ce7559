"""The words that this process was called with, so that a "next:" command says again what its reader would have to remember.

`data.command` keeps them while a job runs. A refusal's next command repeats the flags and every override that the named command
reads; where nothing was typed (a recipe made in Python, a worker) it names the recipe alone. Reads and writes nothing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from data.refusal import Refusal

VALUED_FLAGS = ("--config-dir",)  # of those that are repeated: a sweep's own flag is not


@dataclass(frozen=True)
class Typed:
    """One job's command line."""

    section: str
    """factory or trainer: whose command was called."""
    flags: tuple[str, ...] = ()
    """--config-dir and its folder."""
    words: tuple[str, ...] = ()
    """Overrides as they were typed; of a sweep, those of this job."""
    own: frozenset[str] = frozenset()
    """Keys of the section, which the other command does not read."""
    told: set[str] = field(default_factory=set)
    """Lines that the jobs of this sweep have printed already."""

    @classmethod
    def of(cls, section: str, argv: Sequence[str], own: Iterable[str]) -> Typed:
        """The command line divided; flags of a sweep are left out."""
        flags, overrides = divided(argv)
        kept = [flags[i : i + 2] for i, flag in enumerate(flags) if flag in VALUED_FLAGS]
        return cls(section, tuple(word for pair in kept for word in pair), tuple(overrides), frozenset(own))

    def again(self, section: str, given: Sequence[str] = (), without: Iterable[str] = ()) -> str:
        """`python -m SECTION` with these words again, those that it does not read left out, and `given` in place of their keys.

        >>> Typed("trainer", ("--config-dir", "my confs"), ("recipe=mine", "steps=5", "sampling.n=4"), frozenset({"steps"})).again(
        ...     "factory", ["lake=data/lake", "stages=[samples]"])
        "python -m factory recipe=mine --config-dir 'my confs' sampling.n=4 lake=data/lake 'stages=[samples]'"
        """
        dropped = {key_of(word) for word in given} | set(without) | {"hydra"}
        words = [w for w in self.words if not self._keys(w) & dropped and self._reads(section, w)]
        recipe = [word for word in words if key_of(word) == "recipe"]
        rest = [word for word in words if key_of(word) != "recipe"]
        return shlex.join(["python", "-m", section, *recipe, *self.flags, *rest, *given])

    def _keys(self, word: str) -> set[str]:
        """How a word's key may be named: trainer.replay.prompts is replay.prompts and lies in replay."""
        own = word.removeprefix(f"{self.section}.")
        return {key_of(word), first_of(word), key_of(own), first_of(own)} - {self.section}

    def _reads(self, section: str, word: str) -> bool:
        return section == self.section or first_of(word) not in self.own | {self.section}


def divided(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(flags with their values, overrides): argparse wants the flags before all overrides."""
    flags, overrides, words = [], [], iter(argv)
    for word in words:
        if word in ("-m", "--multirun"):
            flags.append(word)
        elif own := folder_flag(word, words):
            flags += own
        else:
            overrides.append(word)
    return flags, overrides


def folder_flag(word: str, rest: Iterator[str]) -> list[str]:
    """The flag and its folder, of `--config-dir DIR` (taken from `rest`) or `--config-dir=DIR`; nothing for another word.

    Raises Refusal where no folder is named."""
    flag, equals, folder = word.partition("=")
    if flag not in VALUED_FLAGS:
        return []
    folder = folder if equals else next(rest, "")
    if not folder:
        raise Refusal(f"{flag} names no folder", f"{flag} FOLDER, where FOLDER/recipe/NAME.yaml is")
    return [flag, folder]


def key_of(word: str) -> str:
    """What stands before the equals sign."""
    return word.partition("=")[0]


def first_of(word: str) -> str:
    """The key's first name: trainer of trainer.steps=5, model of model@teacher=gpt4."""
    return re.split(r"[.@]", key_of(word))[0]


_now: list[Typed] = []


@contextmanager
def typing_of(typed: Typed) -> Iterator[None]:
    """While a job runs, these are its words."""
    _now.append(typed)
    try:
        yield
    finally:
        _now.pop()


def now() -> Typed | None:
    """The words of the job that runs; None where none were typed."""
    return _now[-1] if _now else None


def again(section: str, recipe: str, given: Sequence[str] = (), without: Iterable[str] = ()) -> str:
    """The next command: what was typed, as far as that command reads it, with `given`; else the recipe's name and `given`.

    >>> again("trainer", "demo", ["run=second"])
    'python -m trainer recipe=demo run=second'
    """
    typed = now() or Typed(section, words=(f"recipe={recipe}",))
    return typed.again(section, given, without)


def words() -> list[str] | None:
    """Flags and overrides of the job that runs, for its record; None where none were typed."""
    typed = now()
    return None if typed is None else [*typed.flags, *typed.words]


def first_time(line: str) -> bool:
    """Whether no job before this one in the same sweep has said the line; it is remembered as said."""
    typed = now()
    if typed is None:
        return True
    new = line not in typed.told
    typed.told.add(line)
    return new
