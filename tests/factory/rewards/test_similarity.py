"""Similarity against values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.rewards._chrf import score as chrf_score

Value = Callable[..., float | None]
TEXTS = st.text(st.sampled_from("áðøab \n"), max_size=30)


@pytest.fixture
def similar(value: Value) -> Value:
    return lambda text, *references, **more: value(text, use="similarity", references=list(references), **more)


def test_bleu_is_the_geometric_mean_of_clipped_precisions(similar: Value) -> None:
    bleu = partial(similar, metric="bleu")
    # one of five words differs at the end: 4/5 · 3/4 · 2/3 · 1/2 = 1/5
    assert bleu("fuglurin á Alvoy er lundi", "fuglurin á Alvoy er ryta") == pytest.approx(0.2**0.25)
    # all n-grams right, one word short: brevity penalty exp(1 − 5/4)
    assert bleu("á Alvoy er lundi", "fuglurin á Alvoy er lundi") == pytest.approx(math.exp(-0.25))
    # two words allow two orders: 1/2, and 0/1 smoothed to 1/2
    assert bleu("reyður hestur", "reyður seyður") == pytest.approx(0.5)
    # clipping: "ja" counts once of four; 1/4 · 1/6 · 1/8 · 1/8 with halving for 0/3, 0/2, 0/1
    assert bleu("ja ja ja ja", "ja á ø ð") == pytest.approx((1 / 4 * 1 / 6 * 1 / 8 * 1 / 8) ** 0.25)
    assert bleu("á Ísoy", "á Ísoy") == 1.0


def test_chrf_is_f2_of_character_n_grams(similar: Value) -> None:
    chrf = partial(similar, metric="chrf")
    # 2 of 3 letters, no pair, no triple; longer n-grams do not exist: (2/3 + 0 + 0) / 3
    assert chrf("mús", "más") == pytest.approx(2 / 9)
    # precision 1, recall (4/6 + 3/5 + 2/4 + 1/3) / 4 = .525; F2 = 5·P·R / (4·P + R)
    assert chrf("reyð", "reyður") == pytest.approx(5 * 0.525 / 4.525)
    # recall 1, precision .525: the two are not treated alike
    assert chrf("reyður", "reyð") == pytest.approx(5 * 0.525 / (4 * 0.525 + 1))
    assert chrf("bø ur", "bøur") == 1.0  # spaces do not count
    # all but the last of six letters: 5/6, 4/5, 3/4, 2/3, 1/2 and 0/1 of the n-grams, of either side
    assert chrf("reyðin", "reyðir") == pytest.approx((5 / 6 + 4 / 5 + 3 / 4 + 2 / 3 + 1 / 2) / 6)


@given(text=TEXTS, target=TEXTS)
def test_chrf_is_what_sacrebleu_says(text: str, target: str) -> None:
    from sacrebleu.metrics import CHRF

    assert chrf_score(text, target) == pytest.approx(CHRF().sentence_score(text, [target]).score / 100, abs=1e-12)


def test_rouge_l_is_f1_of_the_common_subsequence(similar: Value) -> None:
    rouge = partial(similar, metric="rouge_l")
    # á Ísoy er svørt: 4 of 5 and of 6 words, 2·4/11
    assert rouge("kráka á Ísoy er svørt", "á Ísoy er ein svørt kráka") == pytest.approx(8 / 11)
    assert rouge("ð ø á", "á ø ð") == pytest.approx(1 / 3)
    assert rouge("smør.", "smør") == 1.0
    assert rouge("smor", "smør") == 0.0  # ø is a letter of its own
    assert rouge("!!", "smør") == 0.0


def test_edit_distance_counts_characters_of_nfc(similar: Value) -> None:
    edit = partial(similar, metric="edit")
    assert edit("lundi", "lundar") == pytest.approx(1 - 2 / 6)
    assert edit("mork", "mørk") == pytest.approx(3 / 4)
    assert edit("a\u0301n", "án") == 1.0
    assert edit("áðø", "xyz") == 0.0


def test_exact_match_ignores_white_space_and_composition_only(similar: Value) -> None:
    exact = partial(similar, metric="exact")
    assert exact("  Á\n Ísoy ", "A\u0301 Ísoy") == 1.0
    assert exact("á Ísoy", "Á Ísoy") == 0.0
    assert exact("á Ísoy", "Á Ísoy", casefold=True) == 1.0
    assert exact("á Ísoy.", "á Ísoy") == 0.0
    assert exact("Ísoy", "á Ísoy") == 0.0


def test_positional_overlap_is_the_share_of_positions(similar: Value) -> None:
    positional = partial(similar, metric="positional")
    assert positional("á Alvoy er lundi", "á Ísoy er ravnur nú") == pytest.approx(2 / 5)
    assert positional("ja á Ísoy", "á Ísoy") == 0.0  # moved by one: nothing stands in its place
    assert positional("ð", "ð ð ð ð") == pytest.approx(1 / 4)
    assert positional("ð ð ð ð", "ð") == pytest.approx(1 / 4)


def test_the_best_or_the_mean_of_several(similar: Value, value: Value) -> None:
    assert similar("á", "á", "ó", " ", metric="exact") == 1.0
    assert similar("á", "á", "ó", " ", metric="exact", over="mean") == 0.5  # blank ones are none
    assert value("á", use="similarity", to="answers", metric="exact", answers=["á"], references=["ó"]) == 1.0


def test_the_answer_span_is_compared_where_asked_for(similar: Value) -> None:
    text = "<think>lundi?</think> Svarið: ryta."
    assert similar(text, "ryta", metric="exact") == 0.0
    assert similar(text, "ryta", metric="exact", part="answer", answer_patterns=r": (\w+)") == 1.0
    assert similar("<think>ryta", "ryta", metric="exact", part="answer") == 0.0
    found = {"metric": "exact", "part": "answer", "casefold": True, "answer_patterns": r": (\w+)"}
    assert similar("Svarið: ryta", "RYTA", **found) == 1.0  # the reference is bare: the pattern is not in it
    assert similar("Svarið: ryta", "<think>ryta", **found) is None
    assert similar("veit ikki", "veit ikki", metric="exact", part="answer", answer_patterns=r": (\w+)") == 0.0
