"""What a step optimises: objectives with their weights, numbers, the pool's temperature. Reads and writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from trainer.config import Losses
from trainer.objective_config import ObjectiveSettings
from trainer.objectives import needs, scope, support_kind


@dataclass(frozen=True, eq=False)
class Method:
    """The same for all steps of a run."""

    objective: Mapping[str, float]
    clip: ObjectiveSettings
    losses: Losses = field(default_factory=Losses)
    temperature: float = 1.0
    """The pool's: RL, KL and drift are at it, imitation at 1 (MATH §1)."""
    behaviour_is_reference: bool = False
    """μ was rescored by the start policy itself: it is the reference where there are no other scores."""
    start_without_adapters: bool = False
    """The reference is the model with its adapters switched off, since the lake has no scores by the start."""
    special_n: Tensor | None = None
    """Special and template token ids, where an objective leaves them out."""
    autocast: str | None = None
    """bfloat16: forward passes in half precision over float32 weights."""
    sharded: bool = False
    """Weights lie in shards: every process must make the same number of passes."""

    @property
    def needs(self) -> frozenset[str]:
        """What the objectives look at (objectives.py)."""
        return needs(self.objective)

    @property
    def support(self) -> str | None:
        """Kind of soft targets of the samples that the objectives read beside log p; None: none."""
        return support_kind(self.objective, self.clip)

    @property
    def scope(self) -> str:
        """The widest of the objectives' scopes."""
        return scope(self.objective)
