"""One step before its forward pass: what is in it, its counts, and who forwards which micro-batch.

Every process draws the same items and makes the same plan, so that denominators are known everywhere without a message.
Micro-batches hold whole groups, or parts of a group that is larger than the budget; they change memory and speed, not the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trainer.forward import GroupTokens, plan, tokens_forwarded
from trainer.losses import StepCounts
from trainer.replay import Group, SoftText, Text
from trainer.schedule import Weights


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass: groups first, then rows to imitate."""

    groups: list[Group]
    numbers: list[int]
    """Each group's number in the step, so that a view can tell them apart; the parts of one group share it."""
    answers: list[Text]
    documents: list[Text]
    soft: list[SoftText] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    """Place within its group of the first sample of each entry of `groups`: 0 but for later parts of a group that was split."""

    @property
    def items(self) -> list[GroupTokens]:
        """What trainer.forward reads, in the order of the four lists."""
        texts: list[Text | SoftText] = [*self.answers, *self.documents, *self.soft]
        rows = [GroupTokens(text.prompt, [text.completion]) for text in texts]
        return [*(GroupTokens(group.prompt, group.completions) for group in self.groups), *rows]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sample of the pool, in order."""
        return [len(completion) for group in self.groups for completion in group.completions]

    @property
    def spans(self) -> list[slice]:
        """Where groups, answers, documents and soft rows lie among the predicted tokens."""
        rows = [sum(len(text.completion) for text in texts) for texts in (self.answers, self.documents, self.soft)]
        found, start = [], 0
        for length in (sum(self.lengths), *rows):
            found.append(slice(start, start + length))
            start += length
        return found


@dataclass(frozen=True)
class StepPlan:
    """A step over all processes. Counts are taken before any objective's mask (MATH §2)."""

    weights: Weights
    counts: StepCounts
    answer_tokens: int
    document_tokens: int
    micro: list[list[MicroBatch]]
    """Micro-batches of each process."""
    soft_tokens: int = 0
    split: bool = False
    """Whether a group is split over micro-batches: what needs all of it at once then needs a first pass."""

    @property
    def tokens(self) -> int:
        """Tokens that are predicted in the step."""
        return self.counts.tokens + self.answer_tokens + self.document_tokens + self.soft_tokens

    @property
    def turns(self) -> int:
        """Micro-batches of the process that has most."""
        return max(map(len, self.micro), default=0)


@dataclass(frozen=True)
class Items:
    """What one step draws from the lake."""

    groups: Sequence[Group] = ()
    answers: Sequence[Text] = ()
    documents: Sequence[Text] = ()
    soft: Sequence[SoftText] = ()


def plan_step(
    weights: Weights, items: Items, *, max_tokens: int, budget: int, layout: str, processes: int = 1
) -> StepPlan:
    """Counts, and micro-batches of at most `budget` forwarded tokens dealt to the processes, the largest first."""
    groups = items.groups
    lengths = [len(completion) for group in groups for completion in group.completions]
    counts = StepCounts(sum(lengths), len(lengths), len(groups), max(max_tokens, *lengths, 1))
    order = sorted(range(len(groups)), key=lambda g: max(len(c) for c in groups[g].completions))
    parts = [(g, *part) for g in order for part in _parts(groups[g], budget, layout)]
    size = lambda text: len(text.prompt) + len(text.completion)  # noqa: E731
    whole = MicroBatch(
        [part for _, _, part in parts],
        [g for g, _, _ in parts],
        sorted(items.answers, key=size),
        sorted(items.documents, key=size),
        sorted(items.soft, key=size),
        [first for _, first, _ in parts],
    )
    rows = whole.items
    if processes > 1 and rows:
        budget = min(budget, -(-tokens_forwarded(rows, layout) // processes))
    batches = [_part(whole, indices) for indices in plan(rows, budget, layout)] if rows else []
    return StepPlan(
        weights,
        counts,
        sum(len(text.completion) for text in items.answers),
        sum(len(text.completion) for text in items.documents),
        _dealt(batches, layout, processes),
        sum(len(text.completion) for text in items.soft),
        len(parts) > len(groups),
    )


def _parts(group: Group, budget: int, layout: str) -> list[tuple[int, Group]]:
    """(first sample, group) of the parts of a group that fit the budget; each part reads the prompt again."""
    found: list[tuple[int, Group]] = []
    start, count = 0, len(group.completions)
    for end in range(1, count + 1):
        wider = GroupTokens(group.prompt, group.completions[start : min(end + 1, count)])
        if end == count or tokens_forwarded([wider], layout) > budget:
            found.append((start, group if end - start == count else _rows(group, start, end)))
            start = end
    return found


def _rows(group: Group, start: int, end: int) -> Group:
    """Some of a group's samples, with all that is known of them."""
    names = (
        "completions",
        "behaviour",
        "old",
        "advantages",
        "chosen",
        "rows",
        "reward",
        "baseline",
        "teacher",
        "token_advantages",
        "support",
    )
    known: dict[str, Any] = {name: getattr(group, name) for name in names}
    return replace(group, **{name: value[start:end] for name, value in known.items() if value is not None})


def _dealt(batches: list[MicroBatch], layout: str, processes: int) -> list[list[MicroBatch]]:
    cost = [tokens_forwarded(batch.items, layout) for batch in batches]
    dealt: list[list[int]] = [[] for _ in range(processes)]
    for index in sorted(range(len(batches)), key=lambda i: (-cost[i], i)):
        least = min(range(processes), key=lambda p: (sum(cost[i] for i in dealt[p]), p))
        dealt[least].append(index)
    return [[batches[i] for i in sorted(indices)] for indices in dealt]


def _part(whole: MicroBatch, indices: Sequence[int]) -> MicroBatch:
    bounds, start = [], 0
    for texts in (whole.groups, whole.answers, whole.documents, whole.soft):
        bounds.append((start, start + len(texts)))
        start += len(texts)
    own = [[i - low for i in indices if low <= i < high] for low, high in bounds]
    return MicroBatch(
        [whole.groups[i] for i in own[0]],
        [whole.numbers[i] for i in own[0]],
        [whole.answers[i] for i in own[1]],
        [whole.documents[i] for i in own[2]],
        [whole.soft[i] for i in own[3]],
        [whole.firsts[i] for i in own[0]],
    )
