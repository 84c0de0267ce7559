"""Which words a language has: by a hunspell dictionary (a .dic with its .aff beside it) or by a list with one word a line.

Reads these files once, asks hunspell about a word once. Refuses a .dic that is none, and names the package where it is missing.
Hunspell by chunspell alone: spylls, in pure Python, took 13 ms a Faroese word where chunspell takes .03, and judged single capitals
otherwise, so that a value would have depended on what happens to be installed."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from data.refusal import Refusal
from factory.rewards._files import Stamp, affixes, stamp, word_set
from factory.rewards.text import word_matches

MOST_WORDS = 300_000  # remembered at once, some 50 MB; a pool has fewer, gibberish has no end
SHOWN = 3  # words told beside a value
Names = Literal["skip", "count"]
"""What becomes of words that the language lacks, with a capital within a sentence: they may be names."""
_OPENING = frozenset(".!?:…\n")  # between two words: the second one opens a sentence


class Known(dict[str, bool]):
    """word → whether it is known, asked when first looked up."""

    def __init__(self, ask: Callable[[str], bool]):
        super().__init__()
        self.ask = ask

    def __missing__(self, word: str) -> bool:
        if len(self) >= MOST_WORDS:
            self.clear()
        self[word] = found = self.ask(word)
        return found


def known(path: str) -> Known:
    """Whether a word, spelt with its capitals, is one of the file's. Raises Refusal where the file is no dictionary."""
    beside = affixes(path)
    return _listed(stamp(path)) if beside is None else _dictionary(stamp(path), stamp(beside))


@functools.lru_cache(maxsize=16)
def _listed(key: Stamp) -> Known:
    listed = word_set(key[0])
    return Known(lambda word: word.casefold() in listed)


@functools.lru_cache(maxsize=16)
def _dictionary(dic: Stamp, _aff: Stamp) -> Known:
    try:
        from hunspell import Hunspell
    except ImportError as error:
        raise Refusal(f"{dic[0]} needs the package chunspell", "pip install 'grpo-kd[faroese]'") from error
    file = Path(dic[0])
    with file.open("rb") as lines:
        if (
            not lines.readline().removeprefix(b"\xef\xbb\xbf").strip().isdigit()
        ):  # hunspell itself would know no word, silently
            raise Refusal(f"{file} is no hunspell dictionary", "give the .dic whose first line counts its words")
    spell = Hunspell(file.stem, str(file.parent), sys.getfilesystemencoding()).spell

    def ask(word: str) -> bool:
        try:
            return bool(spell(word.replace("’", "'")))
        except UnicodeEncodeError:  # a letter that the dictionary's encoding lacks
            return False

    return Known(ask)


def spelt(text: str) -> list[tuple[str, bool]]:
    """Words in order without those that hold digits, each with whether it may be a name: a capital within a sentence.

    >>> spelt("Hon býr í Havn. Tað er 7 km.")
    [('Hon', False), ('býr', False), ('í', False), ('Havn', True), ('Tað', False), ('er', False), ('km', False)]
    """
    found, before = [], -1
    for match in word_matches(text):
        word, start = match.group(), match.start()
        between = match.string[before:start] if before >= 0 else "\n"
        opens = between != " " and not _OPENING.isdisjoint(between)
        before = match.end()
        if word.isalpha() or not any(letter.isdigit() for letter in word):
            found.append((word, not opens and word[0].isupper()))
    return found


def judged(text: str, language: Sequence[Known], names: Names) -> list[tuple[str, bool]]:
    """The words that count, in order, each with whether the language's files know it."""
    verdicts = [(word, name, any(words[word] for words in language)) for word, name in spelt(text)]
    return [(word, ours) for word, name, ours in verdicts if ours or not name or names == "count"]


def told(what: str, words: Sequence[str]) -> str | None:
    """The first of these words as a reward's detail; None where there are none.

    >>> told("unknown", ["hus", "bil", "tog", "fly"])
    'unknown: hus, bil, tog'
    """
    return f"{what}: {', '.join(words[:SHOWN])}" if words else None
