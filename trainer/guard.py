"""The guard: while a probe's figure is beyond its bound, other weights hold, e.g. copying pauses until the language is back.

Reads the recipe's rules and each step's metrics. Refuses rules that are not understood. A figure that was not measured changes
nothing: the last one counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data.refusal import Refusal, nearest
from trainer.schedule import TERMS, Weights, line

_KEYS = ("metric", "above", "below", "weights")
_NEXT = "python -m trainer --help"


@dataclass(frozen=True)
class GuardRule:
    """One rule: these weights hold while the metric's last value is above or below its bound."""

    metric: str
    weights: dict[str, float]
    above: float | None = None
    below: float | None = None

    def beyond(self, value: float) -> bool:
        """Whether the value calls for the other weights."""
        return (self.above is not None and value > self.above) or (self.below is not None and value < self.below)


def parse_guard(rules: list[Any]) -> list[GuardRule]:
    """Rules from `probe.guard`; Refusal for a missing metric or bound, an unknown key or term."""
    return [_rule(rule) for rule in rules]


def _rule(rule: Any) -> GuardRule:
    if not isinstance(rule, Mapping) or "metric" not in rule or not isinstance(rule.get("weights"), Mapping):
        raise Refusal(f"probe.guard: {rule} needs a metric and weights", _NEXT)
    for key, known in [*((k, _KEYS) for k in rule), *((k, TERMS) for k in rule["weights"])]:
        if key not in known:
            raise Refusal(f"probe.guard: no key named {key!r}: {nearest(str(key), known)}", _NEXT)
    if rule.get("above") is None and rule.get("below") is None:
        raise Refusal(f"probe.guard: {dict(rule)} has neither above nor below", _NEXT)
    weights = {str(name): line(str(name), value, 1) for name, value in rule["weights"].items()}
    return GuardRule(str(rule["metric"]), weights, rule.get("above"), rule.get("below"))


@dataclass
class Guard:
    """The rules, and which of them hold now."""

    rules: list[GuardRule]
    active: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.active = self.active or [False] * len(self.rules)

    def seen(self, metrics: Mapping[str, float]) -> None:
        """Take note of a step's metrics."""
        for place, rule in enumerate(self.rules):
            if rule.metric in metrics:
                self.active[place] = rule.beyond(metrics[rule.metric])

    def changed(self, weights: Weights) -> Weights:
        """The weights that hold now; of several active rules the last one wins, term by term."""
        for rule, active in zip(self.rules, self.active, strict=True):
            weights = weights.with_(rule.weights) if active else weights
        return weights
