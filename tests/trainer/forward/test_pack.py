"""Layouts against rows run alone; the windows of Mistral and Gemma 3 are 6 tokens (see tests/conftest.py)."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from trainer.forward import GroupTokens, checkpoint_activations, group_logprobs, hidden_states, plan, tokens_forwarded
from trainer.forward import pack as pack_module

PACKED = ["llama", "qwen3", "mistral", "gemma3", "gpt2"]
FAMILIES = [*PACKED, "bloom"]
# ragged prompts and completions, one-token completions, a group of nothing else, single answers, a document
SHAPES = [(20, [10, 1, 15]), (3, [1, 1]), (9, [4]), (30, [25, 2]), (1, [12]), (4, [5, 5]), (5, [1])]


def gradients(policy, groups, coefficient_n, oracle=None):
    policy.model.zero_grad(set_to_none=True)
    logprob_n = oracle(policy.model, groups) if oracle else group_logprobs(policy, groups)
    (logprob_n * coefficient_n).sum().backward()
    found = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}
    return logprob_n.detach(), found


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        (family, layout)
        for family in FAMILIES
        for layout in ("split", "kv", "plain")
        if (family, layout) != ("bloom", "split")
    ],
)
def test_logprobs_and_gradients_equal_those_of_rows_run_alone(family, layout, policy, random_groups, logprobs_alone):
    tiny, groups = policy(family, layout), random_groups(SHAPES)
    coefficient_n = torch.randn(sum(sum(counts) for _, counts in SHAPES), generator=torch.Generator().manual_seed(1))
    logprob_n, grads = gradients(tiny, groups, coefficient_n)
    expected_n, expected = gradients(tiny, groups, coefficient_n, logprobs_alone)
    torch.testing.assert_close(logprob_n, expected_n, atol=1e-5, rtol=0)
    assert grads.keys() == expected.keys() and len(grads) == len(list(tiny.model.parameters()))
    for name, grad in grads.items():
        scale = max(1.0, expected[name].abs().max().item())
        assert (grad - expected[name]).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_falls_back_to_plain(family, policy):
    tiny = policy(family)
    if family in PACKED:
        assert (tiny.layout, tiny.reason) == ("split", "")
    else:
        assert tiny.layout == "kv" and "layout split fails on this model: BloomForCausalLM" in tiny.reason


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
@pytest.mark.parametrize(  # not kv with a window of 1: transformers' cache fails there, and says so
    ("layout", "window"), [("split", w) for w in (1, 2, 3, 12, 20)] + [("kv", w) for w in (2, 3, 12, 20)]
)
def test_windows_shorter_than_the_prompt_and_than_prompt_plus_completion_are_exact(
    family, window, layout, policy, random_groups, logprobs_alone
):
    tiny = policy(family, layout, sliding_window=window)
    groups = random_groups([(10, [9, 3, 12]), (4, [14, 2]), (15, [1, 11]), (30, [13])])
    coefficient_n = torch.randn(sum(len(c) for g in groups for c in g.completions))
    logprob_n, grads = gradients(tiny, groups, coefficient_n)
    expected_n, expected = gradients(tiny, groups, coefficient_n, logprobs_alone)
    torch.testing.assert_close(logprob_n, expected_n, atol=1e-5, rtol=0)
    for name, grad in grads.items():
        assert (grad - expected[name]).abs().max() <= 1e-5 * max(1.0, expected[name].abs().max().item()), name


@pytest.mark.parametrize("layout", ["split", "kv"])
@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_the_window_matters_on_these_models(family, layout, policy, random_groups):
    groups = random_groups([(20, [6, 6])])
    with torch.no_grad():
        short, long = (group_logprobs(policy(family, layout, sliding_window=w), groups) for w in (6, 100))
    assert (short - long).abs().max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_completions_see_their_own_prompt_and_no_other_sample(family, policy, random_groups):
    tiny, (first, second) = policy(family), random_groups([(5, [4, 3]), (5, [4, 3])])
    mixed = GroupTokens(first.prompt, [first.completions[0], second.completions[1]])
    other_prompt = GroupTokens(second.prompt, first.completions)
    with torch.no_grad():
        base_n, mixed_n, other_n = (group_logprobs(tiny, [g]) for g in (first, mixed, other_prompt))
    torch.testing.assert_close(mixed_n[:4], base_n[:4], atol=2e-6, rtol=0)
    assert (other_n - base_n).abs().min() > 0 and (other_n - base_n).abs().max() > 0.05


def test_a_wrong_position_of_the_completions_is_seen(policy, random_groups, logprobs_alone, monkeypatch):
    tiny, groups = policy("llama", "kv"), random_groups([(8, [5, 7])])
    extend = pack_module.extend

    def shifted(model, prefix, rows, device):
        return extend(model, dataclasses.replace(prefix, length_g=prefix.length_g + 3), rows, device)

    monkeypatch.setattr(pack_module, "extend", shifted)
    with torch.no_grad():
        assert (group_logprobs(tiny, groups) - logprobs_alone(tiny.model, groups)).abs().max() > 1e-2


@pytest.mark.parametrize("layout", ["split", "kv", "plain"])
def test_the_transformer_runs_exactly_the_tokens_that_tokens_forwarded_names(layout, policy, random_groups):
    tiny, groups, seen = policy("llama", layout), random_groups(SHAPES), []
    embedding = tiny.model.get_input_embeddings()
    embedding.register_forward_hook(lambda module, given, out: seen.append(given[0].numel()))
    with torch.no_grad():
        hidden_states(tiny, groups)
    assert sum(seen) == tokens_forwarded(groups, layout)


def test_tokens_forwarded_by_hand():
    groups = [GroupTokens([1] * 512, [[2] * 16] * 16)]
    assert tokens_forwarded(groups, "split") == tokens_forwarded(groups, "kv") == 512 + 16 * 15
    assert tokens_forwarded(groups, "flex") == 6 * 128
    assert tokens_forwarded(groups, "plain") == 16 * (512 + 15)
    ragged = [GroupTokens([1] * 3, [[2] * 5, [2]]), GroupTokens([1] * 7, [[2], [2]]), GroupTokens([1] * 4, [[2] * 6])]
    assert tokens_forwarded(ragged, "kv") == 2 * 7 + 1 * 4 + 1 * 9
    assert tokens_forwarded(ragged, "plain") == 5 * 9
    assert tokens_forwarded(ragged, "split") == 3 + 4 + 7 + 4 + 5
    assert tokens_forwarded(ragged, "flex") == 128


def test_plan_keeps_order_and_whole_groups_within_the_budget(random_groups):
    groups = random_groups([(6, [3, 4]), (5, [2, 2]), (40, [9, 9]), (3, [4]), (3, [4]), (2, [1, 1])])
    for layout in ("split", "kv", "plain"):
        batches = plan(groups, 30, layout)
        assert [g for batch in batches for g in batch] == list(range(len(groups)))
        for batch in batches:
            cost = tokens_forwarded([groups[g] for g in batch], layout)
            assert cost <= 30 or len(batch) == 1
    assert plan([GroupTokens([1], [[2, 3]])] * 3, 4) == [[0, 1], [2]]
    assert [2] in plan(groups, 30) and plan(groups, 10**6) == [list(range(len(groups)))] and plan([], 30) == []


@pytest.mark.parametrize("layout", ["split", "kv", "plain"])
def test_micro_batches_do_not_change_the_logprobs(layout, policy, random_groups):
    tiny, groups = policy("qwen3", layout), random_groups(SHAPES)
    with torch.no_grad():
        whole_n = group_logprobs(tiny, groups)
        parts = [group_logprobs(tiny, [groups[g] for g in batch]) for batch in plan(groups, 40, layout)]
    assert len(parts) > 1
    torch.testing.assert_close(torch.cat(parts), whole_n, atol=5e-6, rtol=0)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([], "no groups"),
        ([GroupTokens([], [[1]])], "prompt of 0 tokens"),
        ([GroupTokens([1], [[2], []])], r"\[1, 0\]"),
        ([GroupTokens([1], [])], r"completions of \[\]"),
        ([GroupTokens([1] * 100, [[2] * 5, [2] * 40])], "100 and a completion of 40 tokens.* context of 128"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_its_lengths(groups, words, policy):
    with pytest.raises(ValueError, match=words):
        hidden_states(policy("gpt2"), groups)


def test_the_whole_context_can_be_used(policy):
    groups = [GroupTokens([7] * 100, [[8] * 28, [9] * 28])]
    assert group_logprobs(policy("gpt2", "kv"), groups).shape == (56,)
    assert group_logprobs(policy("gpt2", "plain"), groups).isfinite().all()


def test_bloom_has_no_limit_of_context(policy):
    assert group_logprobs(policy("bloom"), [GroupTokens([7] * 200, [[8] * 90])]).shape == (90,)


def test_checkpointing_with_the_shared_cache_is_refused(policy, random_groups):
    tiny, groups = policy("llama", "kv"), random_groups([(3, [2, 2])])
    named = (
        "activation" if hasattr(tiny.model, "activation_checkpointing_enable") else "gradient"
    )  # before transformers 5.20
    getattr(tiny.model, f"{named}_checkpointing_enable")()
    tiny.model.train()
    with pytest.raises(ValueError, match="checkpoint_activations"):
        hidden_states(tiny, groups)
    with torch.no_grad():
        assert hidden_states(tiny, groups)[0].isfinite().all()


@pytest.mark.parametrize("layout", ["split", "kv", "plain"])
@pytest.mark.parametrize("family", PACKED)
def test_checkpointed_activations_give_the_same_gradients_and_no_dropout(family, layout, policy, random_groups):
    tiny, groups = policy(family, layout), random_groups(SHAPES)
    coefficient_n = torch.randn(sum(sum(counts) for _, counts in SHAPES))
    expected_n, expected = gradients(tiny, groups, coefficient_n)
    checkpoint_activations(tiny)
    logprob_n, grads = gradients(tiny, groups, coefficient_n)
    if layout == "kv":
        assert tiny.layout == "plain" and "checkpointing" in tiny.reason
    else:
        assert (tiny.layout, tiny.reason) == (layout, "")
    torch.testing.assert_close(logprob_n, expected_n, atol=1e-5, rtol=0)
    for name, grad in grads.items():
        assert (grad - expected[name]).abs().max() <= 1e-5 * max(1.0, expected[name].abs().max().item()), name


def test_interleaved_packs_with_checkpointing_read_their_own_layout(policy, random_groups):
    tiny, shapes = policy("llama", "split"), ([(9, [4, 7]), (3, [5])], [(2, [1, 8, 3])])
    packs = [random_groups(shape, seed) for seed, shape in enumerate(shapes)]
    apart = [gradients(tiny, groups, 1.0)[1] for groups in packs]
    checkpoint_activations(tiny)
    tiny.model.zero_grad(set_to_none=True)
    losses = [group_logprobs(tiny, groups).sum() for groups in packs]
    for loss in losses:  # each layer runs again here, after the other pack's forward pass
        loss.backward()
    for name, p in tiny.model.named_parameters():
        expected = apart[0][name] + apart[1][name]
        assert (p.grad - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item()), name


def test_checkpointing_recomputes_every_layer(policy, random_groups):
    tiny, groups, ran = policy("llama", "split"), random_groups([(9, [4, 7])]), []
    for layer in tiny.model.model.layers:
        layer.self_attn.register_forward_hook(lambda *_: ran.append(1))
    group_logprobs(tiny, groups).sum().backward()
    once = len(ran)
    checkpoint_activations(tiny)
    group_logprobs(tiny, groups).sum().backward()
    assert len(ran) == 3 * once


@pytest.mark.parametrize("layout", ["split", "kv", "plain"])
def test_a_group_in_two_calls_gives_the_gradient_of_one(layout, policy, random_groups):
    tiny, (group,) = policy("llama", layout), random_groups([(11, [6, 1, 9, 4])])
    whole_n, whole = gradients(tiny, [group], 1.0)
    tiny.model.zero_grad(set_to_none=True)
    halves = [GroupTokens(group.prompt, part) for part in (group.completions[:2], group.completions[2:])]
    parts = [group_logprobs(tiny, [half]) for half in halves]
    sum(part.sum() for part in parts).backward()
    torch.testing.assert_close(torch.cat(parts), whole_n, atol=1e-5, rtol=0)
    for name, p in tiny.model.named_parameters():
        assert (p.grad - whole[name]).abs().max() <= 1e-5 * max(1.0, whole[name].abs().max().item()), name
