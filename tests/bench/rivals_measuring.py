"""Four variants of one loss and backward pass against each other, in TRL's environment.

    rivals_measuring.py time   SHAPE LAYERS REPETITIONS DEVICE DTYPE FILE   interleaved, one process; appends a line a repetition
    rivals_measuring.py memory SHAPE LAYERS VARIANT DEVICE DTYPE            peak above weights and gradients, one process a variant
    rivals_measuring.py versions                                            of what is compared

Reads nothing but FILE, where an interrupted run left its repetitions; writes one line of JSON. Refuses (RuntimeError) variants
whose gradients disagree: a faster number of something else is none."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from figures import peak, reset_peak, resident
from rival_steps import VARIANTS, Work, work
from shapes import SHAPES

AGREE = {"float32": 1e-4, "bfloat16": 0.1}


def main(kind: str, *words: str) -> None:
    """Measure one shape and print the JSON."""
    if kind == "versions":
        print(json.dumps({name: version(name) for name in ("trl", "transformers", "torch")}))
        return
    shape, layers, what, device, dtype = words[:5]
    if kind == "memory":
        print(json.dumps(memory(shape, int(layers), what, device, dtype)))
    else:
        print(json.dumps(timed(shape, int(layers), int(what), device, dtype, Path(words[5]))))


def timed(shape: str, layers: int, repetitions: int, device: str, dtype: str, file: Path) -> dict[str, Any]:
    """(wall, CPU) seconds of every repetition of every variant, A B C D A B C D …, after one warm-up that is checked."""
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    works = {variant: work(variant, SHAPES[shape], layers, device, dtype) for variant in VARIANTS}
    agreement = _agreement(works, dtype)
    for number in range(len(done), repetitions):
        row = {variant: _one(works[variant], device) for variant in VARIANTS}
        done.append(row)
        with file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        said = ", ".join(f"{variant} {wall:.2f} s" for variant, (wall, _) in row.items())
        print(f"  {shape} repetition {number + 1} of {repetitions}: {said}", file=sys.stderr, flush=True)
    return {"times": done[:repetitions], "agreement": agreement, "detail": works["ours"].detail}


def _one(one: Work, device: str) -> tuple[float, float]:
    one.model.zero_grad(set_to_none=False)
    gc.collect()
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    one.step()
    _wait(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def _agreement(works: dict[str, Work], dtype: str) -> dict[str, float]:
    """Largest |Δ gradient| ÷ largest |gradient| of each variant against plain, over all weights; this is the warm-up.

    Afterwards all variants hold one set of weights and of gradients, or four models would fill a small machine's memory."""
    first = works["plain"]
    first.step()
    shared = dict(first.model.named_parameters())
    plain = {name: p.grad.clone() for name, p in shared.items()}
    largest = max(float(grad.abs().max()) for grad in plain.values())
    found = {"plain": 0.0}
    for variant, one in works.items():
        if one is first:
            continue
        for name, p in one.model.named_parameters():
            if not torch.equal(p, shared[name]):
                raise RuntimeError(f"{variant} has other weights than plain: {name}")
            p.data, p.grad = shared[name].data, shared[name].grad.zero_()
        one.step()
        found[variant] = max(float((p.grad - plain[name]).abs().max()) for name, p in one.model.named_parameters())
        found[variant] /= largest
        if not found[variant] <= AGREE[dtype]:
            raise RuntimeError(f"the gradient of {variant} differs from plain's by {found[variant]:.2g} of its largest")
    return found


def memory(shape: str, layers: int, variant: str, device: str, dtype: str) -> dict[str, Any]:
    """Peak bytes of a step above weights, gradients and inputs; a step of one layer's shape has warmed the process up."""
    work(variant, SHAPES["128/ragged"], 1, device, dtype).step()
    one = work(variant, SHAPES[shape], layers, device, dtype)
    for parameter in one.model.parameters():
        parameter.grad = torch.zeros_like(parameter).fill_(0)
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        one.step()
        return {"bytes": torch.cuda.max_memory_allocated() - before}
    ctypes.CDLL(None).malloc_trim(0)  # or pages that an earlier step freed would be used for nothing
    reset_peak()
    before = resident()
    one.step()
    return {"bytes": peak() - before}


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(*sys.argv[1:])
