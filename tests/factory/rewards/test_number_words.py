"""Faroese number words, by both ways of counting."""

from __future__ import annotations

import pytest

from factory.rewards._number_words import as_digits

WORDS = [
    ("tjúgu", "20"), ("seytjan", "17"), ("túsund", "1000"), ("fimmti", "50"), ("hálvtrýss", "50"),
    ("seksti", "60"), ("trýss", "60"), ("sjeyti", "70"), ("hálvfjerðs", "70"), ("fýrs", "80"),
    ("áttati", "80"), ("níti", "90"), ("hálvfems", "90"), ("null", "0"), ("tveir og tjúgu", "22"),
    ("tjúgu og tvey", "22"), ("tvey-og-tjúgu", "2-og-20"), ("tveyogtjúgu", "22"), ("Fimm og hálvtrýss", "55"),
    ("hundrað", "100"), ("trý hundrað og seytjan", "317"), ("tveyhundrað", "200"),
    ("hundrað og fimm og tretivu", "135"), ("tvey túsund trý hundrað og ellivu", "2311"),
    ("hundrað túsund", "100000"), ("ein millión og tvey túsund", "1002000"), ("ein", "1"), ("Eitt!", "1"),
    ("ein bátur", "ein bátur"), ("tveir og tríggir", "2 og 3"), ("tríggjar, fýra", "3, 4"),
    ("fimtan og fimm", "15 og 5"), ("sekstandi", "sekstandi"), ("tjúgu ella 12", "20 ella 12"),
    ("átta\u0301ti", "átta\u0301ti"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "digits"), WORDS)
def test_words_as_digits(words, digits):
    import unicodedata

    assert as_digits(words) == unicodedata.normalize("NFC", digits)
    assert as_digits(unicodedata.normalize("NFD", words)) == unicodedata.normalize("NFC", digits)
