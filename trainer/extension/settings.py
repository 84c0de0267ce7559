"""Settings of `python -m trainer.extend`. Reads and writes nothing and imports no torch, so that `--help` stays light.

Refuses numbers outside their range and another start."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from data.refusal import Refusal, in_range, nearest

COMMAND = "trainer.extend"
STARTS = ("pieces", "random")


@dataclass(frozen=True)
class ExtendSettings:
    """Which tokens a student is given."""

    run: str = MISSING
    """Name of the new model: runs/NAME/final."""
    tokens: int = 4000
    """New tokens at most; fewer where the corpus gives no more."""
    min_count: int = 10
    """How often a new token must occur in the documents that it is learned from."""
    start: str = "pieces"
    """pieces: a new row is the mean of the rows of the old tokens that it stands for. random: drawn, to compare with."""
    corpus: str | None = None
    """Which of the recipe's corpora the tokens are learned from; null: all of them."""
    text: str | None = None
    """A .jsonl file with the column `text`, or a text of one document a line, in place of the lake's corpora."""

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise Refusal(
                f"no start named {self.start!r}: {nearest(self.start, STARTS)}", f"python -m {COMMAND} --help"
            )
        if self.corpus is not None and self.text is not None:
            raise Refusal("corpus= and text= are both given", f"python -m {COMMAND} --help")
        in_range("tokens", self.tokens, 1, command=COMMAND)
        in_range("min_count", self.min_count, 1, command=COMMAND)
