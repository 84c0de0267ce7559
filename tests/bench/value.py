"""Whether the off-policy value's 95 % interval holds the freshly sampled truth, after few and many steps on one pool.

    python tests/bench/value.py [seeds=20] [steps=5,20,150] [lr=2e-3] [objective=seq_tis] [aside=0]

A tiny random Llama answers prompts of random ids; the pool's μ is exact; the reward is the share of a sample's tokens that are of
the prompt's kind. Training replays the pool as `python -m trainer` does. Truth: fresh samples of the trained policy on the same
prompts. Writes nothing but its table."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trainer.drift.value import Value, value
from trainer.forward import GroupTokens, Policy, Sampling, generate, group_logprobs, pad_bt
from trainer.objective_config import ObjectiveSettings
from trainer.objectives import OBJECTIVES
from trainer.view import StepView

PROMPTS, GROUP, LENGTH, VOCABULARY, KINDS, STEP = 300, 8, 8, 64, 4, 16
WARMUP = 20
FRESH = 64  # samples a prompt of the truth


class NoTokenizer:
    """What `end_token_ids` asks of a tokenizer; ids are all there is in this world."""

    eos_token_id = 1


@dataclass(frozen=True)
class Plan:
    """How the pool is replayed."""

    steps: list[int]
    """After which steps the value is asked for."""
    lr: float = 2e-3
    """After a linear warm-up, as the recipe `demo` has it."""
    objective: str = "seq_tis"
    aside: float = 0.0
    """Share of the groups that training never reads."""


@dataclass
class Pool:
    """One world's groups in ids, with μ and rewards, a row a sample."""

    prompts: list[list[int]]
    groups: list[GroupTokens]
    behaviour: list[list[float]]
    reward_bg: np.ndarray


def policy(seed: int) -> Policy:
    """A random Llama without a tokenizer."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.15,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    tokenizer: Any = NoTokenizer()
    return Policy(model, tokenizer, "plain")


def reward(prompt: list[int], completion: list[int]) -> float:
    """Share of tokens of the prompt's kind."""
    return float(np.mean([token % KINDS == prompt[0] % KINDS for token in completion]))


def draw(policy: Policy, prompts: list[list[int]], n: int, seed: int) -> list[list[Any]]:
    """n fresh samples a prompt."""
    sampling = Sampling(max_tokens=LENGTH, stop_ids=(1,))
    seeds = [[(seed << 32) + i * n + j for j in range(n)] for i in range(len(prompts))]
    with torch.no_grad():
        return generate(policy, prompts, n, sampling, seeds)


def pool_of(policy: Policy, seed: int) -> Pool:
    """Groups of random prompts."""
    random = np.random.default_rng(seed)
    prompts = random.integers(2, VOCABULARY, (PROMPTS, 4)).tolist()
    drawn = draw(policy, prompts, GROUP, seed)
    groups = [GroupTokens(p, [list(s.token_ids) for s in samples]) for p, samples in zip(prompts, drawn, strict=True)]
    behaviour = [list(sample.logprobs) for samples in drawn for sample in samples]
    rewards = [[reward(p, list(s.token_ids)) for s in samples] for p, samples in zip(prompts, drawn, strict=True)]
    return Pool(prompts, groups, behaviour, np.array(rewards))


def view_of(policy: Policy, pool: Pool, rows: list[int]) -> tuple[StepView, torch.Tensor]:
    """The step's view, and log π with its gradient."""
    groups = [pool.groups[i] for i in rows]
    lengths = [len(completion) for group in groups for completion in group.completions]
    flat_n = group_logprobs(policy, groups)
    logprobs_bt, mask_bt = pad_bt(flat_n, lengths)
    mu = [value for i in rows for sample in pool.behaviour[i * GROUP : (i + 1) * GROUP] for value in sample]
    advantage_bg = pool.reward_bg[rows] - pool.reward_bg[rows].mean(1, keepdims=True)
    view = StepView(
        logprobs_bt=logprobs_bt.detach(),
        behaviour_bt=pad_bt(torch.tensor(mu), lengths)[0],
        old_bt=None,
        advantage_b=torch.tensor(advantage_bg.ravel(), dtype=torch.float32),
        mask_bt=mask_bt,
        group_b=torch.arange(len(rows)).repeat_interleave(GROUP),
        lengths_b=torch.tensor(lengths),
    )
    return view, logprobs_bt


def trained(policy: Policy, pool: Pool, plan: Plan, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Replay the pool in epochs of a seeded order; yields at each of the steps, with the groups trained on (bool)."""
    optimiser = torch.optim.AdamW(policy.model.parameters(), lr=plan.lr, betas=(0.9, 0.95), weight_decay=0.0)
    random, order, seen_g = np.random.default_rng(seed + 1), list[int](), np.zeros(PROMPTS, bool)
    for step in range(1, max(plan.steps) + 1):
        for part in optimiser.param_groups:
            part["lr"] = plan.lr * min(1.0, step / WARMUP)
        if len(order) < STEP:
            order = random.permutation(round(PROMPTS * (1 - plan.aside))).tolist()
        rows, order = order[:STEP], order[STEP:]
        seen_g[rows] = True
        view, logprobs_bt = view_of(policy, pool, rows)
        c_bt = OBJECTIVES[plan.objective].coefficient(view, ObjectiveSettings()).c_bt
        loss = -(c_bt * logprobs_bt).sum() / view.mask_bt.sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimiser.step()
        if step in plan.steps:
            yield step, seen_g


def estimated(policy: Policy, pool: Pool, seen_g: np.ndarray) -> Value:
    """The value from the pool alone."""
    with torch.no_grad():
        view, _ = view_of(policy, pool, list(range(PROMPTS)))
    log_w = ((view.logprobs_bt - view.behaviour_bt).double() * view.mask_bt).sum(1)
    return value(log_w.numpy(), pool.reward_bg.ravel(), np.arange(0, PROMPTS * GROUP, GROUP), seen_g=seen_g)


def truth(policy: Policy, pool: Pool, seed: int) -> tuple[float, float]:
    """Mean reward of fresh samples, and its standard error over samples."""
    drawn = draw(policy, pool.prompts, FRESH, seed + 1000)
    rewards = np.array(
        [[reward(p, list(s.token_ids)) for s in samples] for p, samples in zip(pool.prompts, drawn, strict=True)]
    )
    return float(rewards.mean()), float(rewards.std(1, ddof=1).mean() / math.sqrt(rewards.size))


@dataclass(frozen=True)
class Row:
    """One seed at one step."""

    seed: int
    step: int
    found: Value
    truth: float
    error: float

    @property
    def holds(self) -> bool | None:
        """Whether the interval holds the truth; None where no value is given."""
        return None if self.found.interval is None else self.found.interval[0] <= self.truth <= self.found.interval[1]


def measure(seeds: int, plan: Plan) -> Iterator[Row]:
    """All seeds at all steps."""
    for seed in range(seeds):
        student = policy(seed)
        pool = pool_of(copy.deepcopy(student), seed)
        for step, seen_g in trained(student, pool, plan, seed):
            yield Row(seed, step, estimated(student, pool, seen_g), *truth(student, pool, seed))


def shown(row: Row) -> str:
    """One line of the table."""
    found = row.found
    interval = "-" if found.interval is None else f"{found.interval[0]:.4f} … {found.interval[1]:.4f}"
    estimate = "-" if found.estimate is None else f"{found.estimate:.4f}"
    return (
        f"seed {row.seed:>2} step {row.step:>3} pool {found.pool:.4f} value {estimate} [{interval}] truth {row.truth:.4f} ±"
        f" {row.error:.4f} {row.holds} k {found.k_hat:.2f} mean w {found.mean_weight:.3f} {found.reason or ''}"
    )


def main(words: list[str]) -> int:
    """Print each row and the two shares of the criterion."""
    usual = {"seeds": "20", "steps": "5,20,150", "lr": "2e-3", "objective": "seq_tis", "aside": "0"}
    given = usual | dict(word.split("=", 1) for word in words)
    steps = [int(step) for step in given["steps"].split(",")]
    plan = Plan(steps, float(given["lr"]), given["objective"], float(given["aside"]))
    begun, rows = time.monotonic(), list[Row]()
    for row in measure(int(given["seeds"]), plan):
        rows.append(row)
        print(shown(row), flush=True)
    for step in steps:
        here = [row for row in rows if row.step == step]
        told = [row for row in here if row.holds is not None]
        print(
            f"step {step}: given {len(told)} of {len(here)}, holds the truth {sum(bool(r.holds) for r in told)} of {len(told)}"
        )
    print(f"{time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
