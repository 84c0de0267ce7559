"""Share of the sample's words that another language knows and its own does not: "Tað er meget nice" has two of four.

Range: [0, 1], 0 is good: give it a negative weight. Cost: as `spelling`, for each file. Cannot see: words that both languages spell
alike ("son", "land"), misspelt words, which are no language's, and foreign grammar in own words. Words with digits do not count;
unknown words with a capital within a sentence are taken for names (`names: count` counts them). The better the own dictionary, the
fewer false alarms: loans that it lacks count as foreign."""

from __future__ import annotations

from dataclasses import dataclass

from factory.rewards import Batch, Reward
from factory.rewards._dictionary import Known, Names, judged, known, told
from factory.rewards._files import FilePath

VERSION = 1
NEEDS: frozenset[str] = frozenset()
RANGE = (0.0, 1.0)


@dataclass(frozen=True)
class Settings:
    """The languages, each by hunspell .dic (its .aff beside it) or by a list with one word a line."""

    own: tuple[FilePath, ...] = ()
    """Needed: files of the language that the sample should be in."""
    foreign: tuple[FilePath, ...] = ()
    """Needed: files of the languages that it should not be in."""
    names: Names = "skip"
    """What becomes of words that the own language lacks, with a capital within a sentence."""

    def __post_init__(self) -> None:
        if not self.own or not self.foreign:
            raise ValueError("foreign_words needs `own` and `foreign`, files of words or hunspell dictionaries")


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample; missing where no word counts."""
    own, foreign = ([known(path) for path in files] for files in (settings.own, settings.foreign))
    return [_one(text, own, foreign, settings) for text in batch.texts]


def _one(text: str, own: list[Known], foreign: list[Known], settings: Settings) -> Reward:
    verdicts = judged(text, own, settings.names)
    if not verdicts:
        return Reward.missing("no words that count")
    found = [word for word, ours in verdicts if not ours and any(words[word] for words in foreign)]
    return Reward(len(found) / len(verdicts), detail=told("foreign", found))
