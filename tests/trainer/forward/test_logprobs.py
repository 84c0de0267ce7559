"""group_logprobs, padding, and the check of the layout."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from trainer.forward import check_layout, flat_n, group_logprobs, pad_bt
from trainer.forward import pack as pack_module

SHAPES = [(9, [4, 1, 7]), (3, [5]), (6, [2, 2])]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_logprobs_at_a_temperature_are_those_of_divided_logits(temperature, policy, random_groups, logprobs_alone):
    tiny, groups = policy("llama"), random_groups(SHAPES)
    with torch.no_grad():
        expected_n = logprobs_alone(tiny.model, groups, temperature)
        logprob_n = group_logprobs(tiny, groups, temperature=temperature, chunk=5)
    assert logprob_n.dtype == torch.float32 and logprob_n.max() < 0
    torch.testing.assert_close(logprob_n, expected_n, atol=1e-5, rtol=0)


def test_a_gradient_is_carried_only_where_gradients_are_on(policy, random_groups):
    tiny, groups = policy("gpt2"), random_groups(SHAPES)
    assert group_logprobs(tiny, groups).requires_grad
    with torch.no_grad():
        assert not group_logprobs(tiny, groups).requires_grad


def test_padding_and_flattening_are_inverse_and_differentiable():
    value_n = torch.arange(1.0, 7.0, requires_grad=True)
    value_bt, mask_bt = pad_bt(value_n, [2, 1, 3])
    assert value_bt.tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6]]
    assert mask_bt.tolist() == [[True, True, False], [True, False, False], [True, True, True]]
    assert torch.equal(flat_n(value_bt, mask_bt), value_n)
    (value_bt * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert value_n.grad.tolist() == [1, 10, 1, 1, 10, 100]


def test_padding_refuses_lengths_that_do_not_sum_to_the_values():
    with pytest.raises(ValueError, match=r"5 values.*sum to 6"):
        pad_bt(torch.zeros(5), [2, 4])


def test_the_layout_check_is_small_for_a_right_layout_and_sees_a_wrong_one(policy, random_groups, monkeypatch):
    tiny, groups = policy("mistral", "kv"), random_groups([(12, [6, 3])])
    assert 0 <= check_layout(tiny, groups) < 1e-5
    assert check_layout(dataclasses.replace(tiny, layout="plain"), groups) == 0.0
    extend = pack_module.extend

    def blind(model, prefix, rows, device):
        return extend(model, dataclasses.replace(prefix, mask_gt=torch.zeros_like(prefix.mask_gt)), rows, device)

    monkeypatch.setattr(pack_module, "extend", blind)
    assert check_layout(tiny, groups) > 1e-2
