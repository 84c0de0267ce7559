"""Attention by blocks against one softmax under a dense mask built from the definition; the blocks cover each pair once."""

from __future__ import annotations

import pytest
import torch

from trainer.forward import split as split_module
from trainer.forward.rows import GroupTokens, packed
from trainer.forward.split import Split, blocks

SHAPES = [(7, [5, 5, 1, 3]), (4, [9]), (2, [1, 1]), (12, [2, 30, 30, 30, 11])]
WINDOWS = [None, 1, 2, 4, 7, 12, 19, 100]


def made(shapes=SHAPES):
    return packed([GroupTokens([1] * prompt, [[2] * n for n in lengths]) for prompt, lengths in shapes])


@pytest.mark.parametrize("band", [3, 512])
@pytest.mark.parametrize("window", WINDOWS)
def test_the_blocks_cover_each_pair_that_may_be_seen_once_and_no_other(window, band, allowed_pairs, monkeypatch):
    monkeypatch.setattr(split_module, "BAND", band)
    row = made()
    position_n = torch.tensor(row.positions)
    count_nn = torch.zeros(len(row.ids), len(row.ids), dtype=torch.long)
    begun = set()
    for block in blocks(row.parts, window):
        rows, keys = (torch.arange(*span).unflatten(0, (block.count, -1)) for span in (block.rows, block.keys))
        for q, k in zip(rows, keys, strict=True):
            pair = torch.ones(len(q), len(k), dtype=torch.bool)
            if block.causal:
                pair = pair.tril()
            if block.banded:
                distance = position_n[q][:, None] - position_n[k][None]
                pair &= (distance >= 0) & (distance < window)
            assert pair.any(1).all(), "a row of a block sees nothing: its log-sum-exp would be −inf"
            count_nn[q[:, None], k[None]] += pair.long()
            assert set(q.tolist()) <= begun if block.second else not begun & set(q.tolist())
        begun |= set(rows.flatten().tolist())
    assert torch.equal(count_nn, allowed_pairs(SHAPES, window).long())
    assert begun == set(range(len(row.ids)))


@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize("window", WINDOWS)
def test_output_and_gradients_are_those_of_one_masked_softmax(window, heads, allowed_pairs, monkeypatch):
    monkeypatch.setattr(split_module, "BAND", 5)
    row = made()
    generator, n = torch.Generator().manual_seed(0), len(row.ids)
    q, k, v = (
        torch.randn(1, n, h, 8, generator=generator, dtype=torch.float64).transpose(1, 2).requires_grad_()
        for h in (heads[0], heads[1], heads[1])
    )
    factor = torch.randn(1, heads[0], n, 8, generator=generator, dtype=torch.float64)
    wide = [x.repeat_interleave(heads[0] // heads[1], 1) for x in (k, v)]
    score = (q @ wide[0].transpose(-1, -2)) * 0.3
    expected = score.masked_fill(~allowed_pairs(SHAPES, window), -torch.inf).softmax(-1) @ wide[1]
    ours = Split(row.parts, torch.tensor(row.positions)).attend(q, k, v, 0.3, window, None)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-12)
    theirs = torch.autograd.grad((expected * factor).sum(), (q, k, v))
    torch.testing.assert_close(torch.autograd.grad((ours * factor).sum(), (q, k, v)), theirs, atol=1e-12, rtol=1e-10)


def test_the_cost_is_linear_in_the_groups_of_a_row():
    def pairs(groups):
        row = made(SHAPES * groups)
        return sum((b.rows[1] - b.rows[0]) * (b.keys[1] - b.keys[0]) // b.count for b in blocks(row.parts))

    assert pairs(10) == 10 * pairs(1)


def test_equal_neighbours_are_one_call():
    counts = [block.count for block in blocks(made([(12, [2, 30, 30, 30, 11])]).parts) if block.causal]
    assert counts == [1, 1, 3, 1]


def test_soft_caps_and_other_devices_are_refused():
    row = made()
    layout = Split(row.parts, torch.tensor(row.positions))
    x = torch.zeros(1, 2, len(row.ids), 8)
    with pytest.raises(NotImplementedError, match="soft cap"):
        layout.attend(x, x, x, 1.0, None, 30.0)
    with pytest.raises(NotImplementedError, match="meta"):
        layout.attend(x.to("meta"), x, x, 1.0, None, None)
