"""Whether the sample says what the teacher's answer says: all content words equal, in order, or the extracted answer.

Range: [0, 1]; 0 or 1 against one answer (no partial credit: it was found to hurt), the share that agrees against
several. Cost: microseconds. Cannot see: synonyms and inflections that the lexicon does not list, negation by a stop
word, the language (a lexicon makes "puffin" equal "lundi": combine with `language`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from factory.rewards import Batch, Reward
from factory.rewards._files import FilePath, lexicon, phrases
from factory.rewards._numerals import readings
from factory.rewards.text import answer_span, compiled, nfc, squash, words

VERSION = 1
NEEDS = frozenset({"answers", "references", "answer_patterns"})
RANGE = (0.0, 1.0)
T = TypeVar("T")

Forms = frozenset[str]  # what one word or phrase may be called, itself included; two agree where these meet


@dataclass(frozen=True)
class Settings:
    """What counts as content, and what is taken for the same."""

    mode: Literal["content", "answer"] = "content"
    """Content words of the whole text in order; or the extracted answer."""
    to: Literal["answers", "references"] = "answers"
    """The teacher's answers, or the prompt's references."""
    lexicon: FilePath | None = None
    """JSON file {"puffin": "lundi", "ice": ["ísur", "ís"]}: words of two languages that count as equal; phrases too."""
    stop: tuple[str, ...] = ()
    """Words and phrases that are no content (frames such as "the … is"); through the lexicon in either language."""
    content: tuple[str, ...] = ()
    """Words and phrases that alone are content; through the lexicon in either language. Empty: all but `stop`."""
    content_file: FilePath | None = None
    """The same as `content`, as a file with one word or phrase a line."""
    pattern: str | None = None
    """Regular expression of the answer (mode answer); default: the prompt's own."""

    def __post_init__(self) -> None:
        if self.pattern is not None and self.mode != "answer":
            raise ValueError("pattern belongs to `mode: answer`")
        if self.mode == "answer" and (self.stop or self.content or self.content_file):
            raise ValueError("stop and content belong to `mode: content`")
        if self.pattern is not None:
            compiled(self.pattern)


def needs(settings: Settings) -> frozenset[str]:
    """The list compared with, and the prompts' patterns where the recipe gives none."""
    own_pattern = settings.mode == "answer" and settings.pattern is None
    return frozenset({settings.to} | ({"answer_patterns"} if own_pattern else set()))


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample; missing where no answer holds content, 0 where the sample holds none."""
    one = _content if settings.mode == "content" else _answer
    reader = Reader(settings)
    return [one(batch, sample, reader, settings) for sample in range(len(batch))]


def _content(batch: Batch, sample: int, reader: Reader, settings: Settings) -> Reward:
    theirs = list(filter(None, map(reader.target, batch.targets(sample, settings.to))))
    if not theirs:
        return Reward.missing(f"no {settings.to} with content words")
    return _share(reader.content(batch.texts[sample]), theirs, agree)


def _answer(batch: Batch, sample: int, reader: Reader, settings: Settings) -> Reward:
    pattern = settings.pattern or batch.answer_patterns[sample]
    theirs = [span for t in batch.targets(sample, settings.to) if (span := answer_span(t, pattern))]
    if not theirs:
        return Reward.missing(f"no {settings.to} with an answer")
    ours = answer_span(batch.texts[sample], pattern)
    if not ours:
        return Reward(0.0, detail="no answer found")
    return _share(ours, theirs, reader.same_answer)


def _share(ours: T, theirs: list[T], same: Callable[[T, T], bool]) -> Reward:
    agreeing = sum(same(ours, other) for other in theirs)
    return Reward(agreeing / len(theirs), detail=f"{agreeing} of {len(theirs)}" if len(theirs) > 1 else None)


def agree(ours: list[Forms], theirs: list[Forms]) -> bool:
    """Equally many units, each pair with a form in common."""
    return len(ours) == len(theirs) and all(a & b for a, b in zip(ours, theirs, strict=True))


class Reader:
    """Reads texts into units (words, lexicon phrases) by one component's settings; keeps the teacher's answers read."""

    def __init__(self, settings: Settings):
        self.forms: dict[str, Forms] = lexicon(settings.lexicon) if settings.lexicon else {}
        listed = phrases(settings.content_file) if settings.content_file else frozenset()
        self.only = self._all_forms([*settings.content, *listed])
        self.stop = self._all_forms(settings.stop)
        known = [*self.forms, *self.only, *self.stop]
        self.longest = max((phrase.count(" ") + 1 for phrase in known), default=1)
        self.known = frozenset(phrase for phrase in known if " " in phrase)
        self.read: dict[str, list[Forms]] = {}

    def _all_forms(self, listed: list[str] | tuple[str, ...]) -> Forms:
        keys = (" ".join(words(phrase)) for phrase in listed)
        return frozenset(form for key in keys for form in self.forms.get(key, {key}))

    def units(self, text: str) -> list[Forms]:
        """Words of the text, the longest known phrase first, each with its forms; a number has its readings."""
        tokens, found, at = words(text), [], 0
        while at < len(tokens):
            size = next(n for n in range(self.longest, 0, -1) if n == 1 or " ".join(tokens[at : at + n]) in self.known)
            phrase = " ".join(tokens[at : at + size])
            own = {phrase} if not phrase[0].isdigit() or not phrase[-1].isdigit() else _number(phrase)
            found.append(self.forms.get(phrase, frozenset(own)))
            at += size
        return found

    def content(self, text: str) -> list[Forms]:
        """The units that are content."""
        units = self.units(text)
        if self.only:
            units = [forms for forms in units if forms & self.only]
        return [forms for forms in units if not forms & self.stop] if self.stop else units

    def target(self, text: str) -> list[Forms]:
        """The content of a text that many samples are compared with."""
        if text not in self.read:
            self.read[text] = self.content(text)
        return self.read[text]

    def same_answer(self, ours: str, theirs: str) -> bool:
        """Equal but for case, white space and punctuation, or unit by unit through the lexicon."""
        if squash(nfc(ours).casefold()) == squash(nfc(theirs).casefold()):
            return True
        units = self.units(theirs)
        return bool(units) and agree(self.units(ours), units)


def _number(word: str) -> set[str]:
    try:
        return {word, *(repr(value) for value in readings(word))}
    except ValueError:  # digits and letters mixed: "2x4" is a word
        return {word}
