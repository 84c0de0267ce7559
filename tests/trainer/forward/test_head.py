"""The chunked head against log_softmax and gather in float64, and its memory."""

from __future__ import annotations

import pytest
import torch

from trainer.forward import Head, support_logprobs, token_logprobs
from trainer.forward import head as head_module

N, D, V = 23, 7, 31


def whole_logprobs(hidden_nd, head, target_n, temperature):
    """The textbook form: all logits at once."""
    logits_nv = hidden_nd @ head.weight_vd.T
    if head.bias_v is not None:
        logits_nv = logits_nv + head.bias_v
    logits_nv = logits_nv * head.scale
    if head.soft_cap is not None:
        logits_nv = head.soft_cap * torch.tanh(logits_nv / head.soft_cap)
    return torch.log_softmax(logits_nv / temperature, -1)[torch.arange(len(target_n)), target_n]


def tensors(dtype=torch.float64, n=N, v=V, bias=True):
    generator = torch.Generator().manual_seed(3)
    hidden_nd, weight_vd, bias_v = (torch.randn(s, generator=generator, dtype=dtype) for s in ((n, D), (v, D), (v,)))
    target_n = torch.randint(v, (n,), generator=generator)
    return hidden_nd.requires_grad_(), weight_vd.requires_grad_(), bias_v.requires_grad_() if bias else None, target_n


@pytest.mark.parametrize("chunk", [1, 4, 23, 100])
@pytest.mark.parametrize(
    ("scale", "soft_cap", "temperature", "bias"),
    [
        (1.0, None, 1.0, False),
        (1.0, None, 0.7, True),
        (0.25, None, 1.0, True),
        (0.5, 3.0, 1.3, True),
        (1.0, 2.0, 1.0, False),
    ],
)
def test_value_and_gradients_equal_log_softmax(chunk, scale, soft_cap, temperature, bias):
    hidden_nd, weight_vd, bias_v, target_n = tensors(bias=bias)
    head = Head(weight_vd, bias_v, scale, soft_cap)
    leaves = [x for x in (hidden_nd, weight_vd, bias_v) if x is not None]
    coefficient_n = torch.linspace(-1, 2, N, dtype=torch.float64)
    expected_n = whole_logprobs(hidden_nd, head, target_n, temperature)
    expected = torch.autograd.grad((expected_n * coefficient_n).sum(), leaves)
    logprob_n = token_logprobs(hidden_nd, head, target_n, temperature=temperature, chunk=chunk)
    torch.testing.assert_close(logprob_n, expected_n, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad((logprob_n * coefficient_n).sum(), leaves), expected, atol=1e-12, rtol=1e-11
    )


def test_gradients_agree_with_finite_differences():
    hidden_nd, weight_vd, bias_v, target_n = tensors(n=5, v=9)

    def f(h, w, b):
        return token_logprobs(h, Head(w, b, 0.7, 4.0), target_n, temperature=0.9, chunk=2)

    assert torch.autograd.gradcheck(f, (hidden_nd, weight_vd, bias_v))


def test_golden_value():
    # logits 1, 2, 3: the last has -log(1 + e^-1 + e^-2) = -0.407606; at temperature 2 -log(1 + e^-.5 + e^-1) = -0.680270
    head = Head(torch.tensor([[1.0], [2.0], [3.0]]))
    hidden_nd, target_n = torch.ones(1, 1), torch.tensor([2])
    assert token_logprobs(hidden_nd, head, target_n).item() == pytest.approx(-0.4076060, abs=1e-6)
    assert token_logprobs(hidden_nd, head, target_n, temperature=2.0).item() == pytest.approx(-0.6802697, abs=1e-6)


def test_a_frozen_head_gets_no_gradient_and_hidden_states_keep_theirs():
    hidden_nd, weight_vd, _, target_n = tensors()
    loose = torch.autograd.grad(token_logprobs(hidden_nd, Head(weight_vd), target_n, chunk=4).sum(), hidden_nd)[0]
    frozen_nd = weight_vd.detach()
    token_logprobs(hidden_nd, Head(frozen_nd), target_n, chunk=4).sum().backward()
    torch.testing.assert_close(hidden_nd.grad, loose)
    assert frozen_nd.grad is None


def test_a_second_backward_over_a_retained_graph_gives_the_same_gradient():
    hidden_nd, weight_vd, _, target_n = tensors()
    total = token_logprobs(hidden_nd, Head(weight_vd), target_n, chunk=10).sum()
    first = torch.autograd.grad(total, (hidden_nd, weight_vd), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(total, (hidden_nd, weight_vd)), first)


def test_large_logits_neither_overflow_nor_vanish():
    head = Head(torch.tensor([[300.0], [-300.0]], requires_grad=True))
    logprob_n = token_logprobs(torch.ones(2, 1), head, torch.tensor([0, 1]))
    assert logprob_n.tolist() == [0.0, -600.0]
    assert torch.autograd.grad(logprob_n.sum(), head.weight_vd)[0].isfinite().all()


def test_half_precision_heads_give_float32_logprobs_and_gradients_in_their_own_type():
    hidden_nd, weight_vd, _, target_n = tensors(torch.bfloat16, bias=False)
    logprob_n = token_logprobs(hidden_nd, Head(weight_vd), target_n, chunk=5)
    expected_n = (hidden_nd @ weight_vd.T).float().log_softmax(-1)[torch.arange(N), target_n]
    assert logprob_n.dtype == torch.float32
    torch.testing.assert_close(logprob_n, expected_n, atol=1e-6, rtol=0)
    logprob_n.sum().backward()
    assert hidden_nd.grad.dtype == weight_vd.grad.dtype == torch.bfloat16


def test_autocast_multiplies_in_its_type_and_sums_over_the_vocabulary_in_float32():
    hidden_nd, weight_vd, _, target_n = tensors(torch.float32, v=4000, bias=False)
    plain_n = token_logprobs(hidden_nd, Head(weight_vd), target_n)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logprob_n = token_logprobs(hidden_nd, Head(weight_vd), target_n)
        logprob_nv = support_logprobs(hidden_nd, Head(weight_vd), torch.arange(4000).expand(N, -1))
    assert logprob_n.dtype == torch.float32
    assert 0 < (logprob_n - plain_n).abs().mean() < 0.05
    # half precision could not add up 4,000 probabilities
    torch.testing.assert_close(logprob_nv.exp().sum(1), torch.ones(N), atol=1e-5, rtol=0)
    logprob_n.sum().backward()
    assert hidden_nd.grad.dtype == weight_vd.grad.dtype == torch.float32
    exact = torch.autograd.grad(plain_n.sum(), weight_vd)[0]
    assert (weight_vd.grad - exact).abs().mean() < 0.01 * exact.abs().mean() + 1e-3


def test_no_tokens_are_no_logprobs():
    hidden_nd, weight_vd, _, _ = tensors()
    logprob_n = token_logprobs(hidden_nd[:0], Head(weight_vd), torch.empty(0, dtype=torch.long))
    assert logprob_n.shape == (0,)
    assert torch.autograd.grad(logprob_n.sum(), weight_vd)[0].abs().max() == 0


@pytest.mark.parametrize("soft_cap", [None, 5.0])
def test_no_tensor_in_either_direction_is_larger_than_a_chunk(soft_cap):
    """Records the size of every tensor that any operator returns."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    self.elements = max(self.elements, tensor.numel())
            return out

    hidden_nd, weight_vd, _, target_n = tensors(torch.float32, n=64, v=5000, bias=False)
    with Largest() as largest:
        token_logprobs(hidden_nd, Head(weight_vd, None, 1.0, soft_cap), target_n, chunk=8).sum().backward()
    assert largest.elements == max(8 * 5000, 5000 * D)


def test_a_chunk_has_fewer_rows_where_the_vocabulary_is_large(monkeypatch):
    seen, logits = [], head_module.logits_of
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", 4 * V)
    monkeypatch.setattr(
        head_module, "logits_of", lambda hidden_nd, head: seen.append(len(hidden_nd)) or logits(hidden_nd, head)
    )
    hidden_nd, weight_vd, _, target_n = tensors()
    token_logprobs(hidden_nd, Head(weight_vd), target_n)
    assert seen == [4, 4, 4, 4, 4, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target_n": torch.zeros(3, dtype=torch.long)}, r"\(3,\)"),
        ({"head": Head(torch.zeros(V, D + 1))}, rf"\({V}, {D + 1}\)"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_sides(change, words):
    hidden_nd, weight_vd, _, target_n = tensors()
    given = {"hidden_nd": hidden_nd, "head": Head(weight_vd), "target_n": target_n, **change}
    with pytest.raises(ValueError, match=words):
        token_logprobs(given.pop("hidden_nd"), given.pop("head"), given.pop("target_n"), **given)


def test_whole_logits_of_few_rows_carry_exact_gradients():
    hidden_nd, weight_vd, bias_v, _ = tensors(n=3)
    logits_nv = Head(weight_vd, bias_v, 0.5, 2.0).logits(hidden_nd)
    expected_nv = 2.0 * torch.tanh(0.5 * (hidden_nd @ weight_vd.T + bias_v) / 2.0)
    torch.testing.assert_close(logits_nv, expected_nv)
    ours, theirs = (
        torch.autograd.grad(x.square().sum(), (hidden_nd, weight_vd, bias_v)) for x in (logits_nv, expected_nv)
    )
    torch.testing.assert_close(ours, theirs)


HEADS = [
    (1.0, None, 1.0, False),
    (1.0, None, 0.7, True),
    (0.25, None, 1.0, True),
    (0.5, 3.0, 1.3, True),
    (1.0, 2.0, 1.0, False),
]


@pytest.mark.parametrize("chunk", [1, 5, 100])
@pytest.mark.parametrize(("scale", "soft_cap", "temperature", "bias"), HEADS)
def test_support_logprobs_are_gathered_from_log_softmax(chunk, scale, soft_cap, temperature, bias):
    hidden_nd, weight_vd, bias_v, _ = tensors(bias=bias)
    head, leaves = (
        Head(weight_vd, bias_v, scale, soft_cap),
        [x for x in (hidden_nd, weight_vd, bias_v) if x is not None],
    )
    ids_nk = torch.randint(V, (N, 6), generator=torch.Generator().manual_seed(4))
    ids_nk[:, 5] = ids_nk[:, 0]  # drawn twice
    coefficient_nk = torch.randn(N, 6, dtype=torch.float64)
    columns = [whole_logprobs(hidden_nd, head, ids_nk[:, i], temperature) for i in range(6)]
    expected_nk = torch.stack(columns, 1)
    expected = torch.autograd.grad((expected_nk * coefficient_nk).sum(), leaves)
    logprob_nk = support_logprobs(hidden_nd, head, ids_nk, temperature=temperature, chunk=chunk)
    torch.testing.assert_close(logprob_nk, expected_nk, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad((logprob_nk * coefficient_nk).sum(), leaves), expected, atol=1e-12, rtol=1e-10
    )


def test_support_logprobs_refuse_ids_that_are_not_one_list_a_position():
    hidden_nd, weight_vd, _, target_n = tensors()
    with pytest.raises(ValueError, match=rf"target \({N},\).*\(n, k\)"):
        support_logprobs(hidden_nd, Head(weight_vd), target_n)
