"""Support losses against plain sums over the whole vocabulary, finite differences, golden numbers, and draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainer.replay import Support
from trainer.support import SUPPORT, SupportTarget, padded_support

LOG = math.log


def target(ids: list[list[int]], p: list[list[float]] | None, counts: list[list[float]] | None = None) -> SupportTarget:
    rows = []
    for n, row in enumerate(ids):
        logprobs = None if p is None else np.log(np.asarray(p[n], np.float32))
        draws = None if counts is None else np.asarray(counts[n], np.float32)
        rows.append(Support(np.asarray(row, np.int64), draws, logprobs))
    return padded_support(rows)


def at(logits_nv: torch.Tensor, found: SupportTarget) -> torch.Tensor:
    """log π at the target's ids."""
    return logits_nv.log_softmax(1).gather(1, found.ids_nk)


def test_golden_values() -> None:
    logprob_nk = torch.log(torch.tensor([[0.5, 0.25]], dtype=torch.float64))
    drawn = target([[3, 1]], [[0.4, 0.2]], [[3, 1]])
    assert float(SUPPORT["counts"](logprob_nk, drawn)) == pytest.approx(0.75 * LOG(2) + 0.25 * LOG(4))
    assert float(SUPPORT["renormalised"](logprob_nk, drawn)) == pytest.approx(2 / 3 * LOG(2) + 1 / 3 * LOG(4), rel=1e-6)
    tail = 0.4 * LOG(2) + 0.2 * LOG(4) + 0.4 * LOG(4)  # π keeps 1/4 for all others, p 0.4
    assert float(SUPPORT["top_k"](logprob_nk, drawn)) == pytest.approx(tail, rel=1e-6)
    coarse = 0.5 * LOG(0.5 / 0.4) + 0.25 * LOG(0.25 / 0.2) + 0.25 * LOG(0.25 / 0.4)
    assert float(SUPPORT["student_m"](logprob_nk, drawn)) == pytest.approx(coarse, rel=1e-6)


def test_with_the_whole_vocabulary_each_is_the_exact_cross_entropy_or_divergence() -> None:
    torch.manual_seed(0)
    logits_nv, logp_nv = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64).log_softmax(1)
    found = target([list(range(6))] * 4, logp_nv.exp().tolist(), (logp_nv.exp() * 1000).tolist())
    logpi_nv, p_nv = logits_nv.log_softmax(1), logp_nv.exp()
    cross = -(p_nv * logpi_nv).sum(1)
    reverse = (logpi_nv.exp() * (logpi_nv - logp_nv)).sum(1)
    for name, exact in (("counts", cross), ("renormalised", cross), ("top_k", cross), ("student_m", reverse)):
        value_n = SUPPORT[name](at(logits_nv, found), found)
        torch.testing.assert_close(value_n, exact, rtol=1e-4, atol=0, msg=name)  # the clamped tail is 1e-6 of the mass


@pytest.mark.parametrize("name", SUPPORT)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    torch.manual_seed(1)
    found = target([[0, 4, 2], [5, 1]], [[0.3, 0.2, 0.1], [0.4, 0.3]], [[3, 2, 1], [1, 5]])
    logits = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: SUPPORT[name](at(x, found), found).sum(), (logits,), atol=1e-6)
    (gradient,) = torch.autograd.grad(SUPPORT[name](at(logits, found), found).sum(), logits)
    assert gradient.abs().max() > 0.05


def test_padding_reaches_neither_value_nor_gradient() -> None:
    found = target([[0, 4, 2], [5]], [[0.3, 0.2, 0.1], [0.4]], [[3, 2, 1], [4]])
    wide, alone = target([[0, 4, 2]], [[0.3, 0.2, 0.1]], [[3, 2, 1]]), target([[5]], [[0.4]], [[4]])
    logits = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    for name, loss in SUPPORT.items():
        both = loss(at(logits, found), found)
        apart = torch.cat([loss(at(logits[:1], wide), wide), loss(at(logits[1:], alone), alone)])
        torch.testing.assert_close(both, apart, rtol=1e-12, atol=0, msg=name)


def test_top_k_and_student_m_are_lower_bounds_and_grow_with_the_ids() -> None:
    torch.manual_seed(2)
    logpi, logp = torch.randn(1, 50).log_softmax(1), torch.randn(1, 50).log_softmax(1)
    order = logp[0].argsort(descending=True).tolist()
    found = {}
    for k in (5, 20, 49):
        some = target([order[:k]], [logp[0, order[:k]].exp().tolist()])
        found[k] = [float(SUPPORT[name](logpi.gather(1, some.ids_nk), some)) for name in ("top_k", "student_m")]
    whole = [-float((logp.exp() * logpi).sum()), float((logpi.exp() * (logpi - logp)).sum())]
    for bound in (0, 1):
        assert found[5][bound] < found[20][bound] < found[49][bound] <= whole[bound] + 1e-4


def test_the_mean_of_counts_is_p_and_renormalising_the_drawn_ids_is_biased() -> None:
    """10,000 targets of 8 draws each: the share of draws is unbiased for p, p renormalised on the drawn ids favours the head."""
    rng = np.random.default_rng(0)
    p = np.array([0.6, 0.2, 0.1, 0.05, 0.05])
    draws = rng.multinomial(8, p, size=10_000)
    logpi_v = torch.log(torch.tensor([0.2] * 5, dtype=torch.float64))
    shares, kept = np.zeros(5), np.zeros(5)
    for row in draws:
        ids = np.flatnonzero(row)
        found = target([ids.tolist()], [p[ids].tolist()], [row[ids].tolist()])
        leaf = logpi_v[found.ids_nk].requires_grad_()
        for name, sums in (("counts", shares), ("renormalised", kept)):
            (gradient,) = torch.autograd.grad(SUPPORT[name](leaf, found).sum(), leaf)
            sums[ids] -= gradient[0].numpy()  # the weight of each id is minus its gradient
    error = np.sqrt(p * (1 - p) / 80_000)
    assert np.abs(shares / 10_000 - p).max() < 4 * error.max()
    assert kept[0] / 10_000 > p[0] + 10 * error[0] and kept[4] / 10_000 < p[4] - 10 * error[4]


def test_what_is_not_there_is_named() -> None:
    drawn, top = target([[1]], None, [[2]]), target([[1]], [[0.5]])
    with pytest.raises(ValueError, match="hold no log p"):
        SUPPORT["top_k"](torch.zeros(1, 1), drawn)
    with pytest.raises(ValueError, match="hold no counts"):
        SUPPORT["counts"](torch.zeros(1, 1), top)
    with pytest.raises(ValueError, match="none may be empty"):
        padded_support([Support(np.zeros(0, np.int64), None, None)])
