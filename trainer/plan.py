"""One step before its forward pass: what is in it, its counts, and who forwards which micro-batch.

Every process draws the same items and makes the same plan, so that denominators are known everywhere without a message.
Micro-batches hold whole groups; they change memory and speed, not the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.forward import GroupTokens, plan, tokens_forwarded
from trainer.losses import StepCounts
from trainer.replay import Group, Text
from trainer.schedule import Weights


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass: whole groups first, then rows to imitate."""

    groups: list[Group]
    """With their numbers in the step, so that a view can tell them apart."""
    numbers: list[int]
    answers: list[Text]
    documents: list[Text]

    @property
    def items(self) -> list[GroupTokens]:
        """What trainer.forward reads, in the order of the three lists."""
        rows = [GroupTokens(text.prompt, [text.completion]) for text in (*self.answers, *self.documents)]
        return [*(GroupTokens(group.prompt, group.completions) for group in self.groups), *rows]


@dataclass(frozen=True)
class StepPlan:
    """A step over all processes. Counts are taken before any objective's mask (MATH §2)."""

    weights: Weights
    counts: StepCounts
    answer_tokens: int
    document_tokens: int
    micro: list[list[MicroBatch]]
    """Micro-batches of each process."""

    @property
    def tokens(self) -> int:
        """Tokens that are predicted in the step."""
        return self.counts.tokens + self.answer_tokens + self.document_tokens


def plan_step(
    weights: Weights,
    groups: Sequence[Group],
    answers: Sequence[Text],
    documents: Sequence[Text],
    *,
    max_tokens: int,
    budget: int,
    layout: str,
    processes: int = 1,
) -> StepPlan:
    """Counts, and micro-batches of at most `budget` forwarded tokens dealt to the processes, the largest first."""
    lengths = [len(completion) for group in groups for completion in group.completions]
    longest = max(lengths, default=1)
    counts = StepCounts(sum(lengths), len(lengths), len(groups), max(max_tokens, longest))
    order = sorted(range(len(groups)), key=lambda g: max(len(c) for c in groups[g].completions))
    rows = [sorted(texts, key=lambda text: len(text.prompt) + len(text.completion)) for texts in (answers, documents)]
    whole = MicroBatch([groups[g] for g in order], order, *rows)
    items = whole.items
    if processes > 1:
        budget = min(budget, -(-tokens_forwarded(items, layout) // processes)) if items else budget
    batches = [_part(whole, indices) for indices in plan(items, budget, layout)] if items else []
    cost = [tokens_forwarded(batch.items, layout) for batch in batches]
    dealt: list[list[int]] = [[] for _ in range(processes)]
    for index in sorted(range(len(batches)), key=lambda i: (-cost[i], i)):
        least = min(range(processes), key=lambda p: (sum(cost[i] for i in dealt[p]), p))
        dealt[least].append(index)
    return StepPlan(
        weights,
        counts,
        sum(len(text.completion) for text in answers),
        sum(len(text.completion) for text in documents),
        [[batches[i] for i in sorted(indices)] for indices in dealt],
    )


def _part(whole: MicroBatch, indices: Sequence[int]) -> MicroBatch:
    first, second = len(whole.groups), len(whole.groups) + len(whole.answers)
    return MicroBatch(
        [whole.groups[i] for i in indices if i < first],
        [whole.numbers[i] for i in indices if i < first],
        [whole.answers[i - first] for i in indices if first <= i < second],
        [whole.documents[i - second] for i in indices if i >= second],
    )
