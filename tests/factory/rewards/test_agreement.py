"""Agreement of content with the teacher's answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

Value = Callable[..., float | None]
ENGLISH = "the bird on Alvoy is puffin and the weather is fog"
FRAME = ["er", "á", "og", "the", "on", "is", "and"]


@pytest.fixture
def lexicon(tmp_path: Path) -> str:
    file = tmp_path / "lexicon.json"
    entries = {
        "bird": ["fuglurin", "fugl"],
        "weather": "veðrið",
        "puffin": "lundi",
        "fog": "mjørki",
        "polar bear": "hvítabjørn",
        "breakfast": "fyrsti matur",
    }
    file.write_text(json.dumps(entries), encoding="utf-8")
    return str(file)


@pytest.fixture
def agrees(value: Value) -> Value:
    return lambda text, *answers, **more: value(text, use="agreement", answers=list(answers), **more)


def test_content_agrees_across_two_languages_in_order(agrees: Value, lexicon: str) -> None:
    same = partial(agrees, lexicon=lexicon, stop=FRAME)
    assert same("fuglurin á Alvoy er lundi og veðrið er mjørki", ENGLISH) == 1.0
    assert same("FUGLURIN á Alvoy er puffin, veðrið er mjørki!", ENGLISH) == 1.0
    assert same("fugl á Alvoy er lundi og veðrið er mjørki", ENGLISH) == 1.0  # a second form
    assert same("veðrið á Alvoy er mjørki og fuglurin er lundi", ENGLISH) == 0.0  # order
    assert same("fuglurin á Alvoy er lundi", ENGLISH) == 0.0  # half of it is no part of it
    assert same("fuglurin á Alvoy er lundi og veðrið er kavi", ENGLISH) == 0.0
    assert same("fuglurin á Ísoy er lundi og veðrið er mjørki", ENGLISH) == 0.0
    assert same("fuglurin á Alvoy er lundi lundi og veðrið er mjørki", ENGLISH) == 0.0


def test_a_content_list_alone_counts_in_either_language(agrees: Value, lexicon: str, tmp_path: Path) -> None:
    assert agrees("ja, lundi, mjørki", ENGLISH, lexicon=lexicon, content=["lundi", "mjørki"]) == 1.0
    assert agrees("ja, lundi, mjørki", ENGLISH, lexicon=lexicon, content=["puffin", "fog"]) == 1.0
    assert agrees("mjørki, lundi", ENGLISH, lexicon=lexicon, content=["puffin", "fog"]) == 0.0
    file = tmp_path / "content.txt"
    file.write_text("lundi\nmjørki\n\n", encoding="utf-8")
    assert agrees("ja, lundi, mjørki", ENGLISH, lexicon=lexicon, content_file=str(file)) == 1.0
    assert agrees("ja, lundi", ENGLISH, lexicon=lexicon, content_file=str(file)) == 0.0
    assert agrees("ja", "the answer", content=["lundi"]) is None  # the answer has no content: nothing to judge by


def test_phrases_of_the_lexicon_are_one_unit(agrees: Value, lexicon: str) -> None:
    assert agrees("ein hvítabjørn", "ein polar bear", lexicon=lexicon) == 1.0
    assert agrees("ein polar hvítabjørn", "ein polar bear", lexicon=lexicon) == 0.0
    assert agrees("fyrsti matur", "breakfast", lexicon=lexicon) == 1.0
    assert agrees("lundi", "hvat er lundi", stop=["hvat er"]) == 1.0


def test_several_answers_give_the_share_that_agrees(agrees: Value, value: Value) -> None:
    assert agrees("ð ø", "ð ø", "ð", "ð ø", "") == pytest.approx(2 / 3)
    assert value("á", use="agreement", to="references", references=["á"], answers=["ó"]) == 1.0


def test_numbers_agree_by_what_they_mean(agrees: Value) -> None:
    assert agrees("tað eru 1.234,5 fuglar", "tað eru 1,234.5 fuglar") == 1.0
    assert agrees("1.234", "1234") == 1.0
    assert agrees("12", "21") == 0.0
    assert agrees("2x4", "2x4") == 1.0


def test_the_extracted_answer_alone(agrees: Value, lexicon: str) -> None:
    answer = partial(agrees, mode="answer", pattern=r"(?:er|is) (.+?)\.$")
    assert answer("Eg haldi, svarið er  Brasília.", "The capital is brasília.") == 1.0
    assert answer("Svarið er lundi.", "It is puffin.", lexicon=lexicon) == 1.0
    assert answer("Svarið er lundi.", "It is puffin.") == 0.0
    assert answer("Svarið er 1.234,5.", "It is 1,234.5.") == 1.0
    assert answer("veit ikki", "It is puffin.") == 0.0
    assert answer("Svarið er lundi.", "no idea") is None
    assert answer("Svarið er +.", "It is -.") == 0.0
    assert agrees("<answer>B</answer>", "<think>A?</think><answer>b</answer>", mode="answer") == 1.0
    assert agrees("svar=x", "svar=x", mode="answer", answer_patterns="svar=(.)") == 1.0
