"""How far the policy has left the pool: sums over tokens and sequences that add over micro-batches and processes.

Reads log-ratios log π − log μ and a mask. Gives `DriftSums`, whose `figures` divide once. Loads no model and knows no
disk. Axis suffixes: b sample in the batch, t token. Log-probabilities in nats. Source: MATH §9."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from trainer.objectives import MAX_LOG_RATIO, ObjectiveSettings, flat_region, ratio
from trainer.view import StepView, masked

# twice this in the exponent is finite in float64, so a sequence's squared weight is; float32 sums would end at 44
MAX_LOG_WEIGHT = 300.0


@dataclass(frozen=True, eq=False)
class DriftSums:
    """Sums in float64, 0-dimensional, additive with `+`; ρ of a token, w = Π_t ρ_t of a sample's unmasked tokens."""

    tokens: Tensor
    """n of tokens."""
    token_ratio: Tensor
    """Σ ρ."""
    token_square: Tensor
    """Σ ρ²."""
    token_minus_log: Tensor
    """Σ −log ρ."""
    token_clipped: Tensor
    """Tokens whose gradient the clip of `grpo` stops."""
    token_broken: Tensor
    """Tokens with log ρ > MAX_LOG_RATIO: the record is broken, not the policy far."""
    samples: Tensor
    """n of sequences with at least one unmasked token."""
    sample_ratio: Tensor
    """Σ w."""
    sample_square: Tensor
    """Σ w²."""
    sample_minus_log: Tensor
    """Σ −log w."""

    def __add__(self, other: DriftSums) -> DriftSums:
        return DriftSums.unstack(self.stack() + other.stack())

    def stack(self) -> Tensor:
        """All sums as one vector, for one all-reduce."""
        return torch.stack([getattr(self, part.name) for part in fields(self)])

    @classmethod
    def unstack(cls, sums: Tensor) -> DriftSums:
        """The inverse of `stack`."""
        return cls(*sums.unbind())

    @classmethod
    def zero(cls) -> DriftSums:
        """What an empty pool adds."""
        return cls.unstack(torch.zeros(len(fields(cls)), dtype=torch.float64))

    @classmethod
    def from_view(cls, view: StepView, settings: ObjectiveSettings) -> DriftSums:
        """Of one micro-batch of whole samples; log ρ = log π − log μ, the clip's sides from the advantages' signs."""
        flat_bt = flat_region(ratio(view.logprobs_bt - view.behaviour_bt), view.advantage_b[:, None], settings)
        return cls.from_log_ratio(view.logprobs_bt - view.behaviour_bt, view.mask_bt, flat_bt)

    @classmethod
    def from_log_ratio(cls, log_ratio_bt: Tensor, mask_bt: Tensor, clipped_bt: Tensor) -> DriftSums:
        """Of whole samples (b, t): log ρ in nats, the tokens that count, and (bool) those that the clip stops."""
        log_bt, live_b = masked(log_ratio_bt, mask_bt).to(torch.float64), mask_bt.any(1)
        log_n, log_w = log_bt[mask_bt], log_bt.sum(1)[live_b]
        ratio_n, weight_b = log_n.clamp(max=MAX_LOG_WEIGHT).exp(), log_w.clamp(max=MAX_LOG_WEIGHT).exp()
        return cls(
            tokens=mask_bt.sum().to(torch.float64),
            token_ratio=ratio_n.sum(),
            token_square=ratio_n.square().sum(),
            token_minus_log=-log_n.sum(),
            token_clipped=(clipped_bt & mask_bt).sum().to(torch.float64),
            token_broken=(log_n > MAX_LOG_RATIO).sum().to(torch.float64),
            samples=live_b.sum().to(torch.float64),
            sample_ratio=weight_b.sum(),
            sample_square=weight_b.square().sum(),
            sample_minus_log=-log_w.sum(),
        )

    def figures(self) -> dict[str, float]:
        """The figures by name; one that has no denominator (nothing counted, all weights zero) is absent, never 0.

        token_ess, sequence_ess: (Σw)²/(n·Σw²), ESS/n in (0, 1] (Kong 1992). token_ratio, sequence_ratio: E_μ[ρ], 1
        where μ has full support. token_second_moment, sequence_second_moment: E_μ[ρ²]. token_kl, sequence_kl: KL(μ‖π)
        as the mean of −log ρ under μ (Schulman 2020, k1: unbiased, may be negative on a small pool). token_kl_k3: the
        mean of ρ − 1 − log ρ, the same expectation, never negative. clipped, broken: shares of tokens."""
        n, m = self.tokens, self.samples
        pairs = {
            "token_ess": (self.token_ratio.square(), n * self.token_square),
            "token_ratio": (self.token_ratio, n),
            "token_second_moment": (self.token_square, n),
            "token_kl": (self.token_minus_log, n),
            "token_kl_k3": (self.token_ratio - n + self.token_minus_log, n),
            "clipped": (self.token_clipped, n),
            "broken": (self.token_broken, n),
            "sequence_ess": (self.sample_ratio.square(), m * self.sample_square),
            "sequence_ratio": (self.sample_ratio, m),
            "sequence_second_moment": (self.sample_square, m),
            "sequence_kl": (self.sample_minus_log, m),
        }
        return {name: float(top / bottom) for name, (top, bottom) in pairs.items() if bottom > 0}


def reward_sums(view: StepView) -> dict[str, tuple[Tensor, Tensor]]:
    """(sum, count) of the step's rewards r over its samples in the loss, by name; {} where rewards were not read.

    `reward/pool`: Σ r / n, the mean under μ, which training does not move. `reward/weighted`: Σ w·r / Σ w with w = π(y)/μ(y) of
    the whole sample, the self-normalised estimate of the mean under π on the step's prompts (Kong 1992; bias O(1/n)). It says
    something where `drift/sequence_ess` is not small, and flatters once the pool is read a second time: π was trained on these
    samples then. `python -m trainer.drift` leaves those out and gives an interval."""
    if view.reward_b is None:
        return {}
    live_b = view.mask_bt.any(1)
    log_b = masked(view.logprobs_bt - view.behaviour_bt, view.mask_bt).to(torch.float64).sum(1)
    reward_n, weight_n = view.reward_b[live_b].double(), log_b[live_b].clamp(max=MAX_LOG_WEIGHT).exp()
    return {
        "reward/pool": (reward_n.sum(), live_b.sum()),
        "reward/weighted": ((weight_n * reward_n).sum(), weight_n.sum()),
    }
