"""Faroese number words as digits: "tveir og tjúgu" is 22, "hálvtrýss" and "fimmti" are 50. No files.

Read are the forms of both ways of counting, in all genders, put together as they are said: units before or behind tens, with or
without "og", apart or in one word; hundreds, thousands, millions. Not read: ordinals, fractions, datives such as "trimum" beside a
noun's case. A lone "ein" or "eitt" is the article, and counts where the text says nothing else."""

from __future__ import annotations

import re

from factory.rewards.text import nfc

ONE = ("ein", "eitt", "einar", "einir", "eini")
UNITS = dict.fromkeys(ONE, 1) | {
    "tveir": 2, "tvær": 2, "tvey": 2, "tríggir": 3, "tríggjar": 3, "trý": 3, "fýra": 4, "fimm": 5, "seks": 6, "sjey": 7,
    "átta": 8, "níggju": 9,
}  # fmt: skip
TEENS = {
    "null": 0, "tíggju": 10, "ellivu": 11, "tólv": 12, "trettan": 13, "fjúrtan": 14, "fimtan": 15, "sekstan": 16, "seytjan": 17,
    "átjan": 18, "nítjan": 19,
}  # fmt: skip
TENS = {
    "tjúgu": 20, "tretivu": 30, "tríati": 30, "fjøruti": 40, "fýrati": 40, "hálvtrýss": 50, "fimmti": 50, "trýss": 60,
    "seksti": 60, "hálvfjerðs": 70, "hálvfjers": 70, "sjeyti": 70, "fýrs": 80, "áttati": 80, "hálvfems": 90, "níti": 90,
}  # fmt: skip
SCALES = {
    "túsund": 1_000, "millión": 1_000_000, "milliónir": 1_000_000, "milliónum": 1_000_000, "milliard": 1_000_000_000,
    "milliardir": 1_000_000_000, "milliardum": 1_000_000_000,
}  # fmt: skip
HUNDRED = "hundrað"


def _any(words: dict[str, int]) -> str:
    return "(?:" + "|".join(sorted(words, key=len, reverse=True)) + ")"


_AND, _OR_NOT = r"\s*og\s*", r"\s+(?:og\s+)?"
_SMALL = (
    f"(?:{_any(UNITS)}{_AND}{_any(TENS)}|{_any(TENS)}(?:{_AND}|\\s+){_any(UNITS)}"
    f"|{_any(TENS)}|{_any(TEENS)}|{_any(UNITS)})(?!\\w)"
)
_BEFORE = f"(?:{_any(TENS)}|{_any(TEENS)}|{_any(UNITS)})"  # in one word with what it counts: "tveyhundrað"
_GROUP = f"(?:(?:{_BEFORE}\\s*)?{HUNDRED}(?!\\w)(?:{_OR_NOT}{_SMALL})?|{_SMALL})"
_SCALED = f"(?:(?:{_GROUP}\\s+)?|{_BEFORE}){_any(SCALES)}(?!\\w)"
_NUMBER = re.compile(f"(?<!\\w)(?:{_SCALED}(?:{_OR_NOT}{_SCALED})*(?:{_OR_NOT}{_GROUP})?|{_GROUP})", re.IGNORECASE)
_WORD = re.compile("|".join(sorted([*UNITS, *TEENS, *TENS, *SCALES, HUNDRED], key=len, reverse=True)), re.IGNORECASE)


def as_digits(text: str) -> str:
    """The text (NFC) with its number words written in digits.

    >>> as_digits("Tveir og tjúgu bátar, tvey túsund trý hundrað og ein fiskur; ein maður")
    '22 bátar, 2301 fiskur; ein maður'
    """
    whole = nfc(text)
    bare = whole.strip(" \t\n.,:;!?()\"'*").casefold()
    if bare in ONE:
        return "1"
    return _NUMBER.sub(lambda found: found[0] if found[0].casefold() in ONE else str(value(found[0])), whole)


def value(words: str) -> int:
    """The number that a run of number words says.

    >>> value("seytjan"), value("hundrað og fimm og tretivu"), value("einogtjúgu")
    (17, 135, 21)
    """
    total, current, counted = 0, 0, False
    for found in _WORD.finditer(words):
        word = found[0].casefold()
        if word in SCALES:
            total, current, counted = total + (current if counted else 1) * SCALES[word], 0, False
        elif word == HUNDRED:
            current, counted = (current if counted else 1) * 100, True
        else:
            current, counted = current + (UNITS | TEENS | TENS)[word], True
    return total + current
