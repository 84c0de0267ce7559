"""Share of the sample's letters that belong to a language's alphabet.

Range: [0, 1]. Cost: a microsecond a word. Cannot see: words at all ("abba" is Faroese to it). Foreign names cost a
little (c, q, w, x, z). Digits, signs and emoji do not count; without a letter it is missing.
Faroese: 29 letters, no c q w x z, no å þ. ö stands for ø in older text (FarPaHC, so ScaLA-fo): write `also: ö` there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from factory.rewards import Batch, Reward
from factory.rewards.text import nfc

VERSION = 1
NEEDS: frozenset[str] = frozenset()
RANGE = (0.0, 1.0)
ALPHABETS = {"fo": "aábdðefghiíjklmnoóprstuúvyýæø"}
_LETTER = re.compile(r"[^\W\d_][\u0300-\u036f]*")  # a mark that NFC leaves apart makes another letter


@dataclass(frozen=True)
class Settings:
    """The alphabet."""

    language: Literal["fo"] = "fo"
    """A built-in alphabet."""
    letters: str | None = None
    """Another alphabet in its place, as a text: "abc…"; capitals are implied."""
    also: str = ""
    """Letters allowed beside it: ö for older Faroese, cqwxz for names."""


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample; missing where it has no letter."""
    chosen = ALPHABETS[settings.language] if settings.letters is None else settings.letters
    allowed = frozenset(_LETTER.findall(nfc((chosen + settings.also).lower())))
    return [_one(text, allowed) for text in batch.texts]


def _one(text: str, allowed: frozenset[str]) -> Reward:
    letters = _LETTER.findall(nfc(nfc(text).lower()))
    if not letters:
        return Reward.missing("no letters")
    return Reward(sum(letter in allowed for letter in letters) / len(letters))
