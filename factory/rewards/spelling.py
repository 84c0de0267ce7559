"""Share of the sample's words that a hunspell dictionary (or a word list) of the language knows.

Range: [0, 1]. Cost: .03 ms a word that was not seen before, a microsecond a word seen; loading a dictionary takes a second and
some 50 MB. Cannot see: grammar, meaning, a wrong word that is spelt right; new compounds are unknown to it (dictionary-fo knows .94
of running Faroese words, .45 of Icelandic, .21 of Danish, .07 of English ones). Words with digits do not count. A capital within a
sentence makes an unknown word a name, which does not count either (`names: count` does): capitals everywhere game it, and so does
one right word repeated: combine with `repetition`. Faroese: index.dic of the npm package dictionary-fo (GPL, LGPL or MPL)."""

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
    """The dictionary, and what counts."""

    dictionary: FilePath | None = None
    """Needed: a hunspell .dic with its .aff beside it, or a list with one word a line."""
    names: Names = "skip"
    """What becomes of unknown words with a capital within a sentence."""
    min_words: int = 1
    """Fewer words that count than this are missing."""

    def __post_init__(self) -> None:
        if self.dictionary is None:
            raise ValueError("spelling needs `dictionary` (Faroese: npm install dictionary-fo, then its index.dic)")
        if self.min_words < 1:
            raise ValueError("min_words is at least 1: a text without words has no spelling")


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample; missing under `min_words`."""
    words = known(str(settings.dictionary))
    return [_one(text, words, settings) for text in batch.texts]


def _one(text: str, words: Known, settings: Settings) -> Reward:
    verdicts = judged(text, [words], settings.names)
    if len(verdicts) < settings.min_words:
        return Reward.missing(f"{len(verdicts)} words count, {settings.min_words} are needed")
    unknown = [word for word, right in verdicts if not right]
    return Reward(1 - len(unknown) / len(verdicts), detail=told("unknown", unknown))
