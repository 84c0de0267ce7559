"""Blinded pairs of answers: which are shown, in what order, on which side; recorded in the journal `pairs` under the page's id.

Reads `evaluations` (each policy's newest slice, all of one recipe where one has all policies) and `prompts`. The same question to
the same slices is the same page. Refuses policies and benchmarks that were not evaluated, benchmarks without answers, policies
that several recipes hold other answers of, and policies that never differ."""

from __future__ import annotations

import math
import random
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import combinations, groupby
from typing import Any

import pyarrow as pa

from data.contract import TABLES
from data.human.words import WORDS
from data.keys import digest, nfc
from data.lake import Lake
from data.refusal import Refusal, nearest

EVALUATED = "python -m data sql 'SELECT DISTINCT policy, benchmark, label FROM evaluations'"


@dataclass(frozen=True)
class Answers:
    """What one policy said: the text of each item, from one slice of `evaluations`."""

    policy: str
    model_id: str
    slice: str
    texts: dict[str, str]


@dataclass(frozen=True)
class Pair:
    """Two answers to one item, as a page shows them. `repeats`: number of the pair that this one shows again."""

    item: str
    first: Answers
    second: Answers
    items: int
    identical: int
    repeats: int | None = None

    @property
    def texts(self) -> tuple[str, str]:
        """The two answers, in the order in which they are shown."""
        return self.first.texts[self.item], self.second.texts[self.item]


@dataclass(frozen=True)
class Plan:
    """What a page is asked to hold; with the slices that it reads, this is the page's identity."""

    benchmark: str
    question: str | None = None
    """what raters are asked; None: which answer is better, in the page's language"""
    language: str = "en"
    n: int = 50
    """pairs for each two policies, repeats not counted"""
    seed: int = 0
    repeats: float = 0.1
    """share of the pairs that is shown a second time, sides changed"""


def read_answers(lake: Lake, policies: Sequence[str], benchmark: str, label: str | None) -> list[Answers]:
    """Each policy's answers on a benchmark, from its newest slice. Sorted by policy.

    Two recipes may have a policy and a benchmark of one name: without a label, the one that has all policies is read, and several
    that hold other answers are refused. Where no recipe has all of them, each policy's newest slice of all."""
    names = sorted(name.removeprefix("run:") for name in policies)
    if len(set(names)) < max(len(names), 2):
        raise Refusal(f"{', '.join(policies)}: a pair wants two different policies", "python -m data pairs --help")
    rows = lake.sql(
        "SELECT policy, model_id, item, prediction, slice, label FROM evaluations "
        "WHERE benchmark = $benchmark AND label = coalesce($label, label)",
        benchmark=benchmark,
        label=label,
    ).to_pylist()
    if not rows:
        known = lake.sql("SELECT DISTINCT benchmark FROM evaluations")["benchmark"].to_pylist()
        of = f" labelled {label}" if label else ""
        raise Refusal(f"no evaluations{of} of benchmark {benchmark}: {nearest(benchmark, known)}", EVALUATED)
    order = {slice_.name: number for number, slice_ in enumerate(lake.slices("evaluations"))}
    found = _by_recipe(rows, names, benchmark, order)
    if not found:
        return [_newest(rows, name, benchmark, order) for name in names]
    oldest, newest = next(iter(found)), list(found)[-1]
    if any([a.texts for a in answers] != [a.texts for a in found[newest]] for answers in found.values()):
        command = shlex.join(["python", "-m", "data", "pairs", *names, "--benchmark", benchmark, "--label", newest])
        raise Refusal(
            f"recipes {' and '.join(sorted(found))} have other answers each of {' and '.join(names)} on {benchmark}",
            f"{command} --lake {lake.uri}, or --label {'|'.join(name for name in found if name != newest)}",
        )
    return found[oldest]  # equal answers all: the same question stays the same page


def _by_recipe(
    rows: Sequence[dict[str, Any]], names: Sequence[str], benchmark: str, order: dict[str, int]
) -> dict[str, list[Answers]]:
    """The policies' answers by the label of each recipe that has all of them, oldest first."""
    own: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        own.setdefault(row["label"], []).append(row)
    said = {label: {r["policy"] for r in some if r["prediction"] is not None} for label, some in own.items()}
    found = {
        label: [_newest(some, name, benchmark, order) for name in names]
        for label, some in own.items()
        if said[label].issuperset(names)
    }
    return dict(sorted(found.items(), key=lambda item: max(order[a.slice] for a in item[1])))


def _newest(rows: Sequence[dict[str, Any]], policy: str, benchmark: str, order: dict[str, int]) -> Answers:
    own = [row for row in rows if row["policy"] == policy]
    if not own:
        near = nearest(policy, {row["policy"] for row in rows})
        raise Refusal(f"policy {policy} was not evaluated on {benchmark}: {near}", EVALUATED)
    slice_ = max((row["slice"] for row in own), key=lambda name: order[name])
    texts = {r["item"]: r["prediction"] for r in own if r["slice"] == slice_ and r["prediction"] is not None}
    if not texts:
        raise Refusal(f"{policy} gave no answers on {benchmark}: there is nothing to compare", EVALUATED)
    return Answers(policy, next(r["model_id"] for r in own if r["slice"] == slice_), slice_, texts)


def chance_of(plan: Plan, answers: Sequence[Answers]) -> random.Random:
    """What draws order and sides: the same for the same question to the same slices."""
    return random.Random(digest([asdict(plan), [[a.policy, a.slice] for a in answers]]))


def page_id(plan: Plan, pairs: Sequence[Pair]) -> str:
    """12 hex digits of what the page shows, in its order: another way of drawing would be another page."""
    shown = [[p.item, p.first.policy, p.first.slice, p.second.policy, p.second.slice] for p in pairs]
    return digest([asdict(plan), shown])[:12]


def draw(plan: Plan, answers: Sequence[Answers], chance: random.Random) -> list[Pair]:
    """The pairs of a page in the order in which they are shown, repeats among them."""
    pairs = [pair for a, b in combinations(answers, 2) for pair in _between(a, b, plan, chance)]
    if not pairs:
        names = " and ".join(f"{a.policy} ({a.slice})" for a in answers)
        common = set.intersection(*(set(a.texts) for a in answers))
        what = f"{names} differ on no item of {plan.benchmark} that both answered"
        alone = f"{names} answered other items of {plan.benchmark}: not one in common"
        raise Refusal(what if common else alone, EVALUATED)
    chance.shuffle(pairs)
    return with_repeats(pairs, plan.repeats, chance)


def _between(a: Answers, b: Answers, plan: Plan, chance: random.Random) -> list[Pair]:
    """Pairs of two policies. Items come by a hash of seed and item, so that other policies are compared on the same ones;
    each policy is shown first in half of them."""
    both = [item for item in a.texts if item in b.texts]
    differing = [item for item in both if nfc(a.texts[item]).strip() != nfc(b.texts[item]).strip()]
    chosen = sorted(differing, key=lambda item: digest([plan.seed, item]))[: plan.n]
    sides = [number % 2 == 0 for number in range(len(chosen))]
    chance.shuffle(sides)
    counts = len(both), len(both) - len(differing)
    return [Pair(item, *((a, b) if side else (b, a)), *counts) for item, side in zip(chosen, sides, strict=True)]


def with_repeats(pairs: list[Pair], share: float, chance: random.Random) -> list[Pair]:
    """The pairs with a share of them shown again: drawn from the first half, shown in the last third, sides changed."""
    half, tail = len(pairs) // 2, len(pairs) - len(pairs) // 3
    numbers = chance.sample(range(half), min(half, math.ceil(round(share * len(pairs), 6))))
    again = [
        Pair(p.item, p.second, p.first, p.items, p.identical, number + 1)
        for number, p in ((n, pairs[n]) for n in numbers)
    ]
    last = pairs[tail:] + again
    chance.shuffle(last)
    return pairs[:tail] + last


def asked(plan: Plan) -> str:
    """What raters are asked."""
    return plan.question or WORDS[plan.language]["question"]


def told(pairs: Sequence[Pair]) -> list[str]:
    """A line for each two policies: how many items both answered, how many of them alike, how many are shown."""
    lines = []
    for (a, b), group in groupby(sorted(pairs, key=_policies), key=_policies):
        duel = list(group)
        again = sum(pair.repeats is not None for pair in duel)
        lines.append(
            f"{a} and {b}: {duel[0].items} items answered by both, {duel[0].identical} of them alike; "
            f"{len(duel) - again} pairs, {again} of them shown again"
        )
    return lines


def _policies(pair: Pair) -> tuple[str, str]:
    a, b = sorted((pair.first.policy, pair.second.policy))
    return a, b


def record(lake: Lake, page: str, plan: Plan, pairs: Sequence[Pair]) -> None:
    """Write the page's key into the journal `pairs`, once."""
    if page in {path.stem for path in lake.journal("pairs")}:
        return
    now = datetime.now(UTC)
    rows = [
        {
            "page": page, "pair": number, "benchmark": plan.benchmark, "item": pair.item,
            "first": pair.first.policy, "second": pair.second.policy,
            "first_model_id": pair.first.model_id, "second_model_id": pair.second.model_id,
            "first_slice": pair.first.slice, "second_slice": pair.second.slice,
            "repeats": pair.repeats, "question": asked(plan),
            "items": pair.items, "identical": pair.identical, "created_at": now,
        }
        for number, pair in enumerate(pairs, 1)
    ]  # fmt: skip
    lake.append("pairs", pa.Table.from_pylist(rows, schema=TABLES["pairs"].schema), page)


def conversations(lake: Lake, items: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """Messages of the items that are prompts of this lake."""
    rows = lake.sql(
        "SELECT DISTINCT prompt_id AS item, messages FROM prompts WHERE prompt_id IN (SELECT unnest($items::VARCHAR[]))",
        items=list(items),
    )
    return {row["item"]: row["messages"] for row in rows.to_pylist()}
