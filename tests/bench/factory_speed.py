"""What the factory takes beside its models, and what its engine takes beside transformers: speed and memory.

Each in a process of its own (factory_working.py, factory_importing.py), with random models of SmolLM2-135M's shape; about seven
minutes. Shares are of wall; ratios of speed are of wall too, with CPU seconds beside."""

from __future__ import annotations

from typing import Any

from factory_working import GROUP, SAMPLED, SCORED, SHARED
from figures import REPETITIONS, Figure, in_child
from shapes import LAYERS

LARGE, SMALL = 1_000_000, 100_000
STAGES = {
    "samples": "stage samples",
    "scores": "stage scores, teacher and policy of one tokenizer",
    "across": "stage scores, a scorer of another tokenizer",
}


def measure() -> list[Figure]:
    """Scoring, sampling, the shares of three stages and of all, and the memory of an import."""
    return [_scoring(), _sampling(), *_shares(), *_importing()]


def _scoring() -> Figure:
    found = in_child("factory_working.py", "scoring", loud=True)
    shape = f"prompt {SCORED['prompt']}, completion {SCORED['completion']}, G = {GROUP}, {LAYERS} layers, float32"
    what = f"hf, scoring a group ÷ scoring sample by sample ({shape})"
    beside = f"median of {REPETITIONS}; {_times(found, 'group', 'single')}; log p agree to {found['apart']:.0e}"
    return Figure(what, found["group"][0] / found["single"][0], 1 / 4, "×", beside=beside)


def _sampling() -> Figure:
    found = in_child("factory_working.py", "sampling", loud=True)
    lengths = " and ".join(map(str, SAMPLED["prompts"]))
    what = f"hf, sampling ÷ `model.generate` on the same batch (prompts of {lengths}, {SAMPLED['tokens']} tokens, G = {GROUP})"
    beside = f"median of {SAMPLED['repetitions']}; {_times(found, 'ours', 'transformers')}; sdpa, temperature 0.7"
    return Figure(what, found["ours"][0] / found["transformers"][0], 1.15, "×", beside=beside)


def _times(found: dict[str, Any], ours: str, other: str) -> str:
    cpu = found[ours][1] / found[other][1]
    return f"{found[ours][0]:.2f} s against {found[other][0]:.2f} s; CPU seconds {cpu:.3f}"


def _shares() -> list[Figure]:
    found = in_child("factory_working.py", "shares", loud=True)
    shape = f"{SHARED['prompts']} prompts, G = {GROUP}, {SHARED['tokens']} tokens"
    figures = [_share(f"everything but the model, {what} ({shape})", [found[name]]) for name, what in STAGES.items()]
    whole = [found[name] for name in (*STAGES, "rewards")]
    told = f"rewards {found['rewards']['wall']:.2f} s (similarity, language, length)"
    return [*figures, _share("everything but the model, these stages and rewards together", whole, told)]


def _share(what: str, stages: list[dict[str, float]], told: str = "") -> Figure:
    """What is neither decoder nor head, as a share of the wall without loading."""
    wall, engine, model = (sum(stage[name] for stage in stages) for name in ("wall", "engine", "model"))
    wall -= sum(stage["loading"] for stage in stages)
    drawn = f"of {wall:.1f} s without loading; {1 - engine / wall:.3f} outside the engine's calls"
    return Figure(what, 1 - model / wall, 0.1, "of wall", beside="; ".join(filter(None, [drawn, told])))


def _importing() -> list[Figure]:
    small, large = (in_child("factory_importing.py", str(samples), loud=True) for samples in (SMALL, LARGE))
    parts = ", ".join(f"{name} {stage['bytes'] / 1e9:.2f} GB" for name, stage in large["stages"].items())
    seconds = sum(stage["seconds"] for stage in large["stages"].values())
    what = f"{LARGE:,} samples imported, rewarded, selected: memory above the start, libraries included"
    growth = (large["bytes"] - small["bytes"]) / (LARGE - SMALL)
    return [
        Figure(what, large["bytes"] / 1e9, 2.0, "GB", beside=f"{parts}; {seconds:.0f} s"),
        Figure(
            "the same: growth from 100,000",
            growth,
            None,
            "bytes a sample",
            beside=f"{small['bytes'] / 1e9:.2f} GB there",
        ),
    ]
