"""Stop rules over any logged metric: a bound that is passed, or no improvement.

Reads the metrics of each step. Refuses rules that are not understood. A metric that was not measured in a step says nothing:
null is never zero."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data.refusal import Refusal, nearest

_KEYS = ("metric", "above", "below", "after", "patience", "mode")
_NEXT = "python -m trainer --help"


@dataclass(frozen=True)
class Rule:
    """One rule. With a bound: the metric at or beyond it for `patience` measurements in a row. Without: `patience`
    measurements in a row without a new best, by `mode` (max or min)."""

    metric: str
    above: float | None = None
    below: float | None = None
    after: int = 0
    """Steps before which the rule is silent; measurements before it do not count."""
    patience: int = 1
    mode: str = "max"

    @property
    def status(self) -> str:
        """`matched` where a probe reaches its goal, `stopped` where something runs away (a KL above its bound) or stands still."""
        goal = self.above is not None and self.metric.startswith("probe") and not self.metric.endswith("/kl")
        return "matched" if goal else "stopped"

    def text(self) -> str:
        """The rule as `runs.reason` shows it."""
        bounds = [
            f"{word} {value:g}" for word, value in (("above", self.above), ("below", self.below)) if value is not None
        ]
        return f"{self.metric} {' and '.join(bounds) or f'no better ({self.mode}) for {self.patience} measurements'}"


def parse(rules: list[Any]) -> list[Rule]:
    """Rules from the recipe's list; Refusal for a missing metric, an unknown key or a rule without an end."""
    return [_rule(rule) for rule in rules]


def refuse_unmeasured(metrics: Iterable[str | None], measured: Collection[str]) -> None:
    """Refuse a probe's metric that this run never measures: its rule would be silent for ever."""
    for metric in metrics:
        if metric is not None and metric.startswith("probe") and metric not in measured:
            known = nearest(metric, measured) if measured else "probe.every is null"
            raise Refusal(
                f"stop or checkpoint.best names {metric}, which no probe of this run measures: {known}", _NEXT
            )


def _rule(rule: Any) -> Rule:
    if not isinstance(rule, Mapping) or "metric" not in rule:
        raise Refusal(f"stop: {rule} names no metric", _NEXT)
    for key in rule:
        if key not in _KEYS:
            raise Refusal(f"stop: no key named {key!r}: {nearest(str(key), _KEYS)}", _NEXT)
    found = Rule(**{str(key): value for key, value in rule.items()})
    if found.above is None and found.below is None and "patience" not in rule:
        raise Refusal(f"stop: {dict(rule)} has no above, no below and no patience", _NEXT)
    if found.mode not in ("max", "min") or found.patience < 1:
        raise Refusal(f"stop: {dict(rule)}: mode is max or min, patience at least 1", _NEXT)
    return found


@dataclass
class Stopper:
    """The rules with what they have seen: per rule, measurements in a row and the best value."""

    rules: list[Rule]
    counts: list[int] = field(default_factory=list)
    best: list[float | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * len(self.rules)
        self.best = self.best or [None] * len(self.rules)

    def seen(self, step: int, metrics: Mapping[str, float]) -> Rule | None:
        """The first rule that ends the run at this step, or None."""
        ended = [rule for place, rule in enumerate(self.rules) if self._fires(place, rule, step, metrics)]
        return ended[0] if ended else None

    def _fires(self, place: int, rule: Rule, step: int, metrics: Mapping[str, float]) -> bool:
        value = metrics.get(rule.metric)
        if value is None or step < rule.after:
            return False
        self.counts[place] = self.counts[place] + 1 if self._counts(place, rule, value) else 0
        return self.counts[place] >= rule.patience

    def _counts(self, place: int, rule: Rule, value: float) -> bool:
        if rule.above is not None or rule.below is not None:
            return (rule.above is None or value >= rule.above) and (rule.below is None or value <= rule.below)
        best, sign = self.best[place], 1 if rule.mode == "max" else -1
        if best is None or sign * value > sign * best:
            self.best[place] = value
            return False
        return True
