"""Letters of the Faroese alphabet."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from factory.rewards import Batch, component
from factory.rewards.alphabet import ALPHABETS

Value = Callable[..., float | None]


def test_the_faroese_alphabet_has_29_letters() -> None:
    assert len(set(ALPHABETS["fo"])) == len(ALPHABETS["fo"]) == 29
    assert not set("cqwxzþåö") & set(ALPHABETS["fo"])


def test_share_of_letters(value: Value) -> None:
    assert value("Áðø, ÝÆ! 12 😀", use="alphabet") == 1.0
    assert value("på", use="alphabet") == 0.5
    assert value("þórður", use="alphabet") == pytest.approx(5 / 6)
    assert value("o\u0301", use="alphabet") == 1.0
    assert value("n\u0308a", use="alphabet") == 0.5  # n with two dots is another letter
    assert value("12, 😀", use="alphabet") is None


def test_older_spelling_and_other_alphabets(value: Value) -> None:
    assert value("börn", use="alphabet") == pytest.approx(3 / 4)
    assert value("bo\u0308rn", use="alphabet", also="o\u0308") == 1.0
    assert value("acd", use="alphabet", letters="ABC") == pytest.approx(2 / 3)


def test_real_faroese_is_written_in_it_and_swedish_is_not(faroese_text: Callable[[str], list[str]]) -> None:
    def mean(language: str) -> float:
        rewards = component({"use": "alphabet"}).score(Batch.of_texts(faroese_text(f"lid/{language}.txt")))
        values = [reward.value for reward in rewards if reward.value is not None]
        return sum(values) / len(values)

    assert mean("fo") > 0.995 > 0.97 > mean("sv")
