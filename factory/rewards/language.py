"""Whether the sample is in the language: share of known words, or a language identifier's probability or verdict.

Range: [0, 1]. Cost: words .01 ms; langid .1 ms and half a second to load; fasttext .1 ms, the model's size in memory.
Cannot see: meaning and grammar. `words` calls names and rare inflections foreign and says nothing of numbers; the
identifiers are unreliable on few words (`min_words`, which counts a repeated word once) and gamed by names and by lists of words:
docs/faroese.md combines them with `spelling`, `prose` and `repetition`. fastText's public lid.176 never says Faroese: use a model
that knows `fao_Latn` (cis-lmu/glotlid:model.bin), or train one: python -m factory.train_language. A text without words is missing,
not 0."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from data.refusal import Refusal, nearest
from factory.rewards import Batch, Reward
from factory.rewards._files import FilePath, Stamp, stamp, word_set
from factory.rewards.text import squash, words

VERSION = 2
NEEDS = frozenset({"languages"})
RANGE = (0.0, 1.0)
MIN_WORDS = {"words": 1, "langid": 4, "fasttext": 4}  # under 4 words identifiers guess

Scorer = Callable[[str, str], float]  # text on one line, language → value


@dataclass(frozen=True)
class Settings:
    """The judge and the language it looks for."""

    method: Literal["words", "langid", "fasttext"] = "langid"
    """Share of words in a word list; py3langid, which knows Faroese; a fastText model."""
    file: FilePath | None = None
    """Word list (one word a line) of `words`, model of `fasttext`: a path, or a file of the hub as owner/name:file."""
    language: str = "fo"
    """Code the identifier gives (fo; fao_Latn for GlotLID or OpenLID), or `prompt`: the prompt's own language."""
    output: Literal["probability", "verdict"] = "probability"
    """The identifier's probability of the language; or 1 where it is the most probable one, else 0."""
    min_words: int | None = None
    """Fewer different words than this are missing. Default: 1 for `words`, 4 for the identifiers."""

    def __post_init__(self) -> None:
        if self.method == "langid" and self.file is not None:
            raise ValueError("langid brings its own model; file belongs to `words` and `fasttext`")
        if self.method != "langid" and self.file is None:
            raise ValueError(f"method {self.method} needs `file`")
        if self.min_words is not None and self.min_words < 1:
            raise ValueError("min_words is at least 1: a text without words has no language")


def needs(settings: Settings) -> frozenset[str]:
    """The prompts' languages, where those are asked for."""
    return frozenset({"languages"} if settings.language == "prompt" and settings.method != "words" else ())


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample; missing under `min_words` and where the prompt's language is unknown."""
    scorer = METHODS[settings.method](settings)
    return [_one(batch, sample, settings, scorer) for sample in range(len(batch))]


def _one(batch: Batch, sample: int, settings: Settings, scorer: Scorer) -> Reward:
    line = squash(batch.texts[sample])  # identifiers read one line
    found = [word for word in words(line) if not word[0].isdigit()]
    least = settings.min_words or MIN_WORDS[settings.method]
    if len(set(found)) < least:
        return Reward.missing(f"{len(set(found))} different words: {settings.method} needs {least}")
    language = batch.languages[sample] if settings.language == "prompt" else settings.language
    if language is None and settings.method != "words":
        return Reward.missing("the prompt has no language")
    return Reward(min(1.0, scorer(" ".join(found) if settings.method == "words" else line, language or "")))


def _words(settings: Settings) -> Scorer:
    known = word_set(str(settings.file))

    def share(text: str, _language: str) -> float:
        found = text.split(" ")
        return sum(word in known for word in found) / len(found)

    return share


def _langid(settings: Settings) -> Scorer:
    identifier = _py3langid()

    def probability(text: str, language: str) -> float:
        ranked = identifier.rank(text)
        return _value(ranked[0][0], dict(ranked), language, settings)

    return probability


@functools.cache
def _py3langid() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _fasttext(settings: Settings) -> Scorer:
    model, labels = _fasttext_model(stamp(str(settings.file)))

    def probability(text: str, language: str) -> float:
        _check(language, labels)
        given, found = model.predict([text], k=-1)
        names = [label.removeprefix("__label__") for label in given[0]]
        return _value(
            names[0], dict.fromkeys(labels, 0.0) | dict(zip(names, found[0], strict=True)), language, settings
        )

    return probability


@functools.lru_cache(maxsize=2)
def _fasttext_model(key: Stamp) -> tuple[Any, frozenset[str]]:
    try:
        import fasttext
    except ImportError as error:
        raise Refusal("method fasttext needs the package fasttext", "pip install 'grpo-kd[faroese]'") from error
    try:
        model = fasttext.load_model(key[0])
    except ValueError as error:
        raise Refusal(f"{key[0]} is no fastText model: {error}", "give a .bin or .ftz model as `file`") from error
    return model, frozenset(label.removeprefix("__label__") for label in model.labels)


def _check(language: str, labels: Collection[str]) -> None:
    if language not in labels:
        raise Refusal(
            f"the identifier does not know the language {language!r}; {nearest(language, labels)}",
            "correct `language` of the component, or the prompts' languages",
        )


def _value(best: str, probabilities: dict[str, float], language: str, settings: Settings) -> float:
    _check(language, probabilities)
    return float(best == language) if settings.output == "verdict" else float(probabilities[language])


METHODS: dict[str, Callable[[Settings], Scorer]] = {"words": _words, "langid": _langid, "fasttext": _fasttext}
