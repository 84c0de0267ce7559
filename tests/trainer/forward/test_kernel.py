"""The one-pass head against token_logprobs with the same weights, and what it may hold."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.forward import Head, kernel_head, token_logprobs

N, D, V = 23, 7, 31
HEADS = [
    (1.0, None, 1.0, False),
    (1.0, None, 0.7, True),
    (0.25, None, 1.0, True),
    (0.5, 3.0, 1.3, True),
    (1.0, 2.0, 1.0, False),
]


def tensors(dtype=torch.float64, n=N, v=V, bias=True):
    generator = torch.Generator().manual_seed(3)
    hidden_nd, weight_vd, bias_v = (torch.randn(s, generator=generator, dtype=dtype) for s in ((n, D), (v, D), (v,)))
    target_n = torch.randint(v, (n,), generator=generator)
    return hidden_nd.requires_grad_(), weight_vd.requires_grad_(), bias_v.requires_grad_() if bias else None, target_n


def constant(weight_n):
    return lambda logprob_m, part: weight_n[part]


def weights(share):
    """A weight for every token, all but `share` of them 0."""
    weight_n = torch.linspace(-1, 2, N, dtype=torch.float64)
    weight_n[torch.randperm(N, generator=torch.Generator().manual_seed(1))[int(share * N) :]] = 0.0
    return weight_n


@pytest.mark.parametrize("share", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize(("scale", "soft_cap", "temperature", "bias"), HEADS)
def test_loss_and_gradients_are_those_of_weighted_token_logprobs(share, chunk, scale, soft_cap, temperature, bias):
    hidden_nd, weight_vd, bias_v, target_n = tensors(bias=bias)
    head, weight_n = Head(weight_vd, bias_v, scale, soft_cap), weights(share)
    leaves = [x for x in (hidden_nd, weight_vd, bias_v) if x is not None]
    expected_n = token_logprobs(hidden_nd, head, target_n, temperature=temperature)
    expected = torch.autograd.grad(-(weight_n * expected_n).sum(), leaves)
    loss, logprob_n = kernel_head(hidden_nd, head, target_n, constant(weight_n), temperature=temperature, chunk=chunk)
    torch.testing.assert_close(logprob_n, expected_n.detach(), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(loss, -(weight_n * expected_n).sum(), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(loss, leaves), expected, atol=1e-12, rtol=1e-10)


def test_a_weight_of_the_tokens_own_logprob_is_stopped():
    hidden_nd, weight_vd, _, target_n = tensors(bias=False)
    behaviour_n = torch.linspace(-4, -2, N, dtype=torch.float64)
    logprob_n = token_logprobs(hidden_nd, Head(weight_vd), target_n)
    expected = torch.autograd.grad(
        -((logprob_n - behaviour_n).exp().detach() * logprob_n).sum(), (hidden_nd, weight_vd)
    )
    loss, _ = kernel_head(
        hidden_nd, Head(weight_vd), target_n, lambda logprob_m, part: (logprob_m - behaviour_n[part]).exp(), chunk=6
    )
    torch.testing.assert_close(torch.autograd.grad(loss, (hidden_nd, weight_vd)), expected, atol=1e-12, rtol=1e-10)


def test_the_weights_are_asked_once_an_even_chunk_in_order_with_what_has_no_gradient():
    hidden_nd, weight_vd, _, target_n = tensors()
    asked = []

    def weight(logprob_m, part):
        asked.append((part.start, part.stop, logprob_m.requires_grad, len(logprob_m)))
        return torch.ones_like(logprob_m)

    _, logprob_n = kernel_head(hidden_nd, Head(weight_vd), target_n, weight, chunk=9)
    assert asked == [(0, 8, False, 8), (8, 16, False, 8), (16, 23, False, 7)] and not logprob_n.requires_grad


def test_a_factor_of_the_loss_reaches_the_gradients_and_a_second_backward_is_refused():
    hidden_nd, weight_vd, _, target_n = tensors(bias=False)
    made = [kernel_head(hidden_nd, Head(weight_vd), target_n, constant(weights(1.0)))[0] for _ in range(2)]
    once, thrice = (
        torch.autograd.grad(loss * factor, (hidden_nd, weight_vd), retain_graph=True)
        for loss, factor in zip(made, (1.0, -3.0), strict=True)
    )
    torch.testing.assert_close(thrice, tuple(-3.0 * grad for grad in once))
    with pytest.raises(RuntimeError, match="handed on already"):
        torch.autograd.grad(made[0], hidden_nd)


def test_a_frozen_head_gets_no_gradient_and_no_gradient_is_made_where_none_is_wanted():
    hidden_nd, weight_vd, _, target_n = tensors(torch.float32, n=8, v=5000, bias=False)
    loss, _ = kernel_head(hidden_nd, Head(weight_vd.detach()), target_n, constant(torch.ones(8)))
    expected = torch.autograd.grad(-token_logprobs(hidden_nd, Head(weight_vd), target_n).sum(), hidden_nd)
    torch.testing.assert_close(torch.autograd.grad(loss, hidden_nd), expected)
    with torch.no_grad(), Sizes(weight_vd) as sizes:
        loss, logprob_n = kernel_head(hidden_nd, Head(weight_vd), target_n, constant(torch.ones(8)), chunk=2)
    assert not loss.requires_grad and max(sizes.seen) == 2 * 5000 and loss == pytest.approx(-logprob_n.sum().item())


class Sizes(TorchDispatchMode):
    """The number of elements of every tensor that any operator returns, but for views of the given ones."""

    def __init__(self, *given):
        super().__init__()
        self.seen, self.given = [], {x.data_ptr() for x in given}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [x for x in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(x, torch.Tensor)]
        self.seen += [x.numel() for x in made if x.data_ptr() not in self.given]
        return out


@pytest.mark.parametrize("soft_cap", [None, 5.0])
def test_no_tensor_in_either_direction_is_larger_than_a_chunk(soft_cap):
    hidden_nd, weight_vd, _, target_n = tensors(torch.float32, n=64, v=5000, bias=False)
    with Sizes() as sizes:
        kernel_head(hidden_nd, Head(weight_vd, None, 1.0, soft_cap), target_n, constant(torch.ones(64)), chunk=8)[
            0
        ].backward()
    assert max(sizes.seen) == max(8 * 5000, 5000 * D)


def test_the_logits_of_a_chunk_are_made_once():
    from trainer.forward import kernel as kernel_module

    hidden_nd, weight_vd, _, target_n = tensors()
    rows, logits = [], kernel_module.logits_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_module, "logits_of", lambda h, head: rows.append(len(h)) or logits(h, head))
        kernel_head(hidden_nd, Head(weight_vd), target_n, constant(weights(1.0)), chunk=10)[0].backward()
    assert rows == [8, 8, 7]


def test_huge_logits_stay_finite():
    hidden_nd, weight_vd, _, target_n = tensors(torch.float32, bias=False)
    head = Head((weight_vd * 1e4).detach().requires_grad_())
    loss, logprob_n = kernel_head(hidden_nd, head, target_n, constant(torch.ones(N)))
    loss.backward()
    assert logprob_n.isfinite().all() and hidden_nd.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["weights", "autocast"])
def test_half_precision_gives_float32_logprobs_near_those_of_float32(kind):
    hidden_nd, weight_vd, _, target_n = tensors(torch.float32, v=400, bias=False)
    exact_n = token_logprobs(hidden_nd, Head(weight_vd), target_n).detach()
    exact = torch.autograd.grad(
        kernel_head(hidden_nd, Head(weight_vd), target_n, constant(torch.ones(N)))[0], weight_vd
    )[0]
    head = Head(weight_vd.bfloat16().detach().requires_grad_()) if kind == "weights" else Head(weight_vd)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
        loss, logprob_n = kernel_head(hidden_nd, head, target_n, constant(torch.ones(N)), chunk=5)
    assert logprob_n.dtype == loss.dtype == torch.float32
    assert 0 < (logprob_n - exact_n).abs().mean() < 0.05
    (grad,) = torch.autograd.grad(loss, head.weight_vd)
    assert grad.dtype == head.weight_vd.dtype
    assert (grad.float() - exact).abs().mean() < 0.03 * exact.abs().mean()


def test_no_tokens_are_no_loss_and_no_gradient():
    hidden_nd, weight_vd, _, _ = tensors()
    loss, logprob_n = kernel_head(
        hidden_nd[:0], Head(weight_vd), torch.empty(0, dtype=torch.long), constant(torch.ones(0))
    )
    assert logprob_n.shape == (0,) and loss == 0
    assert torch.autograd.grad(loss, weight_vd)[0].abs().max() == 0


def test_weights_of_another_shape_are_refused_with_both_sides():
    hidden_nd, weight_vd, _, target_n = tensors()
    with pytest.raises(ValueError, match=r"\(23, 1\).*\(23,\)"):
        kernel_head(hidden_nd, Head(weight_vd), target_n, lambda logprob_m, part: logprob_m[:, None])
