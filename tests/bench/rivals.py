"""Our step against TRL and plain transformers: seconds of loss and backward pass, and peak memory, shape by shape.

Runs `rivals_measuring.py` in TRL's environment. Every repetition and every peak is kept in build/bench at once, under a hash of the
code that was measured, so that an interrupted run goes on and a change of the code starts anew. Refuses where the environment is
missing, with the command that makes it."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from figures import ROOT, Figure, Options, in_child
from rival_steps import VARIANTS
from shapes import SHAPES, describe

STORE = ROOT / "build" / "bench"
RIVALS = VARIANTS[1:]
MEASURING = ("shapes", "our_step", "rival_steps", "rivals_measuring", "online_measuring")
NAMES = {"plain": "transformers", "trl": "TRL", "trl_completions": "TRL, head over completions"}


def measure(options: Options) -> list[Figure]:
    """Two figures a shape: how many times faster than the best rival, and memory as a share of the leanest rival's."""
    python = environment(options)
    shapes = options.shapes or tuple(SHAPES)
    for shape in shapes:
        print(f" {shape}: {describe(shape)}", file=sys.stderr, flush=True)
    # first all that is timed, in one go, while the machine is quiet; memory is the same on a busy one
    speeds = [_speed(shape, options, python) for shape in shapes]
    memories = [_memory(shape, options, python) for shape in shapes]
    found = [figure for pair in zip(speeds, memories, strict=True) for figure in pair]
    return found


def environment(options: Options) -> str:
    """The interpreter of TRL's environment. Raises SystemExit where it does not exist."""
    python = options.python or os.environ.get("BENCH_PYTHON", "") or str(ROOT / ".venv-bench" / "bin" / "python")
    if not Path(python).exists():
        raise SystemExit(f"TRL's environment is not at {python}; next: make bench-env")
    return python


def versions(python: str) -> str:
    """What the rivals are."""
    found = in_child("rivals_measuring.py", "versions", python=python)
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _speed(shape: str, options: Options, python: str) -> Figure:
    file = kept(shape, "times", options, "jsonl")
    told = (str(options.layers), str(options.repetitions), options.device, options.dtype, str(file))
    found = in_child("rivals_measuring.py", "time", shape, *told, python=python, loud=True)
    # CPU seconds where cores may be shared; an accelerator has none
    which = 1 if options.device == "cpu" else 0
    wall, judged = (
        {v: statistics.median(row[v][place] for row in found["times"]) for v in VARIANTS} for place in (0, which)
    )
    best = min(RIVALS, key=lambda v: judged[v])
    seconds = ", ".join(f"{NAMES[v]} {judged[v]:.2f} s" for v in RIVALS)
    worst = max(found["agreement"].values())
    beside = (
        f"ours {judged['ours']:.2f} s; {seconds}; wall {wall[best] / wall['ours']:.2f} ×; by products alone "
        f"{SHAPES[shape].limit(options.layers):.2f} ×; gradients agree to {worst:.0e}; {found['detail']['layout']}, "
        f"{found['detail']['passes']} pass(es), {len(found['times'])} repetitions"
    )
    goal = SHAPES[shape].speed if options.device == "cpu" and options.layers == 30 else None
    unit = "CPU seconds" if which else "wall"
    what = f"{unit}, best rival ({NAMES[best]}) ÷ ours: {describe(shape)}, {options.layers} layers, {options.dtype}"
    return Figure(what, judged[best] / judged["ours"], goal, "×", at_least=True, beside=beside)


def _memory(shape: str, options: Options, python: str) -> Figure:
    found: dict[str, float] = {}
    for variant in VARIANTS:
        file = kept(shape, variant, options, "json")
        if not file.exists():
            told = (shape, str(options.layers), variant, options.device, options.dtype)
            measured = in_child("rivals_measuring.py", "memory", *told, python=python)
            file.write_text(json.dumps(measured))
        found[variant] = json.loads(file.read_text())["bytes"]
        print(f"  {shape} {variant}: {found[variant] / 1e9:.2f} GB", file=sys.stderr, flush=True)
    best = min(RIVALS, key=lambda v: found[v])
    rivals = ", ".join(f"{NAMES[v]} {found[v] / 1e9:.2f} GB" for v in RIVALS)
    goal = 0.5 if options.device == "cpu" and options.layers == 30 else None
    return Figure(
        f"peak memory above weights and gradients, ours ÷ leanest rival ({NAMES[best]}): the same",
        found["ours"] / found[best],
        goal,
        "×",
        beside=f"ours {found['ours'] / 1e9:.2f} GB; {rivals}",
    )


def kept(shape: str, what: str, options: Options, ending: str) -> Path:
    """Where this measurement of this code is kept."""
    settings: tuple[Any, ...] = (shape, what, options.layers, options.device, options.dtype)
    name = "-".join(str(setting).replace("/", "_") for setting in settings)
    STORE.mkdir(parents=True, exist_ok=True)
    file = STORE / f"{name}-{code()}.{ending}"
    if options.fresh:
        file.unlink(missing_ok=True)
    return file


def code() -> str:
    """Hash of what is measured and how."""
    here = Path(__file__).parent
    files = [
        *(ROOT / "trainer").rglob("*.py"),
        *(here / f"{m}.py" for m in MEASURING),
    ]
    hashed = hashlib.sha256()
    for file in sorted(files):
        hashed.update(file.read_bytes())
    return hashed.hexdigest()[:12]
