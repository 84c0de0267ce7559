"""Minus bits per byte, by hand; the scorers that a recipe names."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

Value = Callable[..., float | None]
BIT = math.log(2)  # nats


def test_minus_bits_a_byte_by_hand(value: Value) -> None:
    assert value("áð", use="fluency", scorer_totals=-8 * BIT) == pytest.approx(-2.0)  # 8 bits over 2 letters of 2 bytes
    assert value("ad", use="fluency", scorer_totals=-8 * BIT) == pytest.approx(-4.0)
    assert value("Tað er kalt á Ísoy", use="fluency", scorer_totals=-42 * BIT) == pytest.approx(
        -2.0
    )  # 18 letters, ð á Í
    assert value("ø", use="fluency", scorer_totals=0.0) == 0.0


def test_the_likelier_text_is_the_more_fluent_one(value: Value) -> None:
    likely, unlikely = (value("hon býr her", use="fluency", scorer_totals=total) for total in (-9.0, -30.0))
    assert likely is not None and unlikely is not None and likely > unlikely


def test_not_scored_is_missing_and_never_zero(value: Value) -> None:
    assert value("áð", use="fluency") is None
    assert value("", use="fluency", scorer_totals=-1.0) is None


def test_the_floor(value: Value) -> None:
    assert value("áð", use="fluency", scorer_totals=-80 * BIT, floor=-4) == -4.0
    assert value("áð", use="fluency", scorer_totals=-8 * BIT, floor=-4) == pytest.approx(-2.0)
    assert value("áð", use="fluency", scorer_totals=-math.inf, floor=-4) == -4.0
