"""Files that settings name: word lists, lexicons, models. Reads them once, keyed by path, size and time.

Refuses a file that is no UTF-8 text, an empty word list, and a lexicon that is no JSON object of words."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import NewType

from data.refusal import Refusal
from factory.rewards.text import words

FilePath = NewType("FilePath", str)
"""A setting of this type names a file: it must exist, and its bytes (not its path) enter the component's identity; so do those
of the .aff beside a hunspell .dic."""
ModelPath = NewType("ModelPath", str)
"""A setting of this type names a model's folder or hub id: weights, tokenizer and template enter the component's identity."""
Stamp = tuple[str, int, int]
"""Path, size and modification time of a file: what a cache may be keyed by."""


def stamp(path: str) -> Stamp:
    """Path, size and time of a file. Raises Refusal where it is missing."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise Refusal(f"there is no file {path}", "correct the path, or make the file first")
    return str(file), file.stat().st_size, file.stat().st_mtime_ns


@functools.lru_cache(maxsize=64)
def _digest(key: Stamp) -> str:
    with Path(key[0]).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: str) -> str:
    """sha256 of a file's bytes, 64 hex digits; of a hunspell .dic with the .aff beside it."""
    own, beside = _digest(stamp(path)), affixes(path)
    return own if beside is None else hashlib.sha256(f"{own} {_digest(stamp(beside))}".encode()).hexdigest()


def model_id(path: str) -> str:
    """The fingerprint of a model, as in the table `models`. Raises Refusal where it is not to be had."""
    from data.config import ModelSettings
    from data.fingerprint import identity

    return str(identity(ModelSettings(path=path), "runs")["model_id"])


def affixes(path: str) -> str | None:
    """The .aff that belongs to a hunspell .dic: without it the words lack their endings. None for every other file."""
    return str(Path(path).with_suffix(".aff")) if path.endswith(".dic") else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refusal(f"{path} is no UTF-8 text: {error}", f"convert {path} to UTF-8") from error


def whole_text(path: str) -> str:
    """A file's text, a byte order mark left out."""
    return _text(stamp(path)[0])


@functools.lru_cache(maxsize=16)
def _phrases(key: Stamp) -> frozenset[str]:
    phrases = frozenset(filter(None, (" ".join(words(line)) for line in _text(key[0]).splitlines())))
    if not phrases:
        raise Refusal(f"{key[0]} holds no word", "write one word a line")
    return phrases


def phrases(path: str) -> frozenset[str]:
    """The lines of a word list, each as its casefolded words with single spaces."""
    return _phrases(stamp(path))


@functools.lru_cache(maxsize=16)
def _word_set(key: Stamp) -> frozenset[str]:
    return frozenset(word for phrase in _phrases(key) for word in phrase.split(" "))


def word_set(path: str) -> frozenset[str]:
    """Every word of a word list, casefolded."""
    return _word_set(stamp(path))


@functools.lru_cache(maxsize=16)
def _lexicon(key: Stamp) -> dict[str, frozenset[str]]:
    wrong = Refusal(f"{key[0]} is no lexicon", 'write a JSON object: {"puffin": "lundi", "ice": ["ísur", "ís"]}')
    try:
        entries = json.loads(_text(key[0]))
    except json.JSONDecodeError as error:
        raise wrong from error
    if not isinstance(entries, dict):
        raise wrong
    forms: dict[str, set[str]] = {}
    for word, value in entries.items():
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise wrong
        source = " ".join(words(word))
        for phrase in filter(None, (" ".join(words(v)) for v in values)):
            forms.setdefault(source, {source}).add(phrase)
            forms.setdefault(phrase, {phrase})
    return {phrase: frozenset(group) for phrase, group in forms.items()}


def lexicon(path: str) -> dict[str, frozenset[str]]:
    """Every phrase of a two-language lexicon with the forms it may take, itself included (casefolded)."""
    return _lexicon(stamp(path))
