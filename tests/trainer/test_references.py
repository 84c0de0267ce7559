"""Copies of the policy against a slow twin that keeps every state."""

from __future__ import annotations

import pytest
import torch

from trainer.config import Reference
from trainer.references import PROX, REFERENCE, Copies


def moved(model: torch.nn.Linear, step: int) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))


def history(copies: Copies, steps: int) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Weights before each step, and what each step compares with."""
    torch.manual_seed(0)
    model, states, seen = torch.nn.Linear(3, 2), [], []
    for step in range(1, steps + 1):
        copies.before(model, step)
        states.append(model.weight.detach().clone())
        seen.append({name: copy["weight"].clone() for name, copy in copies.weights.items()})
        moved(model, step)
        copies.after(model)
    states.append(model.weight.detach().clone())
    return states, seen


@pytest.mark.parametrize("every", [1, 3, 50])
def test_a_periodic_reference_is_the_state_before_the_step_that_began_its_period(every: int) -> None:
    states, seen = history(Copies(Reference(kind="periodic", every=every), frozenset({REFERENCE})), 8)
    for step, copy in enumerate(seen):
        assert torch.equal(copy[REFERENCE], states[step - step % every])


def test_a_running_reference_is_the_weighted_sum_of_all_states() -> None:
    states, seen = history(Copies(Reference(kind="ema", decay=0.9, every=2), frozenset({REFERENCE})), 6)
    for step, copy in enumerate(seen):  # θ_ref before step k+1: 0.9^k θ_0 + Σ 0.1 · 0.9^(k−i) θ_i
        expected = 0.9**step * states[0] + sum(0.1 * 0.9 ** (step - i) * states[i] for i in range(1, step + 1))
        assert torch.allclose(copy[REFERENCE], expected, atol=1e-6)


def test_the_start_of_a_block_is_kept_for_its_steps_beside_the_reference() -> None:
    copies = Copies(Reference(kind="periodic", every=2, block=4), frozenset({REFERENCE, PROX}))
    states, seen = history(copies, 9)
    for step, copy in enumerate(seen):
        assert torch.equal(copy[PROX], states[step - step % 4])
        assert torch.equal(copy[REFERENCE], states[step - step % 2])


def test_copies_come_back_from_a_checkpoint() -> None:
    copies = Copies(Reference(kind="ema"), frozenset({REFERENCE, PROX}))
    history(copies, 3)
    again = Copies(copies.settings, copies.wanted)
    again.put(copies.tensors)
    assert again.weights.keys() == copies.weights.keys()
    for name, copy in copies.weights.items():
        assert all(torch.equal(value, again.weights[name][key]) for key, value in copy.items())


def test_nothing_is_copied_where_nothing_is_compared_with() -> None:
    copies = Copies()
    history(copies, 2)
    assert not copies.weights and not copies.tensors
