"""The three ways to a token's weight give one number: by chunks within the head, by micro-batch, and over the whole step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import Leash, Losses
from trainer.distributed import World
from trainer.method import Method
from trainer.objective_config import ObjectiveSettings, Teacher
from trainer.objectives import OBJECTIVES
from trainer.plan import Items, MicroBatch, StepPlan, plan_step
from trainer.pool_terms import TokenWeights, batch_weights, flattened, sliced, step_weights, view_of
from trainer.replay import Group
from trainer.schedule import Weights
from trainer.view import StepView

TOKEN = sorted(name for name, row in OBJECTIVES.items() if row.scope == "token")
SPECIAL = torch.tensor([3, 5])
MIXED = ObjectiveSettings(cap=1.05, teacher=Teacher(cap=1.5, horizon=4, decay=0.7))
SIZES = st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=4), min_size=1, max_size=4)


def method(objective: dict[str, float], **losses: Any) -> Method:
    return Method(objective, MIXED, Losses(**losses), special_n=SPECIAL)


def pool(sizes: list[list[int]], seed: int) -> list[Group]:
    random = np.random.default_rng(seed)

    def token_values(lengths: list[int], mean: float) -> list[np.ndarray]:
        return [(mean + 0.3 * random.normal(size=n)).astype(np.float32) for n in lengths]

    return [
        Group(
            g,
            [1, 2],
            [random.integers(0, 9, n).tolist() for n in lengths],
            token_values(lengths, -1.0),
            token_values(lengths, -1.1),
            random.normal(size=len(lengths)).astype(np.float32),
            None,
            reward=random.normal(size=len(lengths)),
            baseline=np.full(len(lengths), random.normal()),
            teacher=token_values(lengths, -0.9),
            token_advantages=token_values(lengths, 0.0),
        )
        for g, lengths in enumerate(sizes)
    ]


def planned(groups: list[Group], budget: int = 100_000, processes: int = 1) -> StepPlan:
    weights = Weights(0.7, 0.0, 0.0, 0.05)
    return plan_step(weights, Items(groups), max_tokens=8, budget=budget, layout="plain", processes=processes)


def tokens_of(batch: MicroBatch, seed: int) -> torch.Tensor:
    """log π of each token, made from the token's place in the step alone, so that it does not matter who forwards it."""
    values = [
        np.random.default_rng((seed, number, first + j)).normal(-1.0, 0.3, len(completion))
        for number, first, group in zip(batch.numbers, batch.firsts, batch.groups, strict=True)
        for j, completion in enumerate(group.completions)
    ]
    return torch.from_numpy(np.concatenate(values).astype(np.float32))


def view(batch: MicroBatch, own: Method, seed: int) -> StepView:
    logprob_n = tokens_of(batch, seed)
    return view_of(batch, logprob_n, own, {"prox": logprob_n + 0.1})


def by_sample(batches: list[MicroBatch], weights: list[torch.Tensor]) -> dict[tuple[int, int], torch.Tensor]:
    """Weights of each sample by its group and its place in it."""
    found = {}
    for batch, weight_n in zip(batches, weights, strict=True):
        places = [
            (number, first + j)
            for number, first, group in zip(batch.numbers, batch.firsts, batch.groups, strict=True)
            for j in range(len(group.completions))
        ]
        found |= dict(zip(places, weight_n.split(batch.lengths), strict=True))
    return found


def same(one: dict[tuple[int, int], torch.Tensor], other: dict[tuple[int, int], torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for place, weight_n in one.items():
        torch.testing.assert_close(weight_n, other[place], rtol=1e-5, atol=1e-8)


def numbers(metrics: Any) -> dict[str, tuple[float, float]]:
    return {name: (float(total), float(count)) for name, (total, count) in metrics.items()}


def agree(one: Any, other: Any) -> None:
    first, second = numbers(one), numbers(other)
    assert first.keys() == second.keys()
    for name, pair in first.items():
        assert pair == pytest.approx(second[name], rel=1e-4, abs=1e-6), name


@settings(max_examples=40, deadline=None)
@given(
    sizes=SIZES,
    name=st.sampled_from(TOKEN),
    aggregation=st.sampled_from([None, "token", "sample", "sequence", "constant", "prompt"]),
    chunk=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_weights_of_chunks_of_any_size_are_those_of_the_micro_batch(
    sizes: list[list[int]], name: str, aggregation: str | None, chunk: int, seed: int
) -> None:
    own = method({name: 0.8, "grpo": 0.1}, aggregation=aggregation)
    plan = planned(pool(sizes, seed))
    (batch,) = plan.micro[0]
    whole = view(batch, own, seed)
    weight_bt, metrics = batch_weights(whole, plan, own)
    logprob_n = whole.logprobs_bt[whole.mask_bt]
    weigh = TokenWeights(replace(whole, logprobs_bt=torch.zeros_like(whole.logprobs_bt)), plan, own)
    parts = [slice(start, min(start + chunk, len(logprob_n))) for start in range(0, len(logprob_n), chunk)]
    weight_n = torch.cat([weigh(logprob_n[part], part) for part in parts])
    torch.testing.assert_close(weight_n, weight_bt[whole.mask_bt], rtol=1e-5, atol=1e-8)
    agree(weigh.metrics, metrics)


@settings(max_examples=25, deadline=None)
@given(
    sizes=SIZES,
    name=st.sampled_from(sorted(OBJECTIVES)),
    budget=st.sampled_from([6, 12, 30, 100_000]),
    seed=st.integers(0, 99),
)
def test_weights_over_the_step_do_not_depend_on_its_micro_batches_even_where_groups_are_split(
    sizes: list[list[int]], name: str, budget: int, seed: int
) -> None:
    own, groups = method({name: 1.0}), pool(sizes, seed)
    whole = planned(groups)
    (batch,) = whole.micro[0]
    weight_bt, metrics = batch_weights(view(batch, own, seed), whole, own)
    expected = by_sample([batch], [weight_bt[view(batch, own, seed).mask_bt]])
    plan = planned(groups, budget)
    batches = plan.micro[0]
    weights, told = step_weights(batches, [view(one, own, seed) for one in batches], plan, own, World())
    same(by_sample(batches, weights), expected)
    agree(told, metrics)


def test_of_equal_samples_the_first_of_the_group_is_the_best_wherever_its_part_is_forwarded() -> None:
    (group,) = pool([[2, 2, 2, 2]], 0)
    equal, own = replace(group, advantages=np.ones(4, np.float32)), method({"raft": 1.0})
    plan = planned([equal], 8)
    batches = plan.micro[0][::-1]  # later parts first
    assert len(batches) > 1
    weights, _ = step_weights(batches, [view(one, own, 0) for one in batches], plan, own, World())
    found = by_sample(batches, weights)
    # 0.7/8 a token of the chosen sample; the leash moves no weight by more than 0.02
    assert [bool((found[0, place] > 0.05).all()) for place in range(4)] == [True, False, False, False]


class Processes(World):
    """Two processes in one: what the other one holds is known beforehand."""

    shares: list[dict[str, torch.Tensor]]

    def gathered_tensors(self, tensors: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        self.shares[self.rank] = tensors
        return self.shares


@pytest.mark.parametrize("name", ["m2po", "minillm", "seed_softmax", "raft"])
def test_each_process_gets_the_weights_of_its_own_samples(name: str) -> None:
    own, groups = method({name: 1.0}), pool([[3, 1, 2], [2, 2], [4, 1, 1, 2], [1, 5]], 1)
    whole = planned(groups)
    weight_bt, _ = batch_weights(view(whole.micro[0][0], own, 1), whole, own)
    expected = by_sample(whole.micro[0], [weight_bt[view(whole.micro[0][0], own, 1).mask_bt]])
    plan = planned(groups, 12, processes=2)
    assert all(plan.micro) and plan.split
    shares: list[dict[str, torch.Tensor]] = [{}, {}]
    found: list[list[torch.Tensor]] = [[], []]
    for _ in range(2):  # the second time each process knows the other's share
        for rank in (0, 1):
            here = Processes(rank, 2)
            object.__setattr__(here, "shares", shares)
            views = [view(one, own, 1) for one in plan.micro[rank]]
            found[rank], _ = step_weights(plan.micro[rank], views, plan, own, here)
    got = by_sample(plan.micro[0], found[0]) | by_sample(plan.micro[1], found[1])
    same(got, expected)


def test_a_flattened_token_knows_its_sample_and_its_place() -> None:
    plan = planned(pool([[3, 1]], 0))
    (batch,) = plan.micro[0]
    whole = view(batch, method({"opd": 1.0}), 0)
    rows = flattened(whole)
    assert rows.places_bt.tolist() == [[0], [1], [2], [0]]
    assert rows.lengths_b.tolist() == [1, 1, 1, 1]
    assert torch.equal(rows.advantage_b, whole.advantage_b[[0, 0, 0, 1]])
    assert rows.teacher_bt is not None and whole.teacher_bt is not None
    assert rows.teacher_bt[:, 0].tolist() == [*whole.teacher_bt[0, :3].tolist(), whole.teacher_bt[1, 0].item()]
    part = sliced(rows, slice(2, 4), torch.tensor([-7.0, -8.0]))
    assert part.logprobs_bt.tolist() == [[-7.0], [-8.0]] and part.places_bt.tolist() == [[2], [0]]
    assert torch.equal(part.behaviour_bt, rows.behaviour_bt[2:4])


def test_the_weight_of_a_token_is_rl_by_its_aggregation_less_the_leash_by_hand() -> None:
    groups = pool([[2, 1], [1, 1]], 3)  # ΣT = 5, four samples
    plan = planned(groups)
    (batch,) = plan.micro[0]
    found = view(batch, method({"naive": 1.0}), 3)
    weight_bt, metrics = batch_weights(found, plan, method({"naive": 1.0}))
    ratio_bt = (found.logprobs_bt - found.behaviour_bt).exp().clamp(max=1.05)
    assert found.old_bt is not None
    x_bt = found.logprobs_bt - found.old_bt
    lengths_b1 = torch.tensor(batch.lengths)[:, None]
    by_hand = 0.7 * found.advantage_bt / (4 * lengths_b1) - 0.05 * ratio_bt * x_bt / 5
    torch.testing.assert_close(weight_bt[found.mask_bt], by_hand[found.mask_bt])
    assert {"kl_k3", "kl_capped", "naive/surrogate"} == set(metrics)
    other, _ = batch_weights(found, plan, method({"naive": 1.0}, leash=Leash(compat="trl_k2")))
    by_hand = 0.7 * found.advantage_bt / (4 * lengths_b1) - 0.05 * x_bt / 5
    torch.testing.assert_close(other[found.mask_bt], by_hand[found.mask_bt])
    constant, _ = batch_weights(found, plan, method({"naive": 1.0}, aggregation="constant"))
    by_hand = 0.7 * found.advantage_bt / (4 * 8) - 0.05 * ratio_bt * x_bt / 5
    torch.testing.assert_close(constant[found.mask_bt], by_hand[found.mask_bt])


def test_the_reference_is_the_copy_then_the_rescored_policy_then_the_behaviour_that_is_one() -> None:
    plan = planned(pool([[2, 1]], 0))
    (batch,) = plan.micro[0]
    logprob_n, own = tokens_of(batch, 0), method({"grpo": 1.0})
    rescored = view_of(batch, logprob_n, own, {})
    copied = view_of(batch, logprob_n, own, {"reference": logprob_n - 0.5})
    itself = view_of(batch, logprob_n, replace(own, behaviour_is_reference=True), {})
    assert rescored.reference_bt is rescored.old_bt and itself.reference_bt is itself.behaviour_bt
    assert copied.reference_bt is not None and torch.equal(copied.reference_bt[copied.mask_bt], logprob_n - 0.5)
    assert rescored.prox_bt is None and rescored.special_bt is not None
    ids = torch.tensor([t for c in batch.groups[0].completions for t in c])
    assert torch.equal(rescored.special_bt[rescored.mask_bt], (ids == 3) | (ids == 5))
