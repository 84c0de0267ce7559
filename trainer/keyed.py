"""The edge of the small commands, which take a few keys and no recipe: key=value words in, one frozen dataclass out.

Reads no files. Refuses unknown keys with the nearest name, keys without a value, and values of another type. Exit code 2 for a
refusal. `--help` prints every key with the line under its field; `--debug` shows tracebacks."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from data.command import INTERRUPTED, interrupted
from data.refusal import Refusal, nearest
from data.settings import rows
from data.structured import thawed


@dataclass(frozen=True)
class Keyed:
    """One command: the module behind `python -m`, its settings, what it does and what `--help` says first."""

    name: str
    settings: type
    body: Callable[[Any], None]
    description: str
    examples: Sequence[str]

    def main(self, argv: Sequence[str]) -> int:
        """Run the command and return its exit code."""
        words = [word for word in argv if word != "--debug"]
        if {"-h", "--help"} & set(words):
            print(self.help())
            return 0
        if len(words) < len(argv):
            self.body(self.parsed(words))
            return 0
        try:
            self.body(self.parsed(words))
        except Refusal as refusal:
            print(refusal, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(interrupted(self.name, argv), file=sys.stderr)
            return INTERRUPTED
        return 0

    def help(self) -> str:
        """The text of `--help`."""
        examples = "\n".join(["Examples:", *(f"  {example}" for example in self.examples)])
        settings = "\n".join(["Settings (key=value):", *rows(self.settings, "")])
        return "\n\n".join([self.description, examples, settings])

    def parsed(self, words: Sequence[str]) -> Any:
        """The settings that the words give. Raises Refusal."""
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError

        known = [f.name for f in dataclasses.fields(self.settings)]
        for word in words:
            key, equals, _ = word.partition("=")
            if not equals:
                raise self.refusal(f"{word!r} is no setting of the form key=value")
            if key not in known:
                raise self.refusal(f"no setting named {key!r}: {nearest(key, known)}")
        with thawed(self.settings):
            try:
                node = OmegaConf.merge(OmegaConf.structured(self.settings), OmegaConf.from_dotlist(list(words)))
                if missing := sorted(str(key) for key in OmegaConf.missing_keys(node)):
                    raise self.refusal(f"{missing[0]}=… is not given")
                return OmegaConf.to_object(node)
            except (OmegaConfBaseException, YAMLError) as error:
                raise self.refusal(" ".join(str(error).split("full_key")[0].split())) from error

    def refusal(self, what: str) -> Refusal:
        """A refusal whose next command is this one's help."""
        return Refusal(what, f"python -m {self.name} --help")
