"""The `trainer:` section of a recipe: what a step reads, what it weighs, how it moves the weights, what is watched.

Reads and writes nothing and imports neither torch nor the lake, so that `--help` stays light. Refuses numbers outside their range
when a recipe is composed. Every field's meaning is the line under it; `--help` prints these lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from data.config import Recipe
from data.refusal import Refusal
from trainer.objective_config import ObjectiveSettings
from trainer.ranges import NEXT, in_range, one_of


@dataclass(frozen=True)
class Leash:
    """How the KL to the reference acts."""

    target: float | None = None
    """KL a token that β is steered to, from losses.kl as its start; null: β as losses.kl says."""
    rate: float = 0.1
    """How fast β follows: per step it changes by at most rate · 0.2 of itself (arXiv 1909.08593 §2.2)."""
    compat: str | None = None
    """null: the gradient of KL(π‖π_ref). trl_k1, trl_k2, trl_k3: what other trainers' losses give, for comparison only."""

    def __post_init__(self) -> None:
        in_range("losses.leash.target", self.target, 1e-12)
        in_range("losses.leash.rate", self.rate, 0)
        if self.compat is not None:
            one_of("losses.leash.compat", self.compat, ("trl_k1", "trl_k2", "trl_k3"))


@dataclass(frozen=True)
class Reference:
    """Other states of the policy that a step compares with; copies are held in memory, the pool is never rescored."""

    kind: str = "initial"
    """π_ref: initial (cached scores, or the adapter switched off), periodic (a copy every so many steps) or ema."""
    every: int = 50
    """periodic: steps between copies."""
    decay: float = 0.99
    """ema: share of the old reference that stays at each step."""
    block: int = 8
    """decoupled: steps between copies of the policy as π_prox."""

    def __post_init__(self) -> None:
        one_of("losses.reference.kind", self.kind, ("initial", "periodic", "ema"))
        in_range("losses.reference.every", self.every, 1)
        in_range("losses.reference.decay", self.decay, 0, 1)
        in_range("losses.reference.block", self.block, 1)


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
    soft: Any = 0.0
    """λ of the soft targets of the teacher's answers; 0 everywhere: none are needed."""
    aggregation: str | None = None
    """token, sample, sequence, constant or prompt in place of every objective's own; null: its own."""
    phases: list[Any] = field(default_factory=list)
    """Blocks of steps with other weights, in order, e.g. [{steps: 30, rl: 0}]; after the last the weights above hold. A block with
    trainable: embeddings moves the input and output embeddings alone."""
    cycle: bool = False
    """Whether the phases begin again after the last: alternating schedules."""
    bc_weighting: str | None = None
    """null: every token of an answer counts alike; chord_phi: by π(1 − π), which spares what is known and what is alien."""
    soft_target: str = "counts"
    """counts (draws of each id: unbiased), renormalised (p on the drawn ids: biased to the head), top_k (with tail), student_m."""
    leash: Leash = field(default_factory=Leash)
    """How the KL acts."""
    reference: Reference = field(default_factory=Reference)
    """What the KL is measured from, and other copies of the policy."""

    def __post_init__(self) -> None:
        if self.aggregation is not None:
            one_of("losses.aggregation", self.aggregation, ("token", "sample", "sequence", "constant", "prompt"))
        if self.bc_weighting is not None:
            one_of("losses.bc_weighting", self.bc_weighting, ("chord_phi",))
        one_of("losses.soft_target", self.soft_target, ("counts", "renormalised", "top_k", "student_m"))


@dataclass(frozen=True)
class Shaping:
    """What enters the advantages beside the reward expression."""

    answers_join: bool = False
    """Whether the teacher's answer enters the statistics of a group where no sample passes `where`; its own gradient is BC's
    (LUFFY, arXiv 2504.14945)."""
    token_reward: str | None = None
    """A component with one value a token: A_t = A + weight · (v_t − mean of the group's v); null: none."""
    token_weight: float = 1.0
    """Weight of the token reward."""

    def __post_init__(self) -> None:
        in_range("replay.shaping.token_weight", self.token_weight, 0)


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
    """Tokens of one forward pass; a larger group is split or stands alone. It changes memory and speed, not the step."""
    shaping: Shaping = field(default_factory=Shaping)
    """What enters the advantages beside the reward."""

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
class Lora:
    """Low-rank adapters (arXiv 2106.09685) in place of full training."""

    enabled: bool | None = None
    """null: for models above 3 billion parameters."""
    rank: int = 16
    """Rank of each adapter."""
    alpha: float = 32.0
    """The adapter's output is scaled by alpha / rank."""
    targets: list[str] | None = None
    """Names of the linear layers; null: every linear layer of the transformer, never the head."""
    merge: bool = True
    """Whether the final folder holds merged weights, or the adapter alone."""

    def __post_init__(self) -> None:
        in_range("optimiser.lora.rank", self.rank, 1)
        in_range("optimiser.lora.alpha", self.alpha, 1e-9)


@dataclass(frozen=True)
class Compute:
    """How the same numbers are computed: memory and speed, and, under autocast, rounding."""

    autocast: str | None = None
    """bfloat16: matrix products in half precision over float32 weights; null: as student.dtype says."""
    activation_checkpointing: bool = False
    """Whether each layer is recomputed in the backward pass: less memory, a third more time."""
    parallel: str = "ddp"
    """Under torchrun: ddp (every process holds all weights) or fsdp (each holds its share; FSDP2)."""
    layout: str = "auto"
    """auto, split, kv, flex or plain: how a group and its prompt are laid out; auto takes the fastest that is exact."""
    prefetch: int = 2
    """Blocks of the lake that are read ahead by a thread; 0: none."""
    memory: float | None = None
    """GiB that the run may take by its estimate before it is refused; null: what the device has."""

    def __post_init__(self) -> None:
        if self.autocast is not None:
            one_of("optimiser.compute.autocast", self.autocast, ("bfloat16",))
        one_of("optimiser.compute.parallel", self.parallel, ("ddp", "fsdp"))
        one_of("optimiser.compute.layout", self.layout, ("auto", "split", "kv", "flex", "plain"))
        in_range("optimiser.compute.prefetch", self.prefetch, 0)
        in_range("optimiser.compute.memory", self.memory, 1e-9)


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
    lr_scale: str | None = None
    """sqrt_ess: the rate times the square root of ESS/n of the step's samples; null: the rate alone."""
    lora: Lora = field(default_factory=Lora)
    """Adapters."""
    compute: Compute = field(default_factory=Compute)
    """Precision, memory, processes."""

    def __post_init__(self) -> None:
        one_of("optimiser.name", self.name, ("adamw", "sgd"))
        if self.lr_scale is not None:
            one_of("optimiser.lr_scale", self.lr_scale, ("sqrt_ess",))
        one_of("optimiser.schedule", self.schedule, ("constant", "linear", "cosine"))
        in_range("optimiser.lr", self.lr, 0)
        in_range("optimiser.ema", self.ema, 0, 1 - 1e-9)
        in_range("optimiser.final", self.final, 0, 1)
        in_range("optimiser.clip", self.clip, 1e-12)
        in_range("optimiser.warmup", self.warmup, 0)
        if len(self.betas) != 2:
            raise Refusal(f"optimiser.betas={self.betas}: two numbers are asked for", f"{NEXT} --help")
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
    guard: list[Any] = field(default_factory=list)
    """Rules {metric, below or above, weights}: while a probe's last value is beyond the bound, these weights replace the step's,
    e.g. [{metric: probe/language, below: 0.8, weights: {bc: 0}}]."""

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
    objective: Any = "topr"
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
