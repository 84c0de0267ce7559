"""Ten runs from one pool against ten online TRL runs of as many updates, from real steps of both.

Measures by `online_measuring.py` in TRL's environment. For each update the ten online runs pay ten of TRL's steps; ours pay one
group sampled, scored and rescored, and ten training steps (one a recipe): the ratio does not depend on the number of updates. Left
out on both sides: loading the models, and on ours the tables (bytes a token beside seconds a group)."""

from __future__ import annotations

import statistics
from typing import Any

from figures import Figure, Options, in_child
from rivals import environment, kept
from shapes import describe

SHAPE = "224/20"
RUNS = 10


def measure(options: Options) -> list[Figure]:
    """One figure: the cost of ten runs from one pool as a share of ten online runs', in CPU seconds."""
    if options.repetitions * 2 < RUNS:
        said = f"{RUNS // 2} turns measure every recipe once"
        print(f" {options.repetitions} turns measure {options.repetitions * 2} of {RUNS} recipes; {said}")
    file = kept(SHAPE, "online", options, "jsonl")
    told = (SHAPE, str(options.layers), str(options.repetitions), str(file))
    found = in_child("online_measuring.py", *told, python=environment(options), loud=True)
    wall, cpu = (costs(found["turns"], place) for place in (0, 1))
    steps = f"{cpu['train']:.2f} s a training step (median of {2 * len(found['turns'])}, {cpu['recipes']:.0f} recipes)"
    beside = (
        f"per update, CPU seconds: TRL's step {cpu['trl']:.1f} (sampling, teacher's reward, loss with the head over "
        f"completions, AdamW; median of "
        f"{len(found['turns'])}); ours sampling {cpu['sample']:.2f} + teacher {cpu['teacher']:.2f} + rescoring "
        f"{cpu['policy']:.2f}, once, and {steps}; extrapolated: (sampling + teacher + rescoring + 10 · step) ÷ "
        f"(10 · TRL's step); wall {wall['share']:.3f}; teacher of {found['teacher_layers']} layers"
    )
    what = (
        f"ten runs from one pool ÷ ten online TRL runs of as many updates: {describe(SHAPE)}, {options.layers} layers"
    )
    return [Figure(what, cpu["share"], 0.2 if options.layers == 30 else None, "×", beside=beside)]


def costs(turns: list[dict[str, Any]], place: int) -> dict[str, float]:
    """Medians over the turns in seconds (place 0 wall, 1 CPU), and the share that follows from them.

    >>> turn = {"trl": [8.0], "sample": [1.0], "teacher": [2.0], "policy": [1.0], "train": {"grpo": [0.6], "tis": [0.8]}}
    >>> round(costs([turn], 0)["share"], 4)
    0.1375
    """
    median = {
        name: statistics.median(turn[name][place] for turn in turns) for name in ("trl", "sample", "teacher", "policy")
    }
    train = [(recipe, taken[place]) for turn in turns for recipe, taken in turn["train"].items()]
    median["train"] = statistics.median(seconds for _, seconds in train)
    once = median["sample"] + median["teacher"] + median["policy"]
    share = (once + RUNS * median["train"]) / (RUNS * median["trl"])
    return median | {"share": share, "recipes": len({recipe for recipe, _ in train})}
