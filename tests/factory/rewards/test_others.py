"""teacher_loglik, repetition, length, format: small components, values by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

Value = Callable[..., float | None]


def test_loglik_by_sum_scorer_token_and_byte(value: Value) -> None:
    loglik = partial(value, use="teacher_loglik", scorer_totals=-6.0, n_scorer_tokens=3, n_tokens=5)
    assert loglik("áð") == -6.0
    assert loglik("áð", form="token") == -2.0  # the scorer's three tokens, not the student's five
    assert loglik("áð", form="byte") == -1.5  # two letters of two bytes
    assert loglik("a\u0301", form="byte") == -2.0  # bytes as the scorer read them
    assert loglik("", form="byte") is None


def test_the_floor_bounds_the_mean_of_a_scorer_token(value: Value) -> None:
    loglik = partial(value, "áð", use="teacher_loglik", scorer_totals=-30.0, n_scorer_tokens=3, floor=-8)
    assert (loglik(form="sum"), loglik(form="token"), loglik(form="byte")) == (-24.0, -8.0, -6.0)
    assert loglik(form="token", scorer_totals=-21.0) == -7.0
    assert loglik(form="token", scorer_totals=float("-inf")) == -8.0
    assert loglik(n_scorer_tokens=None) is None and loglik(n_scorer_tokens=0) is None


def test_loglik_without_scores_is_missing_and_without_total_is_summed(value: Value) -> None:
    assert value("a", use="teacher_loglik") is None
    assert value("a", use="teacher_loglik", scorer_logprobs=[-1.0, -0.5]) == -1.5
    assert value("a", use="teacher_loglik", scorer_logprobs=[-1.0, None]) is None  # an unaligned token is not 0
    assert value("a", use="teacher_loglik", scorer_logprobs=[-1.0], form="token") is None


def test_repetition_is_the_share_of_n_grams_seen_before(value: Value) -> None:
    repeated = partial(value, use="repetition")
    assert repeated("Eg eg eg eg", n=1) == pytest.approx(3 / 4)
    assert repeated("á ø á ø á", n=2) == pytest.approx(2 / 4)
    assert repeated("á ø á ø á") == pytest.approx(1 / 3)
    assert repeated("eg eg") == 0.0  # no three words: nothing repeated
    assert repeated("ððð  ð", n=2, unit="chars") == pytest.approx(1 / 4)  # ðð ðð ð_ _ð


def test_length_in_words_characters_and_tokens(value: Value) -> None:
    assert value("á Ísoy, er 1.234,5 kr.", use="length") == 5.0
    assert value("a\u0301ð", use="length", unit="chars") == 2.0
    assert value("ja", use="length", unit="tokens", n_tokens=4) == 4.0
    assert value("ja", use="length", unit="tokens") is None


def test_the_penalty_grows_outside_the_band(value: Value) -> None:
    band = partial(value, use="length", form="band", low=2, high=3, margin=4)
    assert [band(" ".join("ð" * n)) for n in (2, 3, 5, 7, 20, 1, 0)] == [0, 0, -0.5, -1, -1, -0.25, -0.5]
    assert value("a b", use="length", form="band", high=1) == -1.0
    assert value("a b", use="length", form="band", low=1) == 0.0


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<think>á\nð</think>\n<answer>ø</answer>", 1),
        ("<think>á</think><answer>ø</answer> og", 0),
        ("<think> </think><answer>ø</answer>", 0),
        ("<think>á</think><answer>\n</answer>", 0),
        ("<think>á</think><answer>ø</answer><answer>ø</answer>", 0),
        ("<think><think>á</think><answer>ø</answer>", 0),
        ("<answer>ø</answer>", 0),
    ],
)
def test_format_of_tags(value: Value, text: str, right: int) -> None:
    assert value(text, use="format") == right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"staður": "Tórshavn"}', 1),
        ('```json\n{"staður": 1}\n```', 1),
        ('{"staður": 1, "tal": 2}', 1),
        ('{"stað": 1}', 0),
        ('["staður"]', 0),
        ('{"staður": NaN}', 0),
        ('{"staður": 1} og', 0),
        ("[" * 100_000, 0),
        ("", 0),
    ],
)
def test_format_of_json_with_its_keys(value: Value, text: str, right: int) -> None:
    assert value(text, use="format", kind="json", keys=["staður"]) == right
    assert value(f"<think>x</think> {text}", use="format", kind="json", keys=["staður"], part="answer") == right


def test_format_by_regular_expression(value: Value) -> None:
    regex = partial(value, use="format", kind="regex", pattern=r"[a-zðáø]+ er [a-zðáø]+")
    assert regex(" áin er køld\n") == 1.0
    assert regex("ja, áin er køld") == regex("áin er køld, ja") == 0.0
    assert regex("ja, áin er køld", match="search") == 1.0
    assert regex("svar: áin er køld", part="answer", answer_patterns=r"svar: (.*)") == 1.0
    assert regex("áin er køld", part="answer", answer_patterns=r"svar: (.*)") == 0.0
