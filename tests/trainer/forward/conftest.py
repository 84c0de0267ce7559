"""Fixtures of the forward path: policies of each family, groups of random ids, and an oracle that runs each row alone."""

from __future__ import annotations

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
