"""The `trainer:` section of a recipe: what a step reads, what it weighs, how it moves the weights, what is watched.

Reads and writes nothing and imports neither torch nor the lake, so that `--help` stays light. Refuses numbers outside their range
when a recipe is composed. Every field's meaning is the line under it; `--help` prints these lines."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

from data import refusal
from data.config import Recipe
from data.refusal import Refusal, nearest

_NEXT = "python -m trainer recipe=demo"
in_range = functools.partial(refusal.in_range, command="trainer")


def one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Refuse a word that is none of the known ones."""
    if value not in known:
        raise Refusal(f"{name}={value}: {nearest(str(value), known)}", f"{_NEXT} {name}={known[0]}")


@dataclass(frozen=True)
class Losses:
    """Weights of the loss terms: a number, or a line {from, to, steps} that stays at `to` afterwards."""

    rl: Any = 1.0
    """λ of the objective on the pool's samples; 0 everywhere: no pool is needed."""
    bc: Any = 0.5
    """λ of behaviour cloning; 0 everywhere: no answers are needed."""
    pt: Any = 0.1
    """λ of the language-modelling loss on corpus documents; 0 everywhere: no corpus is needed."""
    kl: Any = 0.02
    """β of the KL to the starting policy, on the step's samples: it acts only in steps whose rl is above 0."""
    aggregation: str | None = None
    """token, sample, sequence, constant or prompt in place of every objective's own; null: its own."""
    phases: list[Any] = field(default_factory=list)
    """Blocks of steps with other weights, in order, e.g. [{steps: 30, rl: 0}]; after the last the weights above hold."""

    def __post_init__(self) -> None:
        if self.aggregation is not None:
            one_of("losses.aggregation", self.aggregation, ("token", "sample", "sequence", "constant", "prompt"))


@dataclass(frozen=True)
class Replay:
    """What one step reads from the lake, and how rewards become advantages."""

    prompts: int = 16
    """Groups a step."""
    answers: int = 32
    """Behaviour-cloning answers a step."""
    corpus_tokens: int = 512
    """Corpus tokens a step: whole documents until so many are reached."""
    epochs: float | None = None
    """null: as many steps as `steps` says; else as many as so many passes over the pool (or the answers) take."""
    advantage: str = "mean"
    """mean, mean_std, leave_one_out, rank, quantile or mean_batch_std."""
    min_spread: float = 0.0
    """A group whose rewards' standard deviation is 0 or below it counts as zero variance."""
    zero_variance: str = "drop"
    """drop or keep groups without variance."""
    truncated: str = "mask"
    """Samples cut by length: mask (in the baseline, out of the loss), drop, penalise or keep."""
    penalty: float = 0.0
    """What `penalise` subtracts from the reward of a sample cut by length."""
    bc: str = "best_of_n"
    """What behaviour cloning copies: best_of_n (the best candidate that passes `where`) or teacher (every answer)."""
    micro_batch_tokens: int = 4096
    """Tokens of one forward pass; a larger group stands alone. It changes memory and speed, not the step."""

    def __post_init__(self) -> None:
        one_of(
            "replay.advantage",
            self.advantage,
            ("mean", "mean_std", "leave_one_out", "rank", "quantile", "mean_batch_std"),
        )
        one_of("replay.zero_variance", self.zero_variance, ("drop", "keep"))
        one_of("replay.truncated", self.truncated, ("mask", "drop", "penalise", "keep"))
        one_of("replay.bc", self.bc, ("best_of_n", "teacher"))
        for name in ("prompts", "answers", "corpus_tokens", "micro_batch_tokens"):
            in_range(f"replay.{name}", getattr(self, name), 1)
        in_range("replay.min_spread", self.min_spread, 0)
        in_range("replay.penalty", self.penalty, 0)
        in_range("replay.epochs", self.epochs, 1e-9)


@dataclass(frozen=True)
class Optimiser:
    """How gradients move the weights."""

    name: str = "adamw"
    """adamw or sgd."""
    lr: float = 1e-5
    """Learning rate after the warm-up."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """AdamW's decay rates."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay of matrices; vectors (norms, biases) and sgd have none."""
    warmup: int = 0
    """Steps of linear warm-up from 0."""
    schedule: str = "constant"
    """constant, linear or cosine, from the end of the warm-up to the last step."""
    final: float = 0.1
    """Share of `lr` that linear and cosine end at."""
    clip: float | None = 1.0
    """Largest norm of the gradient; null: not clipped."""
    ema: float | None = None
    """Decay of the running average of the weights, which is then probed and saved; null: none."""

    def __post_init__(self) -> None:
        one_of("optimiser.name", self.name, ("adamw", "sgd"))
        one_of("optimiser.schedule", self.schedule, ("constant", "linear", "cosine"))
        in_range("optimiser.lr", self.lr, 0)
        in_range("optimiser.ema", self.ema, 0, 1 - 1e-9)
        in_range("optimiser.final", self.final, 0, 1)
        in_range("optimiser.clip", self.clip, 1e-12)
        in_range("optimiser.warmup", self.warmup, 0)
        if len(self.betas) != 2:
            raise Refusal(f"optimiser.betas={self.betas}: two numbers are asked for", f"{_NEXT} --help")
        for beta in self.betas:
            in_range("optimiser.betas", beta, 0, 1 - 1e-9)
        in_range("optimiser.weight_decay", self.weight_decay, 0)


@dataclass(frozen=True)
class Probe:
    """Fresh answers of the student in training, on prompts that it was not trained on."""

    every: int | None = None
    """Steps between probes; null: none."""
    start: int = 0
    """First step that is probed."""
    prompts: int = 256
    """Prompts asked, the first of the split by their ids."""
    split: str = "held_out"
    """held_out, or train for "stop when matched"."""
    max_tokens: int | None = None
    """Longest answer; null: the pool's."""
    components: dict[str, Any] = field(default_factory=dict)
    """Further components, name → {use: …}; those of the recipe that need no teacher are measured anyway."""
    sampled: bool = False
    """Whether to answer at temperature 1 as well: probe_sampled/NAME."""
    kl: bool = False
    """Whether to measure KL(π‖π_0) on sampled answers; holds the starting weights in memory."""

    def __post_init__(self) -> None:
        in_range("probe.every", self.every, 1)
        in_range("probe.prompts", self.prompts, 1, 100_000)
        in_range("probe.max_tokens", self.max_tokens, 1)
        in_range("probe.start", self.start, 0)
        one_of("probe.split", self.split, ("held_out", "train"))


@dataclass(frozen=True)
class Checkpoint:
    """When the whole state is saved, so that a killed run resumes bit by bit."""

    every: int | None = None
    """Steps between checkpoints; null: none."""
    keep: int = 1
    """Newest checkpoints kept."""
    best: str | None = None
    """Metric whose highest value marks the checkpoint that is kept besides, e.g. probe/exact; null: none."""

    def __post_init__(self) -> None:
        in_range("checkpoint.every", self.every, 1)
        in_range("checkpoint.keep", self.keep, 1)


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

    def __post_init__(self) -> None:
        lowest = {"clip_low": 0.0, "clip_high": 0.0, "dual_clip": 1.0, "cap": 0.0, "mismatch_cap": 0.0}
        for name, bound in lowest.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > bound):
                raise Refusal(
                    f"clip.{name}={value} must be a number above {bound:g}, or null for off",
                    f"{_NEXT} clip.{name}=null",
                )
        one_of("clip.softmax_score", self.softmax_score, ("mean", "sum"))


@dataclass(frozen=True)
class TrainerSettings:
    """One training run."""

    run: str | None = None
    """The run's name; null: RECIPE-HASH8 of its configuration."""
    resume: str | None = None
    """Name of an unfinished run to go on with, under the same configuration."""
    reuse: bool = False
    """Whether a finished run of this name and configuration is kept, and an unfinished one resumed, in place of a refusal."""
    steps: int = 100
    """Optimiser steps; also the length of the learning-rate schedule."""
    objective: Any = "grpo"
    """One objective, or a weighted sum such as {seq_tis: 1, naive: 0.1}."""
    clip: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    """Numbers of the objectives."""
    losses: Losses = field(default_factory=Losses)
    """Weights of the loss terms."""
    replay: Replay = field(default_factory=Replay)
    """What a step reads."""
    optimiser: Optimiser = field(default_factory=Optimiser)
    """How the weights move."""
    probe: Probe = field(default_factory=Probe)
    """Fresh answers along the way."""
    stop: list[Any] = field(default_factory=list)
    """Rules over any metric: {metric, above or below, after, patience}; without a bound: no improvement for `patience` values."""
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    """Saved states."""

    def __post_init__(self) -> None:
        in_range("steps", self.steps, 0)


@dataclass(frozen=True)
class TrainerRecipe(Recipe):
    """A recipe as `python -m trainer` reads it."""

    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    """Settings of this command."""
