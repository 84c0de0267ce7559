"""Numbers of the methods (`clip:`): bounds, bands, temperatures, and what the teacher's log-probabilities do.

Reads and writes nothing, imports no torch. Refuses values outside their range when a recipe is composed. A field's meaning is the
line under it; `--help` prints these lines."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from data.refusal import Refusal
from trainer.ranges import NEXT, in_range, one_of


@dataclass(frozen=True)
class Gspo:
    """The clip of gspo, on s = exp(mean_t log ρ); its own, since s moves far less than a token's ratio (arXiv 2507.18071 §5.1)."""

    low: float | None = 3e-4
    """Where A < 0, s below 1 − low stops the gradient; null never stops it."""
    high: float | None = 4e-4
    """Where A > 0, s above 1 + high stops the gradient; null never stops it."""

    def __post_init__(self) -> None:
        in_range("clip.gspo.low", self.low, 1e-12)
        in_range("clip.gspo.high", self.high, 1e-12)


@dataclass(frozen=True)
class Mis:
    """The band of mis: ratios outside it have no gradient."""

    low: float = 0.5
    """Smallest ratio that counts."""
    high: float = 2.0
    """Largest ratio that counts."""
    unit: str = "token"
    """token: ρ of each token; sample: s, for all its tokens at once."""

    def __post_init__(self) -> None:
        in_range("clip.mis.low", self.low, 0, 1)
        in_range("clip.mis.high", self.high, 1)
        one_of("clip.mis.unit", self.unit, ("token", "sample"))


@dataclass(frozen=True)
class Teacher:
    """How opd and minillm use log p, the teacher's on the student's tokens."""

    cap: float | None = None
    """C: largest ρ of opd and minillm; it biases; null is infinity."""
    horizon: int | None = None
    """opd: only the first so many tokens count; null: all."""
    decay: float = 1.0
    """opd: token t counts decay^t."""
    mask_special: bool = True
    """opd: whether special and template tokens are left out."""
    gamma: float = 1.0
    """minillm: discount of later tokens in R."""
    variant: str = "paper"
    """minillm: paper (MATH §5), or lmops: R from t on, rewards under the start policy, whitened over the step."""
    single: str = "observed"
    """minillm: a token's own KL from the drawn id (observed), or over top k and rest: the teacher's (coarse), student_topk."""

    def __post_init__(self) -> None:
        in_range("clip.teacher.cap", self.cap, 1e-12)
        in_range("clip.teacher.horizon", self.horizon, 1)
        in_range("clip.teacher.decay", self.decay, 0, 1)
        in_range("clip.teacher.gamma", self.gamma, 0, 1)
        one_of("clip.teacher.variant", self.variant, ("paper", "lmops"))
        one_of("clip.teacher.single", self.single, ("observed", "coarse", "student_topk"))


@dataclass(frozen=True)
class ObjectiveSettings:
    """Numbers of the methods. Raises Refusal for a value outside its range."""

    clip_low: float | None = 0.2
    """ε_l: where A < 0, ρ below 1 − ε_l stops the gradient; null never stops it (arXiv 1707.06347, eq. 7)."""
    clip_high: float | None = 0.2
    """ε_h: where A > 0, ρ above 1 + ε_h stops the gradient; null never stops it (apart from ε_l: arXiv 2503.14476 §3.1)."""
    dual_clip: float | None = None
    """c > 1: where A < 0, ρ above c stops the gradient too; null is off (arXiv 1912.09729, dual-clip PPO)."""
    cap: float | None = 2.0
    """C: largest weight of tis (a token's), seq_tis (a sample's) and the KL; null is infinity (Ionides 2008, truncated IS)."""
    mismatch_cap: float | None = 2.0
    """C_m: largest π_old/μ that corrects engine against trainer; null is infinity (Yao et al. 2025, TIS between engines)."""
    softmax_score: str = "mean"
    """z of seed_softmax: mean of log π over a sample's tokens, or their sum (the source's step 7 as written)."""
    m2_limit: float = 0.04
    """m2po: largest mean of (log ρ)² over the tokens that keep their gradient (arXiv 2510.01161)."""
    delta: float = 0.1
    """asymre: how far the baseline lies below the group's mean reward (arXiv 2506.20520)."""
    tau: float = 0.1
    """τ of kimi, tb_vargrad and astar_po: what a nat away from the reference costs."""
    gspo: Gspo = field(default_factory=Gspo)
    """The clip of gspo."""
    mis: Mis = field(default_factory=Mis)
    """The band of mis."""
    teacher: Teacher = field(default_factory=Teacher)
    """What the teacher's log-probabilities do in opd and minillm."""

    def __post_init__(self) -> None:
        lowest = {"clip_low": 0.0, "clip_high": 0.0, "dual_clip": 1.0, "cap": 0.0, "mismatch_cap": 0.0}
        for name, bound in lowest.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > bound):
                raise Refusal(
                    f"clip.{name}={value} must be a number above {bound:g}, or null for off",
                    f"{NEXT} clip.{name}=null",
                )
        one_of("clip.softmax_score", self.softmax_score, ("mean", "sum"))
        in_range("clip.m2_limit", self.m2_limit, 1e-12)
        in_range("clip.delta", self.delta, 0)
        in_range("clip.tau", self.tau, 1e-12)
