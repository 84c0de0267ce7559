"""The table and the sentences that `python -m trainer.drift` prints. Reads what was measured; writes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

from data.command import recipes
from data.typed import Typed
from trainer.config import TrainerSettings
from trainer.drift.config import DriftSettings
from trainer.drift.measure import Measured

ROWS = {
    "ESS/n": ("token_ess", "sequence_ess"),
    "mean ratio E_μ[ρ]": ("token_ratio", "sequence_ratio"),
    "second moment E_μ[ρ²]": ("token_second_moment", "sequence_second_moment"),
    "KL(μ‖π), nats": ("token_kl", "sequence_kl"),
    "k-hat": ("token_k_hat", "sequence_k_hat"),
    "clipped share": ("clipped", ""),
    "broken share": ("broken", ""),
}


def shown(settings: DriftSettings, measured: Measured) -> str:
    """The whole answer as text."""
    figures = measured.figures
    lines = [
        f"run {settings.run}, {measured.groups} of {measured.of} groups of {measured.pool}",
        f"weights {measured.weights}",
        "",
        f"{'':<26}{'token':>12}{'sample':>12}",
        *(f"{name:<26}{_cell(figures, token)}{_cell(figures, whole)}" for name, (token, whole) in ROWS.items()),
        f"{'groups without spread':<26}{'':>12}{_cell(figures, 'zero_variance')}",
        "",
        *_value(measured),
        "",
        measured.verdict.words,
        *(f"note: {note}" for note in measured.verdict.notes),
        f"next: {_next(settings, measured)}",
    ]
    return "\n".join(line.rstrip() for line in lines)


def _cell(figures: Mapping[str, float], name: str) -> str:
    if name not in figures:
        return f"{'':>12}"
    number = figures[name]
    return f"{'none' if number == -math.inf else 'unknown' if math.isnan(number) else f'{number:.4g}':>12}"


def _value(measured: Measured) -> list[str]:
    found = measured.value
    lines = [f"mean reward of the pool {found.pool:.4f}"]
    if found.estimate is None or found.interval is None:
        return [*lines, f"mean reward of the policy: {found.reason}"]
    low, high = found.interval
    beside = f"from {found.groups} groups that it was not trained on"
    return [*lines, f"mean reward of the policy {found.estimate:.4f}, 95 % interval {low:.4f} … {high:.4f}, {beside}"]


def _next(settings: DriftSettings, measured: Measured) -> str:
    """The command that goes on, with the words that the run was started with."""
    places, name = [f"lake={settings.lake}", f"runs={settings.runs}"], measured.recipe.name
    own = TrainerSettings.__dataclass_fields__
    typed = Typed.of("trainer", measured.words or [f"recipe={name}"], own)
    if measured.verdict.replay:
        command = typed.again("trainer", [*places, "run=ANOTHER_NAME", "steps=MORE"], ("resume",))
    else:
        command = typed.again(
            "factory", [*places, f"policy=run:{settings.run}", "stages=[samples,scores,rewards]"], ("pool",)
        )
    if measured.words is None and name not in recipes([]):
        command += f"   (with the --config-dir that has recipe/{name}.yaml)"
    return command
