"""FlexAttention's mask against the definition, and its forward pass on the CPU (it has no backward pass there)."""

from __future__ import annotations

import pytest
import torch

from trainer.forward import group_logprobs, load
from trainer.forward.flex import Flex, mask_mod, owners
from trainer.forward.rows import GroupTokens, packed

PACKS = [
    [(7, [5, 5, 1, 3]), (4, [9]), (2, [1, 1]), (6, [2, 8])],
    [(1, [2])],
    [(3, [1])],
    [(40, [30, 2, 30])],
]


@pytest.mark.parametrize("window", [None, 1, 3, 8, 50])
@pytest.mark.parametrize("shapes", PACKS)
@pytest.mark.parametrize("fill", [0, 5])
def test_the_mask_is_the_definition_and_padding_sees_itself(shapes, window, fill, allowed_pairs):
    row = packed([GroupTokens([1] * prompt, [[2] * n for n in lengths]) for prompt, lengths in shapes])
    position_n, n = torch.tensor(row.positions + [0] * fill), len(row.ids)
    index = torch.arange(n + fill)
    group_n, tail_n = owners(row.parts, position_n)
    seen = mask_mod(group_n, tail_n, position_n, window)(torch.tensor(0), torch.tensor(0), index[:, None], index[None])
    expected = torch.eye(n + fill, dtype=torch.bool)
    expected[:n, :n] = allowed_pairs(shapes, window)
    assert torch.equal(seen, expected)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3", "gpt2"])
def test_the_forward_pass_gives_plain_logprobs(family, tiny_model, random_groups, logprobs_alone):
    tiny, groups = (
        load(tiny_model(family), layout="flex", device="cpu"),
        random_groups([(20, [10, 1, 15]), (9, [4]), (30, [2, 7])]),
    )
    with torch.no_grad():
        torch.testing.assert_close(group_logprobs(tiny, groups), logprobs_alone(tiny.model, groups), atol=1e-5, rtol=0)


def test_a_soft_cap_is_a_tanh_of_the_scores(allowed_pairs):
    row = packed([GroupTokens([1] * 4, [[2] * 3, [2] * 5])])
    n = len(row.ids)
    q, k, v = (torch.randn(1, h, n, 16, generator=torch.Generator().manual_seed(h)) * 3 for h in (4, 2, 2))
    layout = Flex(row.parts, torch.tensor(row.positions))
    score = 2.0 * torch.tanh(q @ k.repeat_interleave(2, 1).transpose(-1, -2) * 0.25 / 2.0)
    score = score.masked_fill(~allowed_pairs([(4, [3, 5])], None), -torch.inf)
    expected = score.softmax(-1) @ v.repeat_interleave(2, 1)
    torch.testing.assert_close(layout.attend(q, k, v, 0.25, None, 2.0), expected, atol=1e-5, rtol=1e-5)


def test_masks_are_made_once_a_window():
    row = packed([GroupTokens([1] * 4, [[2] * 3, [2] * 5])])
    layout = Flex(row.parts, torch.tensor(row.positions))
    assert layout.mask(3) is layout.mask(3) and layout.mask(3) is not layout.mask(None)
