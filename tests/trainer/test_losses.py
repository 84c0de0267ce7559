from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.refusal import Refusal
from trainer.losses import (
    AGGREGATIONS,
    StepCounts,
    Term,
    aggregation_bt,
    aggregations,
    imitation_term,
    kernel_loss,
    kl_coefficient,
    mix,
    next_beta,
    objective_terms,
)
from trainer.objectives import OBJECTIVES, ObjectiveSettings
from trainer.view import StepView

COUNTS = StepCounts(tokens=20, samples=5, prompts=2, max_tokens=8)
# the denominators of the step above for samples of 4 and 2 tokens, by hand
BY_HAND = {"token": [1 / 20, 1 / 20], "sample": [1 / 20, 1 / 10], "sequence": [0.2, 0.2], "constant": [1 / 40, 1 / 40]}
BY_HAND["prompt"] = [0.5, 0.5]


def ragged_mask(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_an_aggregation_divides_by_the_planned_step_and_not_by_the_micro_batch(kind):
    mask_bt = ragged_mask([4, 2])
    mask_bt[0, 1] = False  # an objective's mask: the length and every denominator stay
    a_bt = aggregation_bt(kind, mask_bt, torch.tensor([4, 2]), COUNTS)
    first, second = BY_HAND[kind]
    want = torch.tensor([[first, 0.0, first, first], [second, second, 0.0, 0.0]])
    torch.testing.assert_close(a_bt, want, rtol=1e-6, atol=0)


def test_an_unknown_aggregation_is_answered_with_the_nearest():
    with pytest.raises(Refusal, match="did you mean 'sample'"):
        aggregation_bt("samples", ragged_mask([2]), torch.tensor([2]), COUNTS)


@pytest.mark.parametrize(
    "counts",
    [StepCounts(20, 1, 2, 8), StepCounts(5, 5, 2, 8), StepCounts(20, 5, 0, 8), StepCounts(20, 5, 2, 0)],
)
def test_counts_smaller_than_their_own_micro_batch_are_refused(counts):
    with pytest.raises(ValueError, match="2 samples of 6 tokens are not within"):
        aggregation_bt("token", ragged_mask([4, 2]), torch.tensor([4, 2]), counts)


def random_view(lengths: list[int], groups: list[int], seed: int) -> StepView:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    logprobs = -2 * torch.rand(shape, generator=generator, dtype=torch.float64)

    def near(spread: float) -> torch.Tensor:
        return logprobs + spread * torch.randn(shape, generator=generator, dtype=torch.float64)

    def samples() -> torch.Tensor:
        return torch.randn(shape[0], generator=generator, dtype=torch.float64)

    return StepView(
        logprobs_bt=logprobs,
        behaviour_bt=near(0.3),
        old_bt=near(0.2),
        advantage_b=samples(),
        mask_bt=ragged_mask(lengths),
        group_b=torch.tensor(groups),
        lengths_b=torch.tensor(lengths),
        reward_b=samples(),
        baseline_b=samples(),
        teacher_bt=near(0.5),
        reference_bt=near(0.1),
        prox_bt=near(0.1),
        special_bt=torch.rand(shape, generator=generator) < 0.2,
    )


def rows(view: StepView, index: torch.Tensor) -> StepView:
    """A micro-batch of these samples, padded to its own longest one."""
    width = int(view.lengths_b[index].max())
    known = {field.name: getattr(view, field.name) for field in fields(view)}
    cut = {
        name: value[index, :width] if name.endswith("_bt") else value[index]
        for name, value in known.items()
        if value is not None
    }
    return StepView(**cut)


def weights(view: StepView, name: str, kind: str, counts: StepCounts) -> torch.Tensor:
    terms, _ = objective_terms({name: 0.7}, view, aggregations(view, counts), ObjectiveSettings(), aggregate=kind)
    kl = kl_coefficient(view, view.behaviour_bt - 0.1, cap=2.0)
    terms.append(Term(-0.02, aggregation_bt("token", view.mask_bt, view.lengths_b, counts), kl.c_bt))
    return mix(terms)


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=4), min_size=2, max_size=4),
    name=st.sampled_from(sorted(name for name, row in OBJECTIVES.items() if row.scope != "step")),
    kind=st.sampled_from(sorted(AGGREGATIONS)),
    seed=st.integers(0, 9),
)
def test_weights_do_not_depend_on_how_groups_are_split_into_micro_batches(groups, name, kind, seed):
    lengths = [length for group in groups for length in group]
    numbers = [10 + i for i, group in enumerate(groups) for _ in group]
    view = random_view(lengths, numbers, seed)
    counts = StepCounts(sum(lengths), len(lengths), len(groups), max_tokens=12)
    whole = weights(view, name, kind, counts)
    loss = kernel_loss(whole, view.logprobs_bt, view.mask_bt)
    total = torch.zeros((), dtype=torch.float64)
    for number in sorted(set(numbers)):
        index = (view.group_b == number).nonzero()[:, 0]
        part = rows(view, index)
        weight_bt = weights(part, name, kind, counts)
        torch.testing.assert_close(weight_bt, whole[index, : weight_bt.shape[1]], rtol=1e-9, atol=1e-12)
        total += kernel_loss(weight_bt, part.logprobs_bt, part.mask_bt)
    torch.testing.assert_close(total, loss, rtol=1e-9, atol=1e-12)


def test_the_kernel_is_minus_the_weighted_sum_and_its_gradient_is_minus_the_weight():
    logprobs_bt = torch.tensor([[-1.0, -2.0], [-3.0, float("nan")]], requires_grad=True)
    weight_bt = torch.tensor([[0.5, 1.0], [-2.0, float("nan")]], requires_grad=True)
    mask_bt = torch.tensor([[True, True], [True, False]])
    loss = kernel_loss(weight_bt, logprobs_bt, mask_bt)
    assert loss.item() == pytest.approx(-(-0.5 - 2.0 + 6.0))
    loss.backward()
    assert logprobs_bt.grad.tolist() == [[-0.5, -1.0], [2.0, 0.0]]
    assert weight_bt.grad is None


def test_the_kernel_names_shapes_that_disagree():
    with pytest.raises(ValueError, match=r"weight has shape \(2, 3\), log-probabilities \(2, 2\)"):
        kernel_loss(torch.zeros(2, 3), torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool))


def test_a_mix_adds_each_term_with_its_own_weight_and_denominator():
    one = torch.ones(1, 2)
    weight_bt = mix([Term(1.0, one / 4, torch.tensor([[2.0, -4.0]])), Term(-0.5, one / 2, torch.tensor([[1.0, 8.0]]))])
    assert weight_bt.tolist() == [[0.5 - 0.25, -1.0 - 2.0]]


def test_a_mix_needs_a_term_and_terms_of_one_shape():
    with pytest.raises(ValueError, match="at least one term"):
        mix([])
    with pytest.raises(ValueError, match=r"\(1, 2\), \(1, 3\)"):
        mix([Term(1.0, torch.ones(1, 2), torch.ones(1, 2)), Term(1.0, torch.ones(1, 3), torch.ones(1, 3))])


def test_imitation_alone_is_plain_cross_entropy_over_all_micro_batches():
    generator = torch.Generator().manual_seed(3)
    logits_btv = torch.randn(3, 4, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    targets_bt = torch.randint(0, 7, (3, 4), generator=generator)
    mask_bt = ragged_mask([4, 1, 3])
    plain = torch.nn.functional.cross_entropy(logits_btv[mask_bt], targets_bt[mask_bt])
    (want,) = torch.autograd.grad(plain, logits_btv)
    logprobs_bt = logits_btv.log_softmax(-1).gather(-1, targets_bt[..., None])[..., 0]
    loss = torch.zeros((), dtype=torch.float64)
    for index in (slice(0, 2), slice(2, 3)):
        weight_bt = mix([imitation_term(1.0, mask_bt[index], tokens=8)])
        loss = loss + kernel_loss(weight_bt, logprobs_bt[index], mask_bt[index])
    (got,) = torch.autograd.grad(loss, logits_btv)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-7)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


def test_imitation_scales_with_its_weight_and_refuses_an_empty_count():
    term = imitation_term(0.3, ragged_mask([2, 1]), tokens=6)
    torch.testing.assert_close(mix([term]), torch.tensor([[0.05, 0.05], [0.05, 0.0]]))
    with pytest.raises(ValueError, match="3 tokens was planned with a count of 0"):
        imitation_term(0.3, ragged_mask([2, 1]), tokens=0)


def test_chord_phi_weighs_a_token_by_what_is_open_about_it():
    logprobs_bt = torch.tensor([[0.5, 0.9], [0.1, float("nan")]]).log()
    term = imitation_term(2.0, ragged_mask([2, 1]), tokens=4, weighting="chord_phi", logprobs_bt=logprobs_bt)
    want = torch.tensor([[0.5 * 0.25, 0.5 * 0.09], [0.5 * 0.09, 0.0]])  # λ/tokens · π(1 − π)
    torch.testing.assert_close(mix([term]), want)
    carried = logprobs_bt.clone().requires_grad_()
    assert not imitation_term(2.0, ragged_mask([2, 1]), 4, "chord_phi", carried).c_bt.requires_grad


def test_an_unknown_weighting_and_one_without_log_probabilities_are_refused():
    for weighting, logprobs_bt in (("chord", torch.zeros(1, 1)), ("chord_phi", None)):
        with pytest.raises(ValueError, match="weighting is 'chord"):
            imitation_term(1.0, ragged_mask([1]), 1, weighting, logprobs_bt)


@pytest.mark.parametrize("compat", ["trl_k1", "trl_k2", "trl_k3"])
def test_a_compat_form_is_the_gradient_of_its_estimator_taken_as_a_loss(compat):
    view = random_view([3, 2], [0, 0], seed=0)
    logprobs_bt = view.logprobs_bt.clone().requires_grad_()
    assert view.reference_bt is not None
    gap_bt = logprobs_bt - view.reference_bt
    losses = {"trl_k1": gap_bt, "trl_k2": gap_bt**2 / 2, "trl_k3": (-gap_bt).exp() - 1 + gap_bt}
    (want_bt,) = torch.autograd.grad(losses[compat][view.mask_bt].sum(), logprobs_bt)
    found = kl_coefficient(view, view.reference_bt, 2.0, compat)
    torch.testing.assert_close(found.c_bt, want_bt)
    assert found.metrics.keys() == kl_coefficient(view, view.reference_bt, 2.0).metrics.keys()


def test_beta_follows_the_kl_by_at_most_a_fifth_of_the_rate():
    found = [next_beta(0.1, kl, 1.0, 0.5) for kl in (0.0, 0.79, 0.9, 1.0, 1.1, 1.3, 9.0)]
    assert found == pytest.approx([0.09, 0.09, 0.095, 0.1, 0.105, 0.11, 0.11])
    assert next_beta(0.1, 0.5, 0.5, 0.5) == 0.1  # it is the target's share that counts
    assert next_beta(0.1, 0.55, 0.5, 0.5) == pytest.approx(0.105)


def test_the_kl_refuses_a_reference_of_other_samples_or_with_holes():
    view = random_view([3, 2], [0, 0], seed=0)
    with pytest.raises(ValueError, match=r"reference has shape \(2, 2\), log-probabilities have \(2, 3\)"):
        kl_coefficient(view, view.behaviour_bt[:, :2], cap=2.0)
    hole = view.behaviour_bt.clone()
    hole[1, 1] = float("nan")
    with pytest.raises(ValueError, match="reference log-probabilities hold a value that is not finite"):
        kl_coefficient(view, hole, cap=2.0)
    hole[1, 1], hole[1, 2] = 0.0, float("nan")  # the padding may hold anything
    assert torch.isfinite(kl_coefficient(view, hole, cap=2.0).c_bt).all()


def test_each_objective_of_a_sum_keeps_its_own_default_aggregation():
    view = random_view([4, 2, 3, 3], [0, 0, 1, 1], seed=1)
    counts = StepCounts(tokens=12, samples=4, prompts=2, max_tokens=8)
    defaults = {"naive": "sample", "grpo": "sample", "dr_grpo": "constant", "tis": "token", "raft": "token"}
    defaults |= {
        "seq_tis": "sequence",
        "topr": "sequence",
        "seed_softmax": "prompt",
        "decoupled": "sample",
        "gspo": "sample",
    }
    defaults |= dict.fromkeys(("dapo", "cispo", "mis", "m2po", "opd", "minillm"), "token")
    defaults |= dict.fromkeys(("asymre", "kimi", "tb_vargrad", "astar_po"), "sequence")
    assert set(defaults) == set(OBJECTIVES)
    for name, kind in defaults.items():
        (term,), _ = objective_terms({name: 2.0}, view, aggregations(view, counts), ObjectiveSettings())
        assert term.weight == 2.0
        assert torch.equal(term.a_bt, aggregation_bt(kind, view.mask_bt, view.lengths_b, counts)), name
