"""Numbers in running text, European and English ones: 1.234,5 and 1,234.5 and 1 234 are read for what they can mean.

A numeral has a set of readings, since "1.234" is a thousand or one and a bit. Does not read number words, fractions,
powers or a decimal without its zero (".5")."""

from __future__ import annotations

import re

from factory.rewards.text import nfc

_GROUPED = r"\d{1,3}(?:[ \u00a0\u202f'’]\d{3})+(?!\d)(?:[.,]\d+)?"
# No digit that a letter precedes ("m2", "CO2"); a minus only where no word or bracket ends ("10-5" is a range).
_NUMERAL = re.compile(rf"(?:(?<![\w)])[-−])?(?<!\w)(?:{_GROUPED}|\d+(?:[.,]\d+)*)")
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:[.,]\d{3})+")


def numerals(text: str, decimal: str = "either") -> list[frozenset[float]]:
    """The readings of each numeral in the text, in order. `decimal`: comma, point, or either where it is ambiguous.

    >>> [sorted(readings) for readings in numerals("1.234,5 kr. fyri 1.234 fiskar og -3")]
    [[1234.5], [1.234, 1234.0], [-3.0]]
    """
    return [readings(token, decimal) for token in _NUMERAL.findall(nfc(text))]


def readings(token: str, decimal: str = "either") -> frozenset[float]:
    """What one numeral can mean; what has no reading as a whole ("12.10.2024") means its last piece.

    >>> sorted(readings("12,50")), sorted(readings("1.234", "comma")), sorted(readings("1.234", "point"))
    ([12.5], [1234.0], [1.234])
    """
    sign = -1.0 if token[0] in "-−" else 1.0
    body = token.lstrip("-−")
    found: set[float] = set()
    if " " in body:
        found |= readings(body.rpartition(" ")[2], decimal)  # "10 200" may be a list as well
    found |= _whole(re.sub(r"[ \u00a0\u202f'’]", "", body), decimal)
    return frozenset(sign * value for value in found)


def _whole(body: str, decimal: str) -> set[float]:
    separators = re.findall(r"[.,]", body)
    if not separators:
        return {float(body)}
    last, kinds = separators[-1], set(separators)
    if len(kinds) == 2:
        left, _, right = body.rpartition(last)
        if last not in left and _THOUSANDS.fullmatch(left):
            return {float(f"{re.sub('[.,]', '', left)}.{right}")}
        return {float(re.split("[.,]", body)[-1])}
    found = set()
    if _THOUSANDS.fullmatch(body) and not (len(separators) == 1 and decimal == {",": "comma", ".": "point"}[last]):
        found.add(float(body.replace(last, "")))
    if len(separators) == 1 and not (found and decimal != "either"):
        found.add(float(body.replace(",", ".")))
    return found or {float(body.rpartition(last)[2])}
