"""Every way to learn from one pool, over several worlds: the first tables of docs/evidence.md and its last.

    python tests/bench/evidence/arms.py [--seeds 1,2,3] [--write]

On the tuning world every arm has eight tries: four learning rates with both ways of adding tokens up, or eight rates where there
is but one way. The best by exact match on held-out questions is taken to all other worlds."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from page import parser, table, tell
from plot import dots
from seeds import difference, interval
from worlds import LANES, TUNING, World, evaluated, made, side_by_side

from trainer.objectives import OBJECTIVES

RATES = ("0.001", "0.002", "0.004", "0.008")
BETWEEN = ("0.0007", "0.0014", "0.0028", "0.0057")  # tried where the sum is no choice
ALL_RATES = sorted([*RATES, *BETWEEN])
SUMS = ("token", "null")  # the demo's, and each objective's own
CORPUS = ("0.1", "0")  # λ of L_PT
COPYING = {
    "bc_raw": "BC on raw answers",
    "bc_unfiltered": "BC on best-of-N, no filter",
    "bc_best": "BC on filtered best-of-N",
}
HYBRIDS = ("seq_tis", "grpo", "topr")
BASE = "bc_best"
Figures = dict[str, dict[str, float]]  # policy → exact, language, bits


@dataclass(frozen=True)
class Arm:
    """One way to learn; `objective` where it replays."""

    kind: str
    objective: str = ""

    @property
    def name(self) -> str:
        """As it stands in the table."""
        if self.kind in COPYING:
            return COPYING[self.kind]
        return f"hybrid, `{self.objective}`" if self.kind == "hybrid" else f"replay, `{self.objective}`"


@dataclass(frozen=True)
class Choice:
    """What is tuned."""

    rate: str
    sums: str = "token"


ARMS = [
    *(Arm(kind) for kind in COPYING),
    *(Arm("replay", name) for name in OBJECTIVES),
    *(Arm("hybrid", name) for name in HYBRIDS),
]


def run_name(arm: Arm, choice: Choice, corpus: str) -> str:
    """What conf/arm calls the run."""
    sums = "None" if choice.sums == "null" else choice.sums
    middle = f"-{arm.objective}-{sums}" if arm.objective else ""
    return f"{arm.kind}{middle}-pt{corpus}-lr{choice.rate}"


def choices(arm: Arm) -> list[Choice]:
    """The eight tries of an arm."""
    if arm.objective and OBJECTIVES[arm.objective].aggregate != "token":
        return [Choice(rate, sums) for rate, sums in product(RATES, SUMS)]
    return [Choice(rate) for rate in ALL_RATES]


def words_of(arm: Arm, choice: Choice) -> list[str]:
    """What the trainer is told."""
    words = [f"arm={arm.kind}", f"optimiser.lr={choice.rate}"]
    return [*words, f"losses.aggregation={choice.sums}", f"objective={arm.objective}"] if arm.objective else words


def done(world: World, run: str, arm: Arm, choice: Choice) -> bool:
    """Whether a run whose name holds no choice is finished. Raises RuntimeError where it was trained by another one."""
    if run not in world.trained():
        return False
    record = world.folder / "runs" / run / "run.json"
    told = json.loads(record.read_text(encoding="utf-8"))["configuration"]["trainer"]
    read = slice(None if arm.objective else 1)  # an arm that only copies reads no objective
    was = [float(told["optimiser"]["lr"]), told["objective"], told["losses"]["aggregation"]][read]
    wanted = [float(choice.rate), arm.objective, None if choice.sums == "null" else choice.sums][read]
    if was != wanted:
        raise RuntimeError(
            f"{record.parent} was trained by another choice, {was} and not {wanted}; next: rm -r {record.parent}"
        )
    return True


def train(world: World, asked: Iterable[tuple[Arm, Choice, str]]) -> None:
    """All that is asked for and not yet there, by as few sweeps as hold nothing else: a process a kind and a choice."""
    there, sweeps = world.trained(), defaultdict[tuple[str, Choice, str], list[str]](list)
    for arm, choice, corpus in asked:
        if run_name(arm, choice, corpus) not in there:
            sweeps[arm.kind, choice, corpus].append(arm.objective)
    for (kind, choice, corpus), objectives in sweeps.items():
        words = words_of(Arm(kind, ",".join(objectives)), choice)
        world.trainer("-m", "recipe=evidence", *words, f"losses.pt={corpus}")


def tuned(world: World) -> tuple[dict[Arm, Choice], Figures]:
    """The best choice of each arm on the tuning world, and all figures. The first of equals, the demo's own rate before others."""
    asked = [(arm, choice, CORPUS[0]) for arm in ARMS for choice in choices(arm)]
    with ThreadPoolExecutor(LANES) as lanes:
        list(lanes.map(lambda part: train(world, part), [asked[i::LANES] for i in range(LANES)]))
    names = {(arm, choice): run_name(arm, choice, corpus) for arm, choice, corpus in asked}
    figures = evaluated(world, names.values())

    def rank(arm: Arm, choice: Choice) -> tuple[float, bool]:
        return figures[names[arm, choice]]["exact"], choice == Choice("0.002")

    return {arm: max(choices(arm), key=lambda choice: rank(arm, choice)) for arm in ARMS}, figures


def measured(world: World, chosen: dict[Arm, Choice]) -> Figures:
    """Every arm with and without L_PT in one world."""
    asked = [(arm, choice, corpus) for corpus in CORPUS for arm, choice in chosen.items()]
    train(world, asked)
    return evaluated(world, [run_name(*one) for one in asked])


def main_table(chosen: dict[Arm, Choice], worlds: Sequence[Figures]) -> str:
    """With L_PT: exact match, its difference from BC on filtered best-of-N in the same world, language, bits a byte."""

    def row(name: str, policy: str, rate: str) -> list[str]:
        values = {key: [figures[policy][key] for figures in worlds] for key in ("exact", "language", "bits")}
        base = [figures[run_name(Arm(BASE), chosen[Arm(BASE)], CORPUS[0])]["exact"] for figures in worlds]
        apart = "" if policy == "student" else difference(values["exact"], base).signed
        return [name, rate, *(str(interval(values[k])) for k in ("exact", "language", "bits")), apart]

    start = next(name for name in worlds[0] if name in ("student", "demo-student"))
    rows = [row("initial student", start, "")]
    arms = [(row(arm.name, run_name(arm, c, CORPUS[0]), told(arm, c)), arm, c) for arm, c in chosen.items()]
    arms.sort(key=lambda one: -interval([w[run_name(one[1], one[2], CORPUS[0])]["exact"] for w in worlds]).mean)
    head = ["arm", "rate, sum", "exact match", "language", "bits a byte", "exact match − BC on filtered best-of-N"]
    return table(head, [*rows, *(one[0] for one in arms)])


def told(arm: Arm, choice: Choice) -> str:
    """The choice, in the table's words."""
    return choice.rate if not arm.objective else f"{choice.rate}, {'own' if choice.sums == 'null' else choice.sums}"


def corpus_table(chosen: dict[Arm, Choice], worlds: Sequence[Figures]) -> str:
    """What L_PT changes: each figure with it minus the same arm without, world by world."""
    rows = []
    for arm, choice in chosen.items():
        with_, without = (run_name(arm, choice, corpus) for corpus in CORPUS)
        parts = [difference([w[with_][k] for w in worlds], [w[without][k] for w in worlds]) for k in KEYS]
        rows.append([arm.name, *(part.signed for part in parts)])
    return table(
        ["arm", *(f"{name}: with L_PT − without" for name in ("exact match", "language", "bits a byte"))], rows
    )


KEYS = ("exact", "language", "bits")


def tuning_table(figures: Figures) -> str:
    """Exact match of every try on the tuning world: a column a rate; both sums where there are two."""

    def cell(arm: Arm, rate: str) -> str:
        tries = [run_name(arm, choice, CORPUS[0]) for choice in choices(arm) if choice.rate == rate]
        return " · ".join(f"{figures[one]['exact']:.3f}" for one in tries)

    rows = [[arm.name, *(cell(arm, rate) for rate in ALL_RATES)] for arm in ARMS]
    return table(["arm (sum over tokens · the objective's own)", *ALL_RATES], rows)


def main(words: Sequence[str]) -> int:
    """Tune, train, evaluate, print."""
    command = parser(__doc__, range(11, 21))
    options = command.parse_args(words)
    if TUNING in options.seeds:
        command.error(f"world {TUNING} is the one that rates are chosen on")
    chosen, tries = tuned(made(TUNING))
    worlds = side_by_side(options.seeds, lambda world: measured(world, chosen))
    tables = {"arms": main_table(chosen, worlds), "corpus": corpus_table(chosen, worlds)}
    tell(tables, options, f"Rates chosen on world {TUNING}. ")
    tell({"tuning": tuning_table(tries)}, argparse.Namespace(seeds=[TUNING], write=options.write))
    if options.write:
        found = {
            arm.name: interval([w[run_name(arm, c, CORPUS[0])]["exact"] for w in worlds]) for arm, c in chosen.items()
        }
        dots("arms", dict(sorted(found.items(), key=lambda one: -one[1].mean)), "exact match on held-out questions")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
