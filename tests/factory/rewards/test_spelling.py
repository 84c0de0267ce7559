"""Spelling and foreign words: shares by hand with a made dictionary, and the real Faroese one where it can be fetched."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from data.refusal import Refusal
from factory.rewards import Batch, component
from factory.rewards._dictionary import MOST_WORDS, Known, known, spelt

Value = Callable[..., float | None]
KNOWN = {"is": 0.45, "da": 0.21, "en": 0.07}  # of running words, by dictionary-fo


def test_the_share_of_known_words_by_hand(value: Value, dictionary: str) -> None:
    spelling = partial(value, use="spelling", dictionary=dictionary)
    assert spelling("Hon er á bátin") == 1.0  # a capital opens the sentence; bátin by the affixes
    assert spelling("hon er á bátinn") == pytest.approx(3 / 4)
    assert spelling("hon er a bati") == pytest.approx(2 / 4)  # á is not a, ð and accents count
    assert spelling("HON ER Ø") == 1.0
    assert spelling("er 1.234,5 m2 á 7") == 1.0  # what holds digits is no word
    assert spelling("puffin") == 0.0
    assert spelling("ær ær á") == pytest.approx(1 / 3)  # running words, not different ones
    assert spelling("1 2 😀") is None and spelling("\n") is None


def test_names_within_a_sentence_are_left_out_if_unknown(value: Value, dictionary: str) -> None:
    spelling = partial(value, use="spelling", dictionary=dictionary)
    text = "hon er á Alvoy"
    assert spelling(text) == 1.0
    assert spelling(text, names="count") == pytest.approx(3 / 4)
    assert spelling("hon er á Ísoy") == spelling("hon er á Ísoy", names="count") == 1.0
    assert spelling("hon er a Ísoy") == pytest.approx(3 / 4)  # a name that is known counts
    assert spelling("Alvoy er á") == pytest.approx(2 / 3)  # what opens a sentence need not be a name
    assert spelling("hon er. Alvoy er") == pytest.approx(3 / 4)
    assert spelling("hon er\nAlvoy er") == pytest.approx(3 / 4)
    assert spelling("hon Alvoy", min_words=2) is None


def test_sentences_open_after_a_stop_and_quotes_do_not_hide_it() -> None:
    capitals = [word for word, name in spelt("Á Ísoy. «Eg» sá Eir! “Hon: Ása”, – Óla t-Ð Ø2") if name]
    assert capitals == ["Ísoy", "Eir", "Óla", "Ð"]


def test_unknown_words_are_told(dictionary: str) -> None:
    [reward] = component({"use": "spelling", "dictionary": dictionary}).score(Batch.of_texts(["hon kráka er ær ór lá"]))
    assert (reward.value, reward.detail) == (pytest.approx(2 / 6), "unknown: kráka, ær, ór")


def test_foreign_words_are_known_there_and_not_here(value: Value, dictionary: str, tmp_path: Path) -> None:
    english = tmp_path / "english.txt"
    english.write_text("the\nnice\nher\nboat\nLondon\n", encoding="utf-8")
    foreign = partial(value, use="foreign_words", own=[dictionary], foreign=[str(english)])
    assert foreign("Hon er á bátin") == 0.0
    assert foreign("hon er nice") == pytest.approx(1 / 3)
    assert foreign("The nice boat") == 1.0
    assert foreign("hon er kráka") == 0.0  # misspelt or missing: nobody's
    assert foreign("hon er á London") == 0.0  # a name
    assert foreign("hon er á London", names="count") == pytest.approx(1 / 4)
    english.write_text("er\nnice\n", encoding="utf-8")
    assert foreign("hon er nice") == pytest.approx(1 / 3)  # the own language knows "er"
    danish = tmp_path / "danish.txt"
    danish.write_text("meget\n", encoding="utf-8")
    both = partial(value, use="foreign_words", own=[dictionary], foreign=[str(english), str(danish)])
    assert both("hon er meget nice") == pytest.approx(2 / 4)
    assert both("1 2") is None


def test_words_are_asked_once_and_not_without_end() -> None:
    asked: list[str] = []
    words = Known(lambda word: bool(asked.append(word)) or word == "á")
    assert [words["á"], words["á"], words["ð"]] == [True, True, False]
    assert asked == ["á", "ð"]
    words.update(dict.fromkeys(map(str, range(MOST_WORDS)), False))
    assert words["ø"] is False and len(words) == 1


def test_a_dictionary_in_another_encoding_knows_its_letters_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "latin.aff").write_bytes(b"SET ISO8859-1\n")
    (tmp_path / "latin.dic").write_bytes("2\náður\nø\n".encode("latin-1"))
    words = known(str(tmp_path / "latin.dic"))
    assert words["áður"] and words["Ø"] and not words["łódź"]


@pytest.mark.parametrize(
    ("use", "given", "said"),
    [
        ("spelling", {}, "needs `dictionary`"),
        ("spelling", {"dictionary": "/nowhere/index.dic"}, "no file /nowhere/index.dic"),
        ("spelling", {"dictionary": "alone.dic"}, "no file .*alone.aff"),
        ("spelling", {"dictionary": "list.txt", "min_words": 0}, "min_words is at least 1"),
        ("spelling", {"dictionary": "list.txt", "names": "keep"}, "names is 'keep'"),
        ("foreign_words", {"own": ["list.txt"]}, "needs `own` and `foreign`"),
        ("foreign_words", {"own": "list.txt", "foreign": ["list.txt"]}, "expected a list of texts"),
        ("foreign_words", {"own": ["list.txt"], "foreign": ["gone.txt"]}, "no file .*gone.txt"),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str, given: dict[str, object], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text("á\n", encoding="utf-8")
    Path("alone.dic").write_text("1\ná\n", encoding="utf-8")
    with pytest.raises(Refusal, match=said) as refusal:
        component({"use": use, **given})
    assert len(str(refusal.value).splitlines()) == 2


def test_a_dic_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.aff").write_text("")
    (tmp_path / "x.dic").write_text("á\nð\n", encoding="utf-8")
    with pytest.raises(Refusal, match="no hunspell dictionary"):
        component({"use": "spelling", "dictionary": str(tmp_path / "x.dic")}).score(Batch.of_texts(["á"]))


def test_the_identity_holds_words_and_endings_and_no_path(dictionary: str, tmp_path: Path) -> None:
    def identity(path: str) -> str:
        return json.dumps([component(spec).identity() for spec in (
            {"use": "spelling", "dictionary": path}, {"use": "foreign_words", "own": [path], "foreign": [path]})])  # fmt: skip

    before, moved = identity(dictionary), tmp_path / "moved"
    moved.mkdir()
    for end in ("dic", "aff"):
        (moved / f"other.{end}").write_bytes(Path(dictionary).with_suffix(f".{end}").read_bytes())
    assert identity(str(moved / "other.dic")) == before and str(tmp_path) not in before
    (moved / "other.aff").write_text("SET UTF-8\n", encoding="utf-8")
    assert identity(str(moved / "other.dic")) != before


def _mean(spec: dict[str, object], lines: list[str]) -> float:
    values = [reward.value for reward in component(spec).score(Batch.of_texts(lines)) if reward.value is not None]
    return sum(values) / len(values)


def test_real_faroese_is_spelt_right_and_its_neighbours_are_not(
    dictionary_fo: str, faroese_text: Callable[[str], list[str]]
) -> None:
    spec = {"use": "spelling", "dictionary": dictionary_fo, "names": "count"}
    assert _mean(spec, faroese_text("lid/fo.txt")) > 0.89
    for language, share in KNOWN.items():
        assert _mean(spec, faroese_text(f"lid/{language}.txt")) == pytest.approx(share, abs=0.06), language


def test_danish_words_are_foreign_in_faroese_text(
    dictionary_fo: str, faroese_text: Callable[[str], list[str]], tmp_path: Path
) -> None:
    danish = faroese_text("lid/da.txt")
    (tmp_path / "da.txt").write_text("\n".join(danish[::2]), encoding="utf-8")
    spec = {"use": "foreign_words", "own": [dictionary_fo], "foreign": [str(tmp_path / "da.txt")]}
    assert _mean(spec, faroese_text("lid/fo.txt")) < 0.02 < 0.3 < _mean(spec, danish[1::2])
