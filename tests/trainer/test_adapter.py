"""Adapters: they start as nothing, merge to the same log π, leave the head alone, and peft loads what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data.refusal import Refusal
from trainer.adapter import (
    adapted,
    adapter_weights,
    linear_names,
    merged,
    merged_weights,
    read_adapter,
    switched_off,
    wanted,
    with_adapter,
    write_adapter,
)
from trainer.config import Lora
from trainer.forward import GroupTokens, Policy, generate, group_logprobs, head_of, load
from trainer.forward.generate import Sampling
from trainer.optimiser import trained

GROUPS = [GroupTokens([5, 9, 20, 33], [[40, 7, 1], [8, 1]]), GroupTokens([70, 6], [[11, 12, 13, 1]])]


def logprobs(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return group_logprobs(policy, GROUPS)


def moved(path: str, settings: Lora | None = None, **how: Any) -> Policy:
    """A policy whose adapters say something."""
    policy = with_adapter(load(path, **how), settings or Lora(rank=4, alpha=12.0))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trained(policy.model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return policy


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "bloom"])
def test_adapters_start_as_nothing_and_merge_to_the_same_log_probabilities(
    tiny_model: Callable[..., str], tmp_path: Path, family: str
) -> None:
    path = tiny_model(family)
    start = load(path)
    fresh = with_adapter(load(path), Lora(rank=4))
    torch.testing.assert_close(logprobs(fresh), logprobs(start), atol=1e-6, rtol=0)
    policy = moved(path)
    assert (logprobs(policy) - logprobs(start)).abs().max() > 0.01
    policy.model.save_pretrained(tmp_path, state_dict=dict(merged_weights(policy.model)))
    policy.tokenizer.save_pretrained(tmp_path)
    plain = load(str(tmp_path))
    assert not adapted(plain.model) and {p.dtype for p in plain.model.parameters()} == {torch.float32}
    torch.testing.assert_close(logprobs(plain), logprobs(policy), atol=1e-4, rtol=0)


def test_every_linear_layer_is_adapted_the_head_never_and_nothing_else_moves(tiny_model: Callable[..., str]) -> None:
    policy = load(tiny_model("llama"))
    names = linear_names(policy.model)
    assert names == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    with_adapter(policy, Lora(rank=4))
    moving = trained(policy.model)
    assert len(moving) == 2 * 7 * 2 and all(".lora_" in name for name in moving)
    assert not head_of(policy.model).weight_vd.requires_grad


@pytest.mark.parametrize(("name", "said"), [("lm_head", "the output layer"), ("q_prj", "did you mean 'q_proj'")])
def test_a_target_that_is_no_layer_of_the_transformer_is_refused(
    tiny_model: Callable[..., str], name: str, said: str
) -> None:
    with pytest.raises(Refusal, match=said):
        with_adapter(load(tiny_model("llama")), Lora(targets=["k_proj", name]))


def test_switched_off_is_the_start_and_gradients_still_reach_the_adapters(tiny_model: Callable[..., str]) -> None:
    path = tiny_model("llama")
    policy = moved(path)
    loss = group_logprobs(policy, GROUPS).sum()
    before = logprobs(policy)
    with switched_off(policy):
        assert torch.equal(logprobs(policy), logprobs(load(path)))
    assert torch.equal(logprobs(policy), before)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained(policy.model).values())


def test_generation_goes_through_the_adapters(tiny_model: Callable[..., str]) -> None:
    policy = moved(tiny_model("llama"))
    drawn = generate(policy, [[5, 9, 20]], 2, Sampling(max_tokens=4), [[1, 2]])[0]
    with torch.no_grad():
        scored = group_logprobs(policy, [GroupTokens([5, 9, 20], [s.token_ids for s in drawn])])
    behaviour = [value for sample in drawn for value in sample.logprobs]
    torch.testing.assert_close(scored, torch.tensor(behaviour), atol=1e-4, rtol=0)


def test_peft_loads_the_adapter_over_the_start_and_so_do_we(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    path = tiny_model("llama")
    policy = moved(path, Lora(rank=3, alpha=5.0, targets=["q_proj", "down_proj"]))
    write_adapter(policy.model, dict(adapter_weights(policy.model)), tmp_path, path)
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(path), str(tmp_path)).eval()
    ids_bt = torch.tensor([[5, 9, 20, 33, 40]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids_bt).logits, policy.model(ids_bt).logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(logprobs(merged(str(tmp_path))), logprobs(policy), atol=1e-4, rtol=0)
    other = with_adapter(load(path), Lora(rank=4, targets=["q_proj", "down_proj"]))
    with pytest.raises(ValueError, match="differ from the model's"):
        read_adapter(other, tmp_path)


def test_adapters_stay_in_float32_over_half_precision(tiny_model: Callable[..., str]) -> None:
    policy = moved(tiny_model("llama"), dtype="bfloat16")
    assert {p.dtype for p in trained(policy.model).values()} == {torch.float32}
    group_logprobs(policy, GROUPS).sum().backward()
    weights = dict(merged_weights(policy.model))
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}


def test_a_seed_draws_the_same_adapters_and_disturbs_no_other_numbers(tiny_model: Callable[..., str]) -> None:
    path = tiny_model("llama")
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    policies = [with_adapter(load(path), Lora(rank=4), seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(1), first)
    one, two, three = (next(iter(trained(policy.model).values())) for policy in policies)
    assert torch.equal(one, two) and not torch.equal(one, three)


def test_adapters_are_the_default_of_large_models_alone() -> None:
    assert [wanted(Lora(enabled=e), n) for e in (None, True, False) for n in (3_000_000_000, 3_000_000_001)] == [
        False, True, True, True, False, False,
    ]  # fmt: skip
