"""Stop rules on made-up metrics."""

from __future__ import annotations

from typing import Any

import pytest

from data.refusal import Refusal
from trainer.stop import Stopper, parse


def steps_until(rule: dict[str, Any], name: str, values: list[float | None]) -> int | None:
    stopper = Stopper(parse([rule]))
    for step, value in enumerate(values, 1):
        if stopper.seen(step, {} if value is None else {name: value}):
            return step
    return None


def test_a_goal_counts_only_from_its_first_step_on_and_is_called_matched() -> None:
    rule = {"metric": "probe/exact", "above": 0.97, "after": 3}
    assert steps_until(rule, "probe/exact", [0.99, 0.99, 0.98]) == 3
    assert steps_until(rule, "probe/exact", [0.99, 0.99, 0.96, 0.9]) is None
    assert parse([rule])[0].status == "matched"


def test_a_floor_stops_and_is_not_a_match() -> None:
    rule = {"metric": "drift/sequence_ess", "below": 0.1, "patience": 2}
    assert steps_until(rule, "drift/sequence_ess", [0.05, 0.2, 0.05, 0.09]) == 4
    assert parse([rule])[0].status == "stopped"
    assert parse([{"metric": "probe/kl", "above": 0.5}])[0].status == "stopped"


def test_a_metric_that_was_not_measured_says_nothing() -> None:
    rule = {"metric": "x", "below": 0.1, "patience": 2}
    assert steps_until(rule, "x", [0.0, None, None, 0.0]) == 4
    assert steps_until(rule, "x", [None] * 9) is None
    assert steps_until(rule, "x", [float("nan")] * 9) is None


def test_no_improvement_counts_measurements_since_the_best() -> None:
    rule = {"metric": "x", "patience": 2}
    assert steps_until(rule, "x", [0.1, 0.3, 0.2, 0.4, 0.4, None, 0.3]) == 7
    assert steps_until({**rule, "mode": "min"}, "x", [0.4, 0.3, 0.3, 0.35]) == 4


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("probe/exact", "names no metric"),
        ({"above": 1}, "names no metric"),
        ({"metric": "x", "abov": 1}, "did you mean 'above'"),
        ({"metric": "x"}, "no above, no below and no patience"),
        ({"metric": "x", "patience": 0}, "patience at least 1"),
        ({"metric": "x", "patience": 1, "mode": "most"}, "max or min"),
    ],
)
def test_a_rule_that_is_none_is_refused(rule: Any, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        parse([rule])
