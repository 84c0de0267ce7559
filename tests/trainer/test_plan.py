"""A step's counts, and who forwards what, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.losses import StepCounts
from trainer.plan import plan_step
from trainer.replay import Group, Text
from trainer.schedule import Weights

WEIGHTS = Weights(1.0, 1.0, 1.0, 0.1)


def group(number: int, lengths: list[int]) -> Group:
    completions = [[number] * length for length in lengths]
    return Group(
        number, [1, 2], completions, [np.zeros(n, np.float32) for n in lengths], None, np.zeros(len(lengths)), None
    )


GROUPS = [group(10, [3, 1]), group(11, [2]), group(12, [5, 4, 1])]
ANSWERS = [Text([1], [2, 3]), Text([1, 1], [2, 3, 4])]
DOCUMENTS = [Text([7], [8] * 6)]


@pytest.mark.parametrize("processes", [1, 2, 3, 9])
@pytest.mark.parametrize("budget", [1, 12, 1000])
def test_counts_are_of_the_whole_step_and_each_item_is_forwarded_once(processes: int, budget: int) -> None:
    plan = plan_step(WEIGHTS, GROUPS, ANSWERS, DOCUMENTS, max_tokens=9, budget=budget, layout="kv", processes=processes)
    assert plan.counts == StepCounts(tokens=16, samples=6, prompts=3, max_tokens=9)
    assert (plan.answer_tokens, plan.document_tokens, plan.tokens) == (5, 6, 27)
    assert len(plan.micro) == processes
    batches = [batch for share in plan.micro for batch in share]
    assert sorted(g.group_id for batch in batches for g in batch.groups) == [10, 11, 12]
    assert sorted(number for batch in batches for number in batch.numbers) == [0, 1, 2]
    assert all(GROUPS[n] is g for batch in batches for n, g in zip(batch.numbers, batch.groups, strict=True))
    assert sum(len(batch.answers) for batch in batches) == 2 and sum(len(batch.documents) for batch in batches) == 1


def test_processes_share_the_work_where_one_micro_batch_would_hold_it() -> None:
    plan = plan_step(WEIGHTS, GROUPS, ANSWERS, DOCUMENTS, max_tokens=9, budget=1000, layout="kv", processes=2)
    assert all(share for share in plan.micro)


def test_a_step_without_items_has_no_micro_batch() -> None:
    plan = plan_step(WEIGHTS, [], [], [], max_tokens=9, budget=10, layout="kv", processes=2)
    assert plan.micro == [[], []] and plan.tokens == 0


def test_the_longest_sample_is_the_pools_and_never_less_than_what_is_there() -> None:
    assert plan_step(WEIGHTS, GROUPS, [], [], max_tokens=3, budget=99, layout="kv").counts.max_tokens == 5
