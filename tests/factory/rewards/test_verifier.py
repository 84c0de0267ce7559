"""Numbers and choices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from factory.rewards.verifier import choice

Value = Callable[..., float | None]


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("Fyrst 48, so 24: svarið er 72 fiskar.", "48 + 24 = 72\n#### 72", 1),
        ("72, nei, 73", "72", 0),
        ("tað kostar 1.234,50 kr.", "1234.5", 1),
        ("tað kostar 1,234.50 kr.", "1234.5", 1),
        ("1.234", "1234", 1),
        ("12,5 % á øllum", "12.5", 1),
        ("-3", "3", 0),
        ("−3", "-3", 1),
        ("seytjan", "17", 0),
        ("<think>17</think> veit ikki", "17", 0),
        ("<think>16", "16", 0),
        ("<answer>17</answer> av 20", "17", 1),
    ],
)
def test_the_last_number_equals_the_references(value: Value, text: str, reference: str, right: int) -> None:
    assert value(text, use="verifier", references=[reference]) == right


def test_tolerance_decimal_signs_and_several_references(value: Value) -> None:
    number = partial(value, use="verifier")
    assert number("3,14", references=["3.14159"]) == 0.0
    assert number("3,14", references=["3.14159"], tolerance=0.01) == 1.0
    assert number("1.234", references=["1.234"], decimal="comma", target_decimal="point") == 0.0
    assert number("1,234", references=["1.234"], decimal="comma", target_decimal="point") == 1.0
    assert number("5", references=["4", "5"]) == 1.0
    assert number("5", references=["ongin"]) is None
    assert number("5", references=["ongin", "4"]) == 0.0
    assert number("5", to="answers", references=["4"], answers=["It is 5."]) == 1.0


def test_a_pattern_finds_the_number_and_a_bare_reference_needs_none(value: Value) -> None:
    number = partial(value, use="verifier", references=["72"])
    assert number("svar: 72 (av 100)", pattern=r"svar: (\d+)") == 1.0
    assert number("svar: 72 (av 100)", answer_patterns=r"svar: (\d+)") == 1.0
    assert number("72", answer_patterns=r"svar: (\d+)") == 0.0


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" (c). ", "C"),
        ("Rætta svarið er B, tí A er skeivt", "B"),
        ("The answer is D.", "D"),
        ("Svarið er A. Nei, svarið er B.", "B"),
        ("the answer is a dog", None),
        ("answer: **C**", "C"),
        ("\\boxed{A}", "A"),
        ("B) Tórshavn", "B"),
        ("Á er ikki A", "A"),
        ("A dog runs", None),
        ("Eg haldi (b)", "B"),
        ("E", None),
        ("", None),
        ("ÁB", None),
    ],
)
def test_the_choice_in_a_text(text: str, letter: str | None) -> None:
    assert choice(text, "ABCD") == letter


def test_choices_against_the_reference(value: Value) -> None:
    picked = partial(value, use="verifier", kind="choices")
    assert picked("Svarið er b.", references=["B"]) == 1.0
    assert picked("Svarið er b.", references=["B) Tórshavn"]) == 1.0
    assert picked("Svarið er C.", references=["B"]) == 0.0
    assert picked("veit ikki", references=["B"]) == 0.0
    assert picked("A", references=["A\u0300 </think>"]) is None  # À is no A
    assert picked("B", references=["ongin"]) is None
    assert picked("E", references=["E"], choices="ABCDE") == 1.0
