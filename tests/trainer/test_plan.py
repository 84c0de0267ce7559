"""A step's counts, and who forwards what, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.losses import StepCounts
from trainer.plan import Items, plan_step
from trainer.replay import Group, SoftText, Text
from trainer.schedule import Weights

WEIGHTS = Weights(1.0, 1.0, 1.0, 0.1)


def group(number: int, lengths: list[int]) -> Group:
    completions = [[number] * length for length in lengths]
    return Group(
        number,
        [1, 2],
        completions,
        [np.full(n, -float(j), np.float32) for j, n in enumerate(lengths)],
        None,
        np.arange(len(lengths), dtype=np.float32),
        None,
    )


GROUPS = [group(10, [3, 1]), group(11, [2]), group(12, [5, 4, 1])]
ANSWERS = [Text([1], [2, 3]), Text([1, 1], [2, 3, 4])]
DOCUMENTS = [Text([7], [8] * 6)]
ITEMS = Items(GROUPS, ANSWERS, DOCUMENTS)


@pytest.mark.parametrize("processes", [1, 2, 3, 9])
@pytest.mark.parametrize("budget", [1, 12, 1000])
@pytest.mark.parametrize("layout", ["kv", "plain"])
def test_counts_are_of_the_whole_step_and_each_sample_is_forwarded_once(
    processes: int, budget: int, layout: str
) -> None:
    plan = plan_step(WEIGHTS, ITEMS, max_tokens=9, budget=budget, layout=layout, processes=processes)
    assert plan.counts == StepCounts(tokens=16, samples=6, prompts=3, max_tokens=9)
    assert (plan.answer_tokens, plan.document_tokens, plan.soft_tokens, plan.tokens) == (5, 6, 0, 27)
    assert len(plan.micro) == processes and plan.turns == max(map(len, plan.micro))
    batches = [batch for share in plan.micro for batch in share]
    found = sorted(
        (number, first + j, len(completion), float(part.advantages[j]), float(part.behaviour[j][0]))
        for batch in batches
        for number, first, part in zip(batch.numbers, batch.firsts, batch.groups, strict=True)
        for j, completion in enumerate(part.completions)
    )
    assert found == sorted(
        (g, j, len(c), float(j), -float(j)) for g, one in enumerate(GROUPS) for j, c in enumerate(one.completions)
    )
    assert sum(len(batch.answers) for batch in batches) == 2 and sum(len(batch.documents) for batch in batches) == 1


def test_only_a_group_over_the_budget_is_split_and_each_part_fits() -> None:
    from trainer.forward import GroupTokens, tokens_forwarded

    wide = plan_step(WEIGHTS, Items(GROUPS), max_tokens=9, budget=1000, layout="kv")
    assert not wide.split and all(
        g is GROUPS[n] for b in wide.micro[0] for n, g in zip(b.numbers, b.groups, strict=True)
    )
    narrow = plan_step(WEIGHTS, Items(GROUPS), max_tokens=9, budget=10, layout="plain")
    assert narrow.split
    parts = [g for batch in narrow.micro[0] for g in batch.groups]
    assert len(parts) > len(GROUPS)
    assert all(tokens_forwarded([GroupTokens(g.prompt, g.completions)], "plain") <= 10 for g in parts)


def test_soft_targets_are_counted_by_the_tokens_of_their_answers_and_lie_last() -> None:
    soft = [SoftText([1, 2], [3, 4, 5], []), SoftText([1], [6], [])]
    plan = plan_step(WEIGHTS, Items((), ANSWERS[:1], (), soft), max_tokens=9, budget=1000, layout="kv")
    (batch,) = plan.micro[0]
    assert (plan.soft_tokens, plan.answer_tokens, plan.tokens) == (4, 2, 6)
    assert [(s.start, s.stop) for s in batch.spans] == [(0, 0), (0, 2), (2, 2), (2, 6)]


def test_a_group_is_split_no_finer_than_its_budget_asks() -> None:
    plan = plan_step(WEIGHTS, Items([group(1, [3, 3, 3, 3])]), max_tokens=3, budget=8, layout="plain")
    assert [len(part.completions) for batch in plan.micro[0] for part in batch.groups] == [2, 2]


def test_spans_are_in_the_order_of_the_items() -> None:
    (batch,) = plan_step(WEIGHTS, ITEMS, max_tokens=9, budget=1000, layout="kv").micro[0]
    assert [(s.start, s.stop) for s in batch.spans] == [(0, 16), (16, 21), (21, 27), (27, 27)]
    assert sum(batch.lengths) == 16 and len(batch.items) == 6


def test_processes_share_the_work_where_one_micro_batch_would_hold_it() -> None:
    plan = plan_step(WEIGHTS, ITEMS, max_tokens=9, budget=1000, layout="kv", processes=2)
    assert all(share for share in plan.micro)


def test_a_step_without_items_has_no_micro_batch() -> None:
    plan = plan_step(WEIGHTS, Items(), max_tokens=9, budget=10, layout="kv", processes=2)
    assert plan.micro == [[], []] and plan.tokens == 0 and plan.turns == 0


def test_the_longest_sample_is_the_pools_and_never_less_than_what_is_there() -> None:
    assert plan_step(WEIGHTS, Items(GROUPS), max_tokens=3, budget=99, layout="kv").counts.max_tokens == 5
