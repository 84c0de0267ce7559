"""Names and numbers of the answer in the sample."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Value = Callable[..., float | None]


@pytest.fixture
def holds(value: Value) -> Value:
    return lambda text, *answers, **more: value(text, use="contains", answers=list(answers), **more)


def test_share_of_names_and_numbers_across_languages(holds: Value) -> None:
    answer = "The capital is Brasilia, founded in 1960 by Juscelino Kubitschek."
    assert holds("Høvuðsstaðurin er Brasília, stovnaður í 1960 av Juscelino Kubitschek", answer) == 1.0
    assert holds("Brasília, 1960", answer) == pytest.approx(2 / 4)
    assert holds("Brasília, 1960", answer, folded=False) == pytest.approx(1 / 4)
    assert holds("Brasília, 1960", answer, what="numbers") == 1.0
    assert holds("Brasília, 1960", answer, what="names") == pytest.approx(1 / 3)
    assert holds("", answer) == 0.0
    assert holds("<think>Brasília 1960</think> veit ikki", answer) == 0.0


def test_numbers_by_meaning_and_names_by_beginning(holds: Value) -> None:
    assert holds("12.345,5", "12,345.5") == 1.0
    assert holds("12.345", "12.5") == 0.0
    assert holds("í Tórshavnar kommunu", "Tórshavn") == 1.0
    assert holds("í Tórshavnar kommunu", "Tórshavn", match="word") == 0.0
    assert holds("ovastur", "Ov") == 0.0  # too short to be a beginning
    assert holds("á ov", "Ov") == 1.0


def test_openers_are_no_names_and_repeated_ones_count_once(holds: Value) -> None:
    assert holds("Suðuroy", "The Faroe. It is Suðuroy.") == pytest.approx(1 / 2)
    assert holds("Suðuroy", "The Suðuroy") == 1.0
    assert holds("Suðuroy", "The Suðuroy", stop=[]) == pytest.approx(1 / 2)
    assert holds("Ærø", "Ærø, Ærø, Ærø og Fyn 7 7") == pytest.approx(1 / 3)
    assert holds("ja", "no name at all") is None


def test_names_of_the_prompt_can_be_left_out(holds: Value) -> None:
    prompts = [{"role": "user", "content": "Hvør býr á Alvoy nr. 7?"}]
    answer = "Jógvan, Alvoy 7"
    assert holds("á Alvoy 7", answer, prompts=prompts) == pytest.approx(2 / 3)
    assert holds("á Alvoy 7", answer, prompts=prompts, new_only=True) == 0.0
    assert holds("Jógvan", answer, prompts=prompts, new_only=True) == 1.0
    assert holds("ja", "Alvoy", prompts=prompts, new_only=True) is None


def test_the_best_or_the_mean_of_several(holds: Value, value: Value) -> None:
    assert holds("Vágar", "Vágar", "Mykines", "ongin") == 1.0
    assert holds("Vágar", "Vágar", "Mykines", "ongin", over="mean") == 0.5
    assert value("Vágar", use="contains", to="references", references=["Vágar"], answers=["Nólsoy"]) == 1.0
