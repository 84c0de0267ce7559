"""Running text against what only looks like it: shares by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from data.refusal import Refusal
from factory.rewards import component

Value = Callable[..., float | None]


@pytest.fixture
def share(value: Value) -> Value:
    """The bare share: no ramp."""
    return partial(value, use="prose", low=0.0, high=1.0)


def test_lower_case_words_count_once(share: Value) -> None:
    assert share("Hon býr í Havn") == pytest.approx(2 / 4)
    assert share("eg eg eg eg") == pytest.approx(1 / 4)
    assert share("ær, ø og á!") == 1.0
    assert share("er 7 km, 1.234 m2") == pytest.approx(3 / 5)  # m2 is a word, numbers are none
    assert share("FØROYAR ERU OYGGJAR") == 0.0
    assert share("á a\u0301") == pytest.approx(1 / 2)  # NFD is the same word


def test_nothing_escapes_by_being_unreadable(value: Value) -> None:
    for text in ("", "\n", "1 2 3 4", "😀😀", "Jógvan Poulsen Tórshavn", "Eg eg eg eg", "Jógvan. Marjun. Høgni."):
        assert value(text, use="prose") == 0.0, text


def test_the_ramp_between_low_and_high(value: Value) -> None:
    prose = partial(value, use="prose", low=0.25, high=0.75)
    assert prose("Eg eg eg eg") == 0.0
    assert prose("Hon býr í Havn") == pytest.approx((0.5 - 0.25) / 0.5)
    assert prose("hon býr í Havn") == 1.0


def test_windows_are_averaged_and_forget(share: Value) -> None:
    # windows of two: (a b) 1, (b b) ½, (b A) ½, (A a) ½
    assert share("a b b A a", window=2) == pytest.approx((1 + 0.5 + 0.5 + 0.5) / 4)
    assert share("a b c a b c", window=3) == 1.0  # a word may come again after the window
    assert share("a b c a b c", window=6) == pytest.approx(1 / 2)
    assert share("a b", window=9) == 1.0  # a text shorter than the window is one window


@pytest.mark.parametrize("given", [{"low": 0.5}, {"low": -0.1}, {"high": 1.1}, {"window": 0}])
def test_a_ramp_that_is_none_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(Refusal, match=r"window is|low is"):
        component({"use": "prose", **given})


def test_real_sentences_keep_what_they_have(faroese_text: Callable[[str], list[str]], value: Value) -> None:
    values = sorted(value(line, use="prose") or 0.0 for line in faroese_text("lid/fo.txt"))
    assert values[len(values) // 20] > 0.5 and values[len(values) // 4] == 1.0
