"""How long one pool carries a policy, and whether the verdict of `trainer.drift` says so in time: tables of docs/evidence.md.

    python tests/bench/evidence/stale.py [--seeds 11,12] [--write]

Constant rate, so that the runs of one arm are the beginnings of each other: 1, 2, 4 … 512 updates on one pool, each measured on
held-out questions and by `trainer.drift` on the pool. *Turned down*: the first number of updates whose exact match lies FALL below
the best before it. *In time*: the verdict left "replay on" at fewer updates than that."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it starts itself where Python does not add its folder
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from page import parser, table, tell
from plot import curves
from seeds import difference, interval
from worlds import World, evaluated, side_by_side

HERE = Path(__file__).resolve()
UPDATES = [2**i for i in range(10)]
FALL = 0.05  # twelve of 240 questions
ARMS = {
    "naive": ("arm=replay", "objective=naive"),
    "grpo": ("arm=replay", "objective=grpo", "losses.aggregation=null"),
    "seq_tis": ("arm=replay", "objective=seq_tis"),
    "topr": ("arm=replay", "objective=topr"),
    "hybrid": ("arm=hybrid", "objective=seq_tis"),
}
CONSTANT = "optimiser.schedule=constant"
EVERY, PATIENCE = 16, 3  # a pass over the pool is some forty updates
STOP = f"stop=[{{metric: probe/exact, patience: {PATIENCE}}}]"
PROBED = (CONSTANT, f"probe.every={EVERY}", "probe.split=train", STOP, "checkpoint.best=probe/exact")
SHOWN = ("token_ess", "sequence_ess", "token_kl", "sequence_k_hat")
Point = dict[str, float]  # exact, language, replay (1: "replay on"), and the figures of drift


@dataclass(frozen=True)
class Ended:
    """A run that a probe ended: its updates and exact match, and those of the state that the best probe saw."""

    updates: int
    exact: float
    best_updates: int
    best_exact: float


def run_name(arm: str, updates: int) -> str:
    """Of the run with so many updates."""
    return f"stale-{arm}-{updates}"


def measured(world: World) -> dict[str, list[Point]]:
    """Arm → a point for each of UPDATES."""
    names = {(arm, n): run_name(arm, n) for arm in ARMS for n in UPDATES}
    steps = f"steps={','.join(map(str, UPDATES))}"
    for arm, words in ARMS.items():
        name = f"run={run_name(arm, 0)[:-1]}${{trainer.steps}}"
        world.trainer("-m", "recipe=evidence", *words, CONSTANT, "probe.every=null", steps, name)
    figures = evaluated(world, names.values())
    told = json.loads(world.run(str(HERE), "--drift", *names.values()))
    return {arm: [figures[names[arm, n]] | told[names[arm, n]] for n in UPDATES] for arm in ARMS}


def probed(world: World) -> dict[str, Ended]:
    """Arm → the run that the probe ended, or the last of UPDATES did, and the state of its best probe."""
    names = {arm: f"stale-{arm}-probe" for arm in ARMS}
    for arm, words in ARMS.items():
        world.trainer("recipe=evidence", *words, *PROBED, f"steps={UPDATES[-1]}", f"run={names[arm]}")
    best = {arm: next((world.folder / "runs" / name).glob("checkpoint-*")) for arm, name in names.items()}
    paths = ", ".join(f"best_{arm}: {{path: {path.relative_to(world.folder)}}}" for arm, path in best.items())
    figures = evaluated(world, [*names.values(), *(f"best_{arm}" for arm in ARMS)], f"models={{{paths}}}")
    steps = {row["run"]: row["steps"] for row in world.sql("SELECT run, steps FROM runs")}

    def ended(arm: str) -> Ended:
        at = int(best[arm].name.removeprefix("checkpoint-"))
        return Ended(steps[names[arm]], figures[names[arm]]["exact"], at, figures[f"best_{arm}"]["exact"])

    return {arm: ended(arm) for arm in ARMS}


def drift(runs: Sequence[str]) -> dict[str, Point]:
    """Run → figures and verdict of `trainer.drift`, in the folder where this was started."""
    from trainer.drift.config import DriftSettings
    from trainer.drift.measure import measure

    found = {}
    for run in runs:
        told = measure(DriftSettings(run=run))
        found[run] = {name: told.figures[name] for name in SHOWN} | {"replay": float(told.verdict.replay)}
    return found


def turned(exact: Sequence[float]) -> int | None:
    """Place of the first value that lies FALL below the best before it.

    >>> turned([0.1, 0.5, 0.46, 0.44]), turned([0.1, 0.2])
    (3, None)
    """
    return next((i for i in range(1, len(exact)) if exact[i] < max(exact[:i]) - FALL), None)


def stopped(points: Sequence[Mapping[str, float]]) -> int | None:
    """Place of the first point at which the verdict is no longer "replay on"."""
    return next((i for i, point in enumerate(points) if not point["replay"]), None)


def kept(worlds: Sequence[dict[str, list[Point]]], arm: str) -> tuple[list[float], list[float]]:
    """Exact match where the verdict stops, or at the last point, and the best of the curve; a value a world."""
    curves_of = [world[arm] for world in worlds]
    stops = [stopped(points) for points in curves_of]
    at = [points[-1 if stop is None else stop]["exact"] for points, stop in zip(curves_of, stops, strict=True)]
    return at, [max(point["exact"] for point in points) for points in curves_of]


def curve_table(worlds: Sequence[dict[str, list[Point]]]) -> str:
    """Exact match by updates, a row for each of them, a column an arm."""
    rows = []
    for i, updates in enumerate(UPDATES):
        cells = [interval([world[arm][i]["exact"] for world in worlds]) for arm in ARMS]
        rows.append([str(updates), *map(str, cells)])
    return table(["updates", *(f"`{arm}`" for arm in ARMS)], rows)


def verdict_table(worlds: Sequence[dict[str, list[Point]]]) -> str:
    """When quality turned, when the verdict would have stopped, what stopping costs, and what drift said before the turn."""
    rows = []
    for arm in ARMS:
        turns = [turned([p["exact"] for p in world[arm]]) for world in worlds]
        stops = [stopped(world[arm]) for world in worlds]
        both = [(turn, stop) for turn, stop in zip(turns, stops, strict=True) if turn is not None]
        in_time = sum(stop is not None and stop < turn for turn, stop in both)
        at, best = kept(worlds, arm)
        before = [world[arm][turn - 1] for world, turn in zip(worlds, turns, strict=True) if turn is not None]
        rows.append(
            [
                f"`{arm}`",
                f"{len(both)} of {len(worlds)}",
                f"{in_time} of {len(both)}" if both else "–",
                spread([UPDATES[i] for i in stops if i is not None]),
                spread([UPDATES[i] for i in turns if i is not None]),
                str(interval(at)),
                str(interval(best)),
                *(spread([point[name] for point in before], none="–") for name in SHOWN),
            ]
        )
    head = [
        "arm",
        "turned down",
        "verdict in time",
        "verdict at updates",
        "turned at updates",
        "exact match where the verdict stops",
        "best exact match",
        *(f"{name} before the turn" for name in ("token ESS/n", "sample ESS/n", "KL a token", "k-hat")),
    ]
    return table(head, rows)


def probe_table(worlds: Sequence[dict[str, list[Point]]], ended: Sequence[dict[str, Ended]]) -> str:
    """Where the probe ends a run, what that keeps and what its best state keeps: beside the verdict and the best of the curve."""
    rows = []
    for arm in ARMS:
        runs = [one[arm] for one in ended]
        verdict, highest = kept(worlds, arm)
        last, best = [run.exact for run in runs], [run.best_exact for run in runs]
        rows.append(
            [
                f"`{arm}`",
                f"{sum(run.updates < UPDATES[-1] for run in runs)} of {len(runs)}",
                spread([run.updates for run in runs]),
                str(interval(last)),
                spread([run.best_updates for run in runs]),
                str(interval(best)),
                difference(best, verdict).signed,
                difference(best, highest).signed,
            ]
        )
    head = [
        "arm",
        f"ended before {UPDATES[-1]}",
        "at updates",
        "exact match there",
        "best probe at updates",
        "exact match of its state",
        "its state − where the verdict stops",
        "its state − the best of the curve",
    ]
    return table(head, rows)


def spread(values: Sequence[float], none: str = "never") -> str:
    """Median and range.

    >>> spread([4, 8, 8])
    '8 (4 … 8)'
    """
    return f"{statistics.median(values):.3g} ({min(values):.3g} … {max(values):.3g})" if values else none


def main(words: Sequence[str]) -> int:
    """Train, measure, print."""
    command = parser(__doc__, range(11, 16))
    command.add_argument("--drift", nargs="+", help=argparse.SUPPRESS)
    options = command.parse_args(words)
    if options.drift:
        print(json.dumps(drift(options.drift)))
        return 0
    worlds = side_by_side(options.seeds, measured)
    ended = side_by_side(options.seeds, probed)
    tables = {"stale": curve_table(worlds), "verdict": verdict_table(worlds), "probe": probe_table(worlds, ended)}
    tell(tables, options)
    if options.write:
        draw(worlds)
    return 0


def draw(worlds: Sequence[dict[str, list[Point]]]) -> None:
    """Exact match by updates; a broken line where the verdict leaves "replay on", at the median over worlds."""
    lines, marks = {}, {}
    for arm in ARMS:
        lines[arm] = [(n, interval([world[arm][i]["exact"] for world in worlds])) for i, n in enumerate(UPDATES)]
        stops = [place for world in worlds if (place := stopped(world[arm])) is not None]
        if len(stops) * 2 > len(worlds):
            marks[arm] = UPDATES[int(statistics.median_low(stops))]
    curves("stale", {"updates on one pool": lines}, "exact match", marks, base=2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
