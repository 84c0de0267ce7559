"""What an expression may say, what it means, and how it refuses."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from data.advantages import evaluate
from data.expression import compile_expression
from data.refusal import Refusal

LABELS = ["a", "b", "language", "chrf", "length", "format"]
NAN = float("nan")


def _value(text: str, **columns: list[object]) -> list[float]:
    """The expression over columns, one group a `g` value; NaN as it is."""
    table = pa.table(columns)
    return evaluate(compile_expression(text, LABELS), table, group="g").tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + 0.5*b - 2", 1.0),
        ("-1*(a)", -2.0),
        ("a / 4", 0.5),
        ("a % 2", 0.0),
        ("CASE WHEN a >= 2 THEN 1 ELSE -1 END", 1.0),
        ("CASE a WHEN 2 THEN 7 END", 7.0),
        ("CASE WHEN a > 2 THEN 1 END", NAN),
        ("a > 1 AND NOT b = 1", 1.0),
        ("(a > 1) + (b > 1) + (a > 2)", 2.0),
        ("a IN (1, 2)", 1.0),
        ("a BETWEEN 3 AND 4", 0.0),
        ("clip(a, 0, 1.5)", 1.5),
        ("clip(a, 3, 4)", 3.0),
        ("least(a, b, 1) + greatest(a, b)", 3.0),
        ("abs(-a) + floor(2.7) + round(a * 0.26, 1) + sqrt(b * 2)", 6.5),
        ("exp(ln(a)) + power(a, 3)", 10.0),
        ("n_tokens * 1000000000", 5e9),
        ("finish_reason = 'stop'", 1.0),
        ("finish_reason IN ('length', 'none')", 0.0),
        ('"format" + length', 1.0),
    ],
)
def test_expressions_mean_what_they_say(text: str, expected: float) -> None:
    columns = {"g": [1], "a": [2.0], "b": [2.0], "n_tokens": pa.array([5], pa.int32()), "finish_reason": ["stop"]}
    found = _value(text, **columns, format=[0.25], length=[0.75])
    assert found == pytest.approx([expected], nan_ok=True)


@pytest.mark.parametrize(
    "text",
    ["a + 1", "clip(a, 0, 1)", "least(a, 1)", "greatest(a, 1)", "a > 0", "zscore_group(a)", "rank_group(a)", "-a"],
)
def test_a_value_that_is_missing_stays_missing(text: str) -> None:
    assert np.isnan(_value(text, g=[1, 1], a=pa.array([None, 1.0]))[0])


def test_coalesce_and_is_null_are_the_ways_to_give_a_missing_value_a_meaning() -> None:
    columns = {"g": [1, 1], "a": pa.array([None, 3.0])}
    assert _value("coalesce(a, 0)", **columns) == [0.0, 3.0]
    assert _value("a IS NULL", **columns) == [1.0, 0.0]
    assert _value("CASE WHEN a IS NOT NULL THEN a ELSE -1 END", **columns) == [-1.0, 3.0]


@pytest.mark.parametrize("text", ["1 / a", "ln(a)", "sqrt(a - 1)", "exp(1000 + a)", "power(a - 1, 0.5)"])
def test_what_is_no_finite_number_is_missing(text: str) -> None:
    assert np.isnan(_value(text, g=[1], a=[0.0])).all()


def test_one_infinite_argument_does_not_spoil_its_group() -> None:
    found = _value("mean_group(1 / a)", g=[1, 1, 1], a=[0.0, 1.0, 0.5])
    assert found == [1.5, 1.5, 1.5]


def test_group_functions_by_hand() -> None:
    columns = {"g": [1, 1, 1, 1, 2], "a": pa.array([1.0, 3.0, 3.0, None, 9.0])}
    mean, std = 7 / 3, np.sqrt(8 / 9)
    assert _value("zscore_group(a)", **columns) == pytest.approx(
        [(1 - mean) / std, (3 - mean) / std, (3 - mean) / std, NAN, 0], nan_ok=True
    )
    assert _value("rank_group(a)", **columns) == pytest.approx([-1, 0.5, 0.5, NAN, 0], nan_ok=True)
    assert _value("mean_group(a)", **columns) == pytest.approx([mean] * 4 + [9])
    assert _value("zscore_all(a)", **columns) == pytest.approx([-1, -1 / 3, -1 / 3, NAN, 5 / 3], nan_ok=True)
    assert _value("zscore_group(a - mean_group(a))", **columns) == pytest.approx(
        _value("zscore_group(a)", **columns), nan_ok=True
    )


def test_equal_values_have_no_spread_whatever_rounding_leaves() -> None:
    assert np.std([0.1] * 3) > 0  # the trap: divided by this, rounding becomes an advantage of one
    assert _value("zscore_group(a)", g=[1, 1, 1], a=[0.1, 0.1, 0.1]) == [0, 0, 0]
    assert _value("a > mean_group(a)", g=[1, 1, 1], a=[0.1, 0.1, 0.1]) == [0, 0, 0]
    assert _value("zscore_all(a)", g=[1, 2, 3], a=[0.1, 0.1, 0.1]) == [0, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a; drop table x", "2"),
        ("", "not one expression"),
        ("   ", "not one expression"),
        ("a,", "cannot be read"),
        ("(a", "cannot be read"),
        ("*", "may"),
        ("count(*)", "may"),
        ("sum(a)", "may"),
        ("max(a) OVER ()", "may"),
        ("(SELECT 1)", "may"),
        ("a IN (SELECT 1)", "may|subquery"),
        ("a::INT", "may"),
        ("a LIKE 'x'", "may"),
        ("random() * a", "may|unknown function"),
        ("getenv('HOME') = 'x'", "unknown function"),
        ("read_text('/etc/passwd') = a", "unknown function"),
        ("a AS b", "may"),
        ("agreemnt", "unknown column"),
        ("chrff + 1", "did you mean 'chrf'"),
        ("samples.a", "unknown column"),
        ("zscore_grup(a)", "did you mean 'zscore_group'"),
        ("zscore_group(a, b)", "2 arguments"),
        ("clip(a)", "1 arguments"),
        ("1 + 1", "names no component"),
        ("finish_reason", "a text, not a number"),
        ("finish_reason + 1", "as a number"),
        ("a = 'stop'", "mixes"),
        ("NOT a", "as a condition"),
        ("CASE WHEN a THEN 1 END", "as a condition"),
        ("NULL", "null, not a number"),
    ],
)
def test_what_is_no_single_scalar_is_refused(text: str, message: str) -> None:
    with pytest.raises(Refusal, match=message) as refused:
        compile_expression(text, LABELS)
    assert str(refused.value).count("\n") == 1


def test_an_expression_names_what_it_reads() -> None:
    expression = compile_expression("zscore_group(a) + 0.5*(finish_reason = 'stop')", LABELS)
    assert expression.names == {"a", "finish_reason"}


def test_equal_calls_are_computed_once() -> None:
    assert len(compile_expression("zscore_group(a) * zscore_group(a) + mean_group(a)", LABELS).steps) == 2


def test_a_column_that_is_not_there_is_refused() -> None:
    with pytest.raises(Refusal, match="names b"):
        evaluate(compile_expression("a + b", LABELS), pa.table({"g": [1], "a": [1.0]}), group="g")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agreement +", "something is missing behind '+'"),
        ("case when a", "something is missing behind 'a'"),
        ("abs()", "something is missing before ')'"),
        ("clip(a, 0", "')' is missing behind '0'"),
        ("a * * 2", "'2' is out of place behind 'a * *'"),
        ("'abc", "is a quotation mark left open?"),
    ],
)
def test_what_cannot_be_read_is_said_in_words(text: str, said: str) -> None:
    with pytest.raises(Refusal) as refused:
        compile_expression(text, ["a", "agreement"])
    assert said in refused.value.args[0] and "class" not in refused.value.args[0]
