"""Online GRPO by TRL on the demo's model, for the cost table of docs/evidence.md (`rounds.py` puts it there).

Tuned as the arms are: four learning rates and both ways to scale a reward, eight tries on the tuning world, chosen by exact match
after 150 updates. Needs TRL's environment: `make bench-env`."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from worlds import LANES, ROOT, TUNING, World, evaluated, made

PYTHON = ROOT / ".venv-bench" / "bin" / "python"
TRAINING = Path(__file__).with_name("online_training.py")
RATES, SCALES = ("0.001", "0.002", "0.004", "0.008"), ("group", "none")
UPDATES = 150
POINTS = (25, 50, 100, 150, 300, 450)  # of the long run, whose schedule ends at the last
Choice = tuple[str, str]  # rate, scale


def name(choice: Choice, updates: int) -> str:
    """Of a run."""
    return f"{updates}-{choice[1]}-lr{choice[0]}"


def train(world: World, choice: Choice, updates: int, points: tuple[int, ...]) -> None:
    """A run of so many updates, unless its last student is there."""
    if not PYTHON.exists():
        raise SystemExit("TRL's environment is missing; next: make bench-env")
    if not (world.folder / "online" / f"{name(choice, updates)}-{updates}" / "paid.json").exists():
        told = (name(choice, updates), str(updates), *choice, str(world.seed), ",".join(map(str, points)))
        world.run(str(TRAINING), *told, python=str(PYTHON))


def figures(world: World, asked: list[tuple[Choice, int, int]]) -> dict[tuple[Choice, int, int], dict[str, float]]:
    """(choice, updates, point) → exact, language, bits, and what was paid until then: tokens sampled, by the teacher, seconds."""
    policies = {f"trl-{name(c, n)}-{point}": (c, n, point) for c, n, point in asked}
    folders = {policy: f"online/{name(c, n)}-{point}" for policy, (c, n, point) in policies.items()}
    paths = ", ".join(f"{policy}: {{path: {folder}}}" for policy, folder in folders.items())
    found = evaluated(world, list(policies), f"models={{{paths}}}")
    told = {}
    for policy, key in policies.items():
        paid = json.loads((world.folder / folders[policy] / "paid.json").read_text(encoding="utf-8"))
        seen = {"sampled": paid["tokens"], "teacher": paid["tokens"], "seconds": paid["seconds"]}
        told[key] = found[policy] | seen
    return told


def chosen() -> tuple[Choice, str]:
    """The best of eight tries on the tuning world, the arms' own rate before its equals; and what each came to."""
    world = made(TUNING)
    choices = list(product(RATES, SCALES))
    with ThreadPoolExecutor(LANES) as lanes:
        list(lanes.map(lambda choice: train(world, choice, UPDATES, (UPDATES,)), choices))
    found = figures(world, [(choice, UPDATES, UPDATES) for choice in choices])
    exact = {choice: found[choice, UPDATES, UPDATES]["exact"] for choice in choices}
    told = "; ".join(f"{rate}, {scale}: {value:.3f}" for (rate, scale), value in exact.items())
    return max(choices, key=lambda c: (exact[c], c[0] == "0.002")), told


def measured(world: World, choice: Choice) -> dict[str, dict[str, float]]:
    """trl-N → figures after N updates: of the run of 150, and of each point of the long one as trl-450-N."""
    train(world, choice, UPDATES, (UPDATES,))
    train(world, choice, POINTS[-1], POINTS)
    found = figures(world, [(choice, UPDATES, UPDATES), *((choice, POINTS[-1], point) for point in POINTS)])
    return {f"trl-{updates}-{point}": row for (_, updates, point), row in found.items()}
