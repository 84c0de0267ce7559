"""Seconds a token of a step whose pack holds 1k to 8k tokens: many groups in one row must cost no more a token than a few.

Measures `run_step` with a budget above the pack, so that it is one forward pass, in this project's own environment."""

from __future__ import annotations

import numpy as np
import torch
from figures import Figure, Options, interleaved
from our_step import draw_tokens, group_of, our_step
from shapes import VOCABULARY, policy

LAYERS = 4
PACKS = {"224/20, G = 16": (224, (20,) * 16, (2, 4, 8, 16)), "128/128, G = 8": (128, (128,) * 8, (1, 2, 4, 7))}


def measure(options: Options) -> list[Figure]:
    """One figure a kind of group, packs made of more and more of them."""
    found = policy(LAYERS, options.device, options.dtype)
    figures = []
    for kind, (prompt, lengths, counts) in PACKS.items():
        packs = {str(count): [_group(prompt, lengths, seed) for seed in range(count)] for count in counts}
        figures.append(_figure(found, packs, f"groups of {kind}", options))
    return figures


def _group(prompt: int, lengths: tuple[int, ...], seed: int):
    ids, completions = draw_tokens(prompt, lengths, seed, VOCABULARY)
    behaviour = [np.full(length, -10.8, np.float32) for length in lengths]
    return group_of(ids, completions, behaviour, np.random.default_rng(seed).normal(size=len(lengths)), seed)


def _figure(found, packs, what: str, options: Options) -> Figure:
    from trainer.forward import tokens_forwarded

    steps, tokens = {}, {}
    for name, groups in packs.items():
        step, plan = our_step(found, groups, budget=1 << 20)
        if len(plan.micro[0]) != 1:
            raise RuntimeError(f"the pack was cut into {len(plan.micro[0])}")
        steps[name], tokens[name] = _run(found, step, options), tokens_forwarded(plan.micro[0][0].items, found.layout)
    times = interleaved(steps, options.repetitions)
    which = 1 if options.device == "cpu" else 0
    cost = {name: taken[which] / tokens[name] * 1e3 for name, taken in times.items()}
    beside = ", ".join(f"{tokens[name]:,} tokens {each:.3f} ms a token" for name, each in cost.items())
    first, *_, last = cost.values()
    unit = "CPU seconds" if which else "wall"
    title = f"{unit} a token, packs of 8k ÷ 1k tokens ({what}, {LAYERS} layers, {options.dtype})"
    return Figure(title, last / first, 1.1 if options.device == "cpu" else None, "×", beside=beside)


def _run(found, step, options: Options):
    def run() -> None:
        found.model.zero_grad(set_to_none=False)
        step()
        if options.device != "cpu":
            torch.cuda.synchronize()

    return run
