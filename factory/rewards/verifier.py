"""Whether the sample's last number, or its choice among letters, equals the reference's.

Range: 0 or 1. Cost: microseconds. Cannot see: the way there; number words, fractions, units; a right number followed
by another one. A numeral is read European or English (1.234,5 or 1,234.5): "1.234" equals 1234 and 1.234 unless
`decimal` says which."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from factory.rewards import Batch, Reward
from factory.rewards._numerals import numerals
from factory.rewards.text import answer_span, compiled, nfc

VERSION = 1
NEEDS = frozenset({"references", "answers", "answer_patterns"})
RANGE = (0.0, 1.0)
_MARKER = r"(?:svar(?:ið|i|et)?|answer|rætt|choice|boxed)"  # words before a choice: Faroese, Danish, English, LaTeX
Notation = Literal["comma", "point", "either"]


@dataclass(frozen=True)
class Settings:
    """What is compared and how numbers are written."""

    kind: Literal["numbers", "choices"] = "numbers"
    """The last number, or the chosen letter."""
    to: Literal["references", "answers"] = "references"
    """The prompt's references, or the teacher's answers; one that fits is enough."""
    tolerance: float = 1e-6
    """Largest absolute difference of two equal numbers."""
    decimal: Notation = "either"
    """The sample's decimal sign, where a numeral could be read both ways."""
    target_decimal: Notation = "either"
    """The reference's decimal sign: `point` for references such as 1.234 written by a program."""
    choices: str = "ABCD"
    """The letters to choose among."""
    pattern: str | None = None
    """Regular expression of the answer; default: the prompt's own, else the text after thinking."""

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise ValueError(f"tolerance is {self.tolerance}, a difference is at least 0")
        if not self.choices.isalpha():
            raise ValueError(f"choices are letters such as ABCD, not {self.choices!r}")
        if self.pattern is not None:
            compiled(self.pattern)


def needs(settings: Settings) -> frozenset[str]:
    """The list compared with, and the prompts' patterns where the recipe gives none."""
    return frozenset({settings.to} | ({"answer_patterns"} if settings.pattern is None else set()))


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """1 or 0 a sample; missing where no reference holds a number or a choice."""
    return [_one(batch, sample, settings) for sample in range(len(batch))]


def _one(batch: Batch, sample: int, settings: Settings) -> Reward:
    pattern, right = settings.pattern or batch.answer_patterns[sample], KINDS[settings.kind]
    # A reference may be the bare answer already: then the pattern does not find it.
    targets = [answer_span(t, pattern) or nfc(t) for t in batch.targets(sample, settings.to)]
    verdicts = [right(answer_span(batch.texts[sample], pattern) or "", target, settings) for target in targets]
    known = [verdict for verdict in verdicts if verdict is not None]
    if not known:
        return Reward.missing(f"no {settings.to} with one of the {settings.kind}")
    return Reward(float(any(known)))


def _numbers(text: str, target: str, settings: Settings) -> bool | None:
    theirs, ours = numerals(target, settings.target_decimal), numerals(text, settings.decimal)
    if not theirs:
        return None
    return bool(ours) and any(abs(a - b) <= settings.tolerance for a in ours[-1] for b in theirs[-1])


def _choices(text: str, target: str, settings: Settings) -> bool | None:
    wanted = choice(target, settings.choices)
    return None if wanted is None else choice(text, settings.choices) == wanted


def choice(text: str, letters: str) -> str | None:
    """The letter chosen: the text itself, else the last after a marker ("svarið er B"), else the last set apart by
    brackets, a dot or a colon, else the last capital that stands alone and opens no phrase ("A dog" is none).

    >>> choice("Svarið er (b).", "ABCD"), choice("B) Tórshavn", "ABCD"), choice("A dog", "ABCD")
    ('B', 'B', None)
    """
    bare = text.strip(" \t\n.,:;()[]{}*\"'")
    if len(bare) == 1 and bare.upper() in letters.upper():
        return bare.upper()
    upper, lower = f"[{letters.upper()}]", f"[{letters.lower()}]"
    for expression in (
        rf"(?i:\b{_MARKER})\b[\s:=]*(?:(?i:er|is)\b)?[\s:=]*[({{\[*]*(?:({upper})(?!\w)|({lower})(?!\w|\s+\w))",
        rf"[(\[{{*]({upper}|{lower})[)\]}}*]|(?<!\w)({upper})[).:](?!\w)",
        rf"(?<!\w)({upper})(?!\w)(?!\s+\w)",
    ):
        found = re.findall(expression, text)
        if found:
            return "".join(found[-1]).upper()
    return None


KINDS: dict[str, Callable[[str, str, Settings], bool | None]] = {"numbers": _numbers, "choices": _choices}
