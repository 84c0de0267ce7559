"""Fixtures of the forward path: policies of each family, groups of random ids, and an oracle that runs each row alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.forward import GroupTokens, Policy, load


@pytest.fixture(scope="session")
def policy(tiny_model: Callable[..., str]) -> Callable[..., Policy]:
    """`policy(family, layout="auto", **overrides)`: a freshly loaded tiny policy."""

    def make(family: str, layout: str = "auto", **overrides: Any) -> Policy:
        return load(tiny_model(family, **overrides), layout=layout, device="cpu")

    return make


@pytest.fixture(scope="session")
def random_groups() -> Callable[..., list[GroupTokens]]:
    """`random_groups([(prompt length, [completion lengths]), …], seed)`: groups of random ids."""

    def make(shapes: list[tuple[int, list[int]]], seed: int = 0) -> list[GroupTokens]:
        generator = torch.Generator().manual_seed(seed)

        def draw(count: int) -> list[int]:
            return torch.randint(5, 250, (count,), generator=generator).tolist()

        return [GroupTokens(draw(prompt), [draw(count) for count in counts]) for prompt, counts in shapes]

    return make


@pytest.fixture(scope="session")
def logprobs_alone() -> Callable[..., Tensor]:
    """`logprobs_alone(model, groups, temperature)`: every sample as its own unpadded row through the model's own logits."""

    def oracle(model: Any, groups: list[GroupTokens], temperature: float = 1.0) -> Tensor:
        rows = []
        for group in groups:
            for completion in group.completions:
                ids_1t = torch.tensor([[*group.prompt, *completion]])
                logits_tv = model(input_ids=ids_1t, attention_mask=torch.ones_like(ids_1t)).logits[0]
                logprob_tv = (logits_tv[len(group.prompt) - 1 : -1] / temperature).log_softmax(-1)
                rows.append(logprob_tv[torch.arange(len(completion)), torch.tensor(completion)])
        return torch.cat(rows)

    return oracle


@pytest.fixture(scope="session")
def allowed_pairs() -> Callable[..., Tensor]:
    """`allowed_pairs([(prompt length, [completion lengths]), …], window)`: (n, n) bool: may index q of the packed row see index k?

    By the definition, a pair at a time: the slow twin of every packed layout."""

    def allowed(shapes: list[tuple[int, list[int]]], window: int | None = None) -> Tensor:
        owner = []
        for g, (prompt, lengths) in enumerate(shapes):
            alone = len(lengths) == 1
            owner += [(g, 0, position) for position in range(prompt)]
            for s, n in enumerate(lengths, start=1):
                owner += [(g, 0 if alone else s, prompt + i) for i in range(n - 1)]
        seen = torch.zeros(len(owner), len(owner), dtype=torch.bool)
        for (q, (g, s, at)), (k, (h, r, there)) in itertools.product(enumerate(owner), enumerate(owner)):
            near = there <= at and (window is None or at - there < window)
            seen[q, k] = g == h and r in (0, s) and near
        return seen

    return allowed
