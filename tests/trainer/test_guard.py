"""The guard switches weights on what probes measured last, and back."""

from __future__ import annotations

import pytest

from data.refusal import Refusal
from trainer.guard import Guard, parse_guard
from trainer.schedule import Weights

RULE = {"metric": "probe/language", "below": 0.8, "weights": {"rl": 0, "pt": 0.5}}
NOW = Weights(1.0, 0.5, 0.1, 0.02)


def test_the_weights_hold_while_the_last_value_is_beyond_the_bound() -> None:
    guard = Guard(parse_guard([RULE]))
    seen = []
    for metrics in ({}, {"probe/language": 0.79}, {}, {"probe/language": 0.8}, {"probe/other": 0.1}):
        guard.seen(metrics)
        seen.append(guard.changed(NOW))
    low = Weights(0, 0.5, 0.5, 0.0)
    assert seen == [NOW, low, low, NOW, NOW]
    assert Guard(parse_guard([RULE]), [True]).changed(NOW) == low  # as a resumed run finds it


def test_of_two_active_rules_the_last_wins_term_by_term() -> None:
    second = {"metric": "probe/kl", "above": 0.1, "weights": {"pt": 0.2}}
    guard = Guard(parse_guard([RULE, second]))
    guard.seen({"probe/language": 0.1, "probe/kl": 0.2})
    assert guard.changed(NOW) == Weights(0, 0.5, 0.2, 0.0)
    guard.seen({"probe/kl": 0.1})
    assert guard.changed(NOW) == Weights(0, 0.5, 0.5, 0.0)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"below": 0.8, "weights": {}}, "needs a metric and weights"),
        ({"metric": "probe/x", "weights": {"rl": 0}}, "neither above nor below"),
        ({**RULE, "weigths": {}}, "did you mean 'weights'"),
        ({**RULE, "weights": {"rll": 0}}, "did you mean 'rl'"),
        ({**RULE, "weights": {"rl": -1}}, "at least 0"),
        ("probe/language", "needs a metric"),
    ],
)
def test_a_rule_that_is_not_understood_is_refused(rule: object, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        parse_guard([rule])
