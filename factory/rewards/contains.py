"""Share of the names and numbers of the teacher's answer (or the reference) that occur in the sample.

Range: [0, 1]. Cost: microseconds. Cannot see: what is said about them ("not Brasília" scores 1), names that differ
between the languages (Kaupmannahavn), nouns from names in German, order. Names are capitalised words; a word that opens
a sentence counts too, since names often do, unless it is in `stop`. Long lists of names game it: combine with `length`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from factory.rewards import Batch, Reward
from factory.rewards._numerals import numerals
from factory.rewards.text import fold, nfc, visible, words

VERSION = 1
NEEDS = frozenset({"answers", "references", "prompts"})
RANGE = (0.0, 1.0)
MIN_PREFIX = 3  # letters; a shorter name is compared whole, or "Ó" would be found everywhere

# Openers of sentences in English, Faroese and Danish that are no names.
OPENERS = (
    *("the", "a", "an", "it", "its", "in", "on", "at", "i", "he", "she", "they", "we", "you", "this", "that", "these"),
    *("there", "yes", "no", "if", "when", "what", "who", "which", "so", "and", "but", "for", "tað", "ein", "eitt"),
    *("hon", "hann", "tey", "teir", "tær", "vit", "tit", "tú", "ja", "nei", "í", "á", "hetta", "har", "um", "tá"),
    *("men", "og", "eg", "svarið", "det", "den", "en", "et", "de", "vi", "der", "her", "nej", "hvis", "som", "svaret"),
)


@dataclass(frozen=True)
class Settings:
    """What must occur, and how strictly."""

    to: Literal["answers", "references"] = "answers"
    """The teacher's answers, or the prompt's references."""
    over: Literal["best", "mean"] = "best"
    """With several of them: the best share, or the mean."""
    what: Literal["both", "names", "numbers"] = "both"
    """Names and numbers, or one of them."""
    match: Literal["word", "prefix"] = "prefix"
    """Equal words; or words that begin with the name, so that Tórshavnar has Tórshavn."""
    folded: bool = True
    """Whether accents and special letters are ignored: Brasília, Brasilia; ø, o."""
    new_only: bool = False
    """Whether names and numbers that stand in the prompt are left out."""
    stop: tuple[str, ...] = OPENERS
    """Capitalised words that are no names."""


def needs(settings: Settings) -> frozenset[str]:
    """The list compared with, and the prompts where their names are left out."""
    return frozenset({settings.to} | ({"prompts"} if settings.new_only else set()))


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample; missing where no answer has a name or number."""
    stop = frozenset(nfc(word).casefold() for word in settings.stop)
    return [_one(batch, sample, settings, stop) for sample in range(len(batch))]


def _one(batch: Batch, sample: int, settings: Settings, stop: frozenset[str]) -> Reward:
    prompt = " ".join(message["content"] for message in batch.prompts[sample]) if settings.new_only else ""
    given, ours = Mentions(prompt, settings), Mentions(visible(batch.texts[sample]), settings)
    shares = []
    for target in map(visible, batch.targets(sample, settings.to)):
        found = [ours.has_name(name) for name in names(target, stop, settings) if not given.has_name(name)]
        if settings.what != "names":
            found += [
                ours.has_number(number) for number in dict.fromkeys(numerals(target)) if not given.has_number(number)
            ]
        if found:
            shares.append(sum(found) / len(found))
    if not shares:
        return Reward.missing(f"no {settings.to} with a name or number")
    return Reward(max(shares) if settings.over == "best" else sum(shares) / len(shares))


def names(text: str, stop: frozenset[str], settings: Settings) -> list[str]:
    """Capitalised words, each once, in the form they are compared in; none where only numbers are asked for."""
    if settings.what == "numbers":
        return []
    found = (word for word in words(text, casefold=False) if word[0].isupper() and word.casefold() not in stop)
    return list(dict.fromkeys(_form(settings)(word) for word in found))


def _form(settings: Settings) -> Callable[[str], str]:
    return fold if settings.folded else str.casefold


class Mentions:
    """The words and numbers of a text, to be asked for."""

    def __init__(self, text: str, settings: Settings):
        form = _form(settings)
        self.words = frozenset(form(word) for word in words(text))
        self.numbers = numerals(text)
        self.prefix = settings.match == "prefix"

    def has_name(self, name: str) -> bool:
        """Whether a word is the name, or begins with it."""
        if name in self.words:
            return True
        return self.prefix and len(name) >= MIN_PREFIX and any(word.startswith(name) for word in self.words)

    def has_number(self, number: frozenset[float]) -> bool:
        """Whether a numeral shares a reading."""
        return any(number & other for other in self.numbers)
