"""Objectives: the coefficient c of log π for each sampled token, one function and one line of `OBJECTIVES` a method.

Reads a `StepView` (detached tensors of whole groups). Gives coefficients, and metrics as (sum, count) pairs that add
over micro-batches and processes. Does not aggregate, weigh or differentiate (losses.py does), and knows no disk.

Axis suffixes: b sample in the batch, t token. Log-probabilities in nats. For a token, ρ = π/μ with μ the behaviour;
for a sample, w = Π_t ρ_t over its unmasked tokens. Coefficients are zero outside the mask; a sample without an
unmasked token takes part in nothing. Every objective logs `surrogate`: the sum of a function whose derivative by log
π_t is exactly c_t, statistics that carry no gradient held fixed (the value of the loss is not that; a token's own reward is not
in the surrogate of objectives that weigh whole samples)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from data.refusal import Refusal, nearest
from trainer.objective_config import ObjectiveSettings
from trainer.objectives.group import raft, seed_softmax
from trainer.objectives.ratios import (
    MAX_LOG_RATIO,
    Aggregation,
    Coefficients,
    Metrics,
    Objective,
    Scope,
    flat_region,
    ratio,
    truncate,
)
from trainer.objectives.sequence import astar_po, asymre, gspo, kimi, seq_tis, tb_vargrad, topr
from trainer.objectives.teacher import minillm, opd, single_weight
from trainer.objectives.token import cispo, decoupled, grpo, m2po, mis, naive, tis

__all__ = [
    "MAX_LOG_RATIO", "OBJECTIVES", "Aggregation", "Coefficients", "Metrics", "Objective", "ObjectiveSettings", "Scope",
    "flat_region", "needs", "parse_objective", "ratio", "scope", "support_kind", "truncate",
]  # fmt: skip

_NEXT = "python -m trainer recipe=demo"
_REWARD = frozenset({"reward"})
_RATIO = frozenset({"behaviour", "reward"})
_OFFSET = frozenset({"raw_reward", "reference"})
_TEACHER = frozenset({"behaviour", "teacher"})

ROWS = (
    Objective("naive", "sample", "sample", _REWARD, naive),
    Objective("grpo", "token", "sample", _RATIO, grpo),
    Objective("dapo", "token", "token", _RATIO, grpo),
    Objective("dr_grpo", "token", "constant", _RATIO, grpo),
    Objective("decoupled", "token", "sample", _RATIO | {"prox"}, decoupled),
    Objective("gspo", "sample", "sample", _RATIO, gspo),
    Objective("cispo", "token", "token", _RATIO, cispo),
    Objective("tis", "token", "token", _RATIO, tis),
    Objective("seq_tis", "sample", "sequence", _RATIO, seq_tis),
    Objective("mis", "sample", "token", _RATIO, mis),
    Objective("m2po", "step", "token", _RATIO, m2po),
    Objective("topr", "sample", "sequence", _RATIO, topr),
    Objective("asymre", "sample", "sequence", frozenset({"raw_reward"}), asymre),
    Objective("kimi", "group", "sequence", _OFFSET, kimi),
    Objective("tb_vargrad", "group", "sequence", _OFFSET, tb_vargrad),
    Objective("astar_po", "group", "sequence", _OFFSET, astar_po),
    Objective("seed_softmax", "group", "prompt", _REWARD, seed_softmax),
    Objective("opd", "token", "token", _TEACHER | {"special"}, opd),
    Objective("raft", "group", "token", _REWARD, raft),
    Objective("minillm", "step", "token", _TEACHER, minillm, single_weight),
)
OBJECTIVES: dict[str, Objective] = {row.name: row for row in ROWS}
SCOPES: tuple[Scope, ...] = ("token", "sample", "group", "step")


# objectives whose advantage may differ from token to token (MATH §3)
TOKEN_REWARDS = frozenset(
    ("naive", "grpo", "dapo", "dr_grpo", "decoupled", "gspo", "cispo", "tis", "seq_tis", "mis", "m2po", "topr")
)


def needs(objective: Mapping[str, float]) -> frozenset[str]:
    """What any objective of the sum looks at."""
    return frozenset().union(*(OBJECTIVES[name].needs for name in objective))


def scope(objective: Mapping[str, float]) -> Scope:
    """The widest scope of the sum: what must be known before its first coefficient.

    >>> scope({"grpo": 1.0, "seq_tis": 0.5})
    'sample'
    """
    widths = [SCOPES.index(OBJECTIVES[name].scope) for name in objective]
    return SCOPES[max(widths, default=0)]


SUPPORT_KINDS = {"observed": None, "coarse": "top_k", "student_topk": "student_m"}


def support_kind(objective: Mapping[str, float], settings: ObjectiveSettings) -> str | None:
    """Kind of soft targets of the samples that the sum reads (`clip.teacher.single`); None: none.

    >>> support_kind({"minillm": 1.0}, ObjectiveSettings()) is None
    True
    """
    asked = any(OBJECTIVES[name].support is not None for name in objective)
    return SUPPORT_KINDS[settings.teacher.single] if asked else None


def parse_objective(value: str | Mapping[str, float]) -> dict[str, float]:
    """Objective names with their weights, those of weight 0 left out; raises Refusal for an unknown name (with the nearest) and for
    a weight that is no weight.

    >>> parse_objective({"grpo": 1, "naive": 0})
    {'grpo': 1.0}
    """
    weights = {value: 1.0} if isinstance(value, str) else dict(value or {})
    next_command = f"{_NEXT} objective=seq_tis"
    for name, weight in weights.items():
        if name not in OBJECTIVES:
            raise Refusal(f"objective {name!r} does not exist: {nearest(str(name), OBJECTIVES)}", next_command)
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            raise Refusal(
                f"objective {name!r} has weight {weight!r}, a number of at least 0 is asked for", next_command
            )
    if not any(weights.values()):
        raise Refusal("objective names nothing to optimise", next_command)
    return {name: float(weight) for name, weight in weights.items() if weight}
