"""What components take for a text: NFC, words, the part after thinking, the answer's span. No files, no state.

NFD input gives what NFC input gives. Refuses an answer pattern that is no regular expression."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator

from data.refusal import Refusal

# A mark that NFC leaves apart belongs to the letter before it. Digits keep their separators: 1.234,5 is one word.
_LETTER = r"[^\W_][\u0300-\u036f]*"
_WORD = re.compile(rf"\d+(?:[.,]\d+)+|(?:{_LETTER})+(?:['’](?:{_LETTER})+)*")
_THINK = re.compile(r"<think>.*?</think>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_FOLD = str.maketrans({"ð": "d", "ø": "o", "æ": "ae", "þ": "th", "ł": "l", "đ": "d", "ı": "i"})


def nfc(text: str) -> str:
    """The text in Unicode normal form C."""
    return unicodedata.normalize("NFC", text)


def squash(text: str) -> str:
    """NFC, every run of white space as one space, none at the ends.

    >>> squash("  ja\\n takk ")
    'ja takk'
    """
    return " ".join(nfc(text).split())


def fold(text: str) -> str:
    """Casefolded, without accents, ø as o, ð as d: for names that languages spell differently.

    >>> fold("Brasília Ørsted")
    'brasilia orsted'
    """
    plain = unicodedata.normalize("NFD", text.casefold())
    return nfc("".join(c for c in plain if not unicodedata.combining(c)).translate(_FOLD))


def words(text: str, *, casefold: bool = True) -> list[str]:
    """Words and numbers in order, without punctuation; a hyphen parts words, an apostrophe within one does not.

    >>> words("Lundi-fuglurin er á 'Alvoy' (1.234,5)!")
    ['lundi', 'fuglurin', 'er', 'á', 'alvoy', '1.234,5']
    """
    return _WORD.findall(nfc(nfc(text).casefold()) if casefold else nfc(text))


def word_matches(text: str) -> Iterator[re.Match[str]]:
    """The words of `words` with their places in the NFC text, capitals kept."""
    return _WORD.finditer(nfc(text))


def visible(text: str) -> str:
    """The text without its thinking. A thought without an end leaves nothing; an end without a start (templates that
    open the thought themselves) leaves what follows it.

    >>> visible("<think>hm</think> ja"), visible("hm</think>ja"), visible("ja <think>hm")
    (' ja', 'ja', 'ja ')
    """
    return _THINK.sub("", text).rpartition("</think>")[2].partition("<think>")[0]


@functools.lru_cache(maxsize=256)
def compiled(pattern: str) -> re.Pattern[str]:
    """An answer pattern, NFC, dot matching newlines. Raises Refusal where it is no regular expression."""
    try:
        return re.compile(nfc(pattern), re.DOTALL)
    except re.error as error:
        raise Refusal(
            f"answer pattern {pattern!r} is no regular expression: {error}",
            "correct `answer_pattern` of the prompts, or the component's `pattern`",
        ) from error


def answer_span(text: str, pattern: str | None = None) -> str | None:
    """The answer in a text, NFC, stripped: after thinking, within the last <answer> tags if there are any, then the
    last match of the pattern (its group `answer`, else its first group, else the whole). None: the pattern finds none.

    >>> answer_span("<think>2+2</think>Svarið er 4.", r"er (\\d+)")
    '4'
    """
    span = visible(nfc(text))
    tagged = _ANSWER.findall(span)
    if tagged:
        span = tagged[-1]
    if pattern is None:
        return span.strip()
    expression = compiled(pattern)
    matches = list(expression.finditer(span))
    if not matches:
        return None
    group: int | str = "answer" if "answer" in expression.groupindex else min(expression.groups, 1)
    answer = matches[-1].group(group)
    return None if answer is None else answer.strip()


def part_of(text: str, part: str, pattern: str | None = None) -> str | None:
    """The whole text (NFC), or its answer span, by a component's `part` setting."""
    return nfc(text) if part == "text" else answer_span(text, pattern)
