"""Numbers in European and English writing."""

from __future__ import annotations

import pytest

from factory.rewards._numerals import numerals


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.234,5", [{1234.5}]),
        ("1,234.5", [{1234.5}]),
        ("1.234.567", [{1234567.0}]),
        ("1,234,567.25", [{1234567.25}]),
        ("1.234", [{1234.0, 1.234}]),
        ("0,500", [{0.5}]),
        ("12,50 kr.", [{12.5}]),
        ("1 234", [{1234.0, 234.0}]),
        ("1\u00a0234,5", [{1234.5}]),
        ("1\u202f234 567", [{1234567.0, 567.0}]),
        ("1'234", [{1234.0}]),
        ("svarið er 72.", [{72.0}]),
        ("#### 72", [{72.0}]),
        ("-5 og −6,5", [{-5.0}, {-6.5}]),
        ("3-5", [{3.0}, {5.0}]),
        ("12.10.2024", [{2024.0}]),
        ("1.2,3.4", [{4.0}]),
        ("1.234,567,5", [{5.0}]),
        ("5 m2 CO2", [{5.0}]),
        ("7kg", [{7.0}]),
        ("2 3", [{2.0}, {3.0}]),
        ("\\boxed{42}", [{42.0}]),
        ("eitt, tvey", []),
        ("a\u03000 á0", []),
    ],
)
def test_readings_of_numerals(text: str, expected: list[set[float]]) -> None:
    assert [set(found) for found in numerals(text)] == expected


def test_the_decimal_sign_decides_where_both_are_possible() -> None:
    assert numerals("1.234 1,234", "comma") == [{1234.0}, {1.234}]
    assert numerals("1.234 1,234", "point") == [{1.234}, {1234.0}]
    assert numerals("12.5", "comma") == [{12.5}]  # it can mean nothing else
