"""One move of the weights against arithmetic, and the state put back bit by bit."""

from __future__ import annotations

import math

import pytest
import torch

from data.refusal import Refusal
from trainer.config import Optimiser
from trainer.ema import Average, replaced
from trainer.optimiser import build, load_state, move, state_tensors


def model() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


def with_gradient(layer: torch.nn.Linear, value: float) -> torch.nn.Linear:
    for parameter in layer.parameters():
        parameter.grad = torch.full_like(parameter, value)
    return layer


def test_a_gradient_above_the_norm_is_scaled_to_it_and_its_own_norm_is_told() -> None:
    layer = with_gradient(model(), 2.0)
    before = layer.weight.detach().clone()
    settings = Optimiser(name="sgd", lr=1.0)
    norm = move(build(settings, layer), layer, 0.5, 1.0, 1)
    assert norm == pytest.approx(2 * math.sqrt(8))  # 3·2 weights and 2 biases
    torch.testing.assert_close(layer.weight, before - 0.5 * 2.0 / norm)
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_a_gradient_below_the_norm_and_an_absent_bound_leave_it_as_it_is() -> None:
    for clip in (100.0, None):
        layer = with_gradient(model(), 2.0)
        before = layer.bias.detach().clone()
        move(build(Optimiser(name="sgd"), layer), layer, 0.5, clip, 1)
        torch.testing.assert_close(layer.bias, before - 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_refused_before_it_reaches_a_weight(value: float) -> None:
    layer = with_gradient(model(), value)
    before = layer.weight.detach().clone()
    with pytest.raises(Refusal, match="step 7: the gradient's norm is"):
        move(build(Optimiser(), layer), layer, 0.5, 1.0, 7)
    assert torch.equal(layer.weight, before)


def test_matrices_decay_and_vectors_do_not() -> None:
    layer = with_gradient(model(), 0.0)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    move(build(Optimiser(weight_decay=0.1), layer), layer, 0.5, None, 1)
    torch.testing.assert_close(layer.weight, weight * (1 - 0.5 * 0.1))
    assert torch.equal(layer.bias, bias)


def test_two_steps_of_adamw_are_the_papers_by_hand() -> None:
    layer, settings = model(), Optimiser(lr=0.1, betas=[0.5, 0.75], weight_decay=0.0)
    optimiser, expected = build(settings, layer), layer.bias.detach().clone()
    first, second = 0.0, 0.0
    for step, gradient in enumerate((1.0, -2.0), start=1):
        move(optimiser, with_gradient(layer, gradient), 0.1, None, step)
        first, second = 0.5 * first + 0.5 * gradient, 0.75 * second + 0.25 * gradient**2
        expected -= 0.1 * (first / (1 - 0.5**step)) / (math.sqrt(second / (1 - 0.75**step)) + 1e-8)
    torch.testing.assert_close(layer.bias.detach(), expected)


def test_the_state_put_back_gives_the_same_next_step() -> None:
    settings, one = Optimiser(lr=0.1), model()
    first = build(settings, one)
    for value in (1.0, -2.0):
        move(first, with_gradient(one, value), 0.1, None, 1)
    two = model()
    two.load_state_dict(one.state_dict())
    second = build(settings, two)
    load_state(second, two, dict(state_tensors(first, one)))
    for optimiser, layer in ((first, one), (second, two)):
        move(optimiser, with_gradient(layer, 0.5), 0.1, None, 3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_the_average_moves_by_its_share_and_lends_itself_for_a_while() -> None:
    layer = model()
    average, before = Average(layer, 0.75), layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 4.0
    average.update(layer)
    torch.testing.assert_close(average.weights["weight"], before + 1.0)
    own = layer.weight.detach().clone()
    with replaced(layer, average.weights):
        torch.testing.assert_close(layer.weight.detach(), before + 1.0)
    assert torch.equal(layer.weight, own)


def test_sgd_has_no_decay() -> None:
    layer = with_gradient(model(), 0.0)
    weight = layer.weight.detach().clone()
    move(build(Optimiser(name="sgd", weight_decay=0.1), layer), layer, 0.5, None, 1)
    assert torch.equal(layer.weight, weight)
