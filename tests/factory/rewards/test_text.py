"""Normalisation, words and answer spans."""

from __future__ import annotations

import unicodedata

import pytest

from data.refusal import Refusal
from factory.rewards.text import answer_span, fold, squash, visible, words


def test_words_keep_faroese_letters_whole_in_nfd_too() -> None:
    sentence = "Ærligt: ‘Søgnin’ um kópakonuna, t.d. á Kallsoy – 1.234,5 km/t & d'Este's 😀"
    expected = ["ærligt", "søgnin", "um", "kópakonuna", "t", "d", "á", "kallsoy", "1.234,5", "km", "t", "d'este's"]
    assert words(sentence) == expected == words(unicodedata.normalize("NFD", sentence))
    assert words(sentence, casefold=False)[0] == "Ærligt"
    assert words("") == words(" \n😀") == []
    assert words("x\u0302y") == ["x\u0302y"]  # a mark without a composed form stays with its letter


def test_squash_and_fold() -> None:
    assert squash("\u00a0a\u0301 \n b ") == "á b"
    assert fold("TÓRSHAVN, Ærø, Þórður, Brasi\u0301lia") == "torshavn, aero, thordur, brasilia"


def test_thinking_is_not_visible() -> None:
    assert visible("<think>a</think>b<think>c</think>d") == "bd"
    assert visible("a</think>b</think>c") == "c"
    assert visible("b <think>never ends <answer>x</answer>") == "b "


@pytest.mark.parametrize(
    ("given", "pattern", "span"),
    [
        ("  svar \n", None, "svar"),
        ("<think>x</think> já", None, "já"),
        ("<answer>a</answer> og <answer> ð\n</answer>.", None, "ð"),
        ("<think><answer>a</answer></think> b", None, "b"),
        ("er 1, nei er 2", r"er (\d)", "2"),
        ("er 1", r"er (?:x|(?P<answer>\d))", "1"),
        ("a=b", r"(?P<left>.)=(?P<answer>.)", "b"),
        ("svar: lundi", r"lun\w+", "lundi"),
        ("svar: lundi", r"ryta", None),
        ("xy", r"x(z)?y", None),
        ("sva\u0301r a\u0301", "á$", "á"),
        ("<answer>er 3</answer> er 4", r"er (\d)", "3"),
    ],
)
def test_the_answer_span(given: str, pattern: str | None, span: str | None) -> None:
    assert answer_span(given, pattern) == span


def test_a_prompt_pattern_that_is_no_expression_is_refused() -> None:
    with pytest.raises(Refusal, match="no regular expression"):
        answer_span("a", "(")
