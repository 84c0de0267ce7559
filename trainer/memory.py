"""How much memory a run will take, estimated and printed before anything is loaded.

Reads the model's config.json alone (parameters are counted on torch's meta device) and what the device has free. Writes nothing.
Refuses a run whose estimate is above optimiser.compute.memory or the free memory. An estimate: within a factor of 2 where it was
measured (tests/trainer/test_memory.py). Not in it: fragmentation, other processes, the pool's pages, a checkpoint's copy, and a
group that is larger than a micro-batch and stands alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.refusal import Refusal
from trainer.adapter import linear_names, wanted
from trainer.config import Optimiser

GIB = 2**30
RUNTIME = GIB // 2  # torch, transformers and the device's own context, before any weight
HEAD_CHUNK = 2**24  # elements of a chunk of logits at most (trainer/forward/head.py)
HEAD_ROWS = 256
NORMS = 12  # tensors of the hidden size that a layer keeps: two norms in float32, residuals, projections' inputs
GATES = 4  # tensors of the feed-forward size: gate, up, activation, product


@dataclass(frozen=True)
class Shape:
    """What of a model decides its memory."""

    parameters: int
    adapter: int
    """Parameters of an adapter of rank 1 on every linear layer but the head."""
    layers: int
    hidden: int
    inner: int
    """Width of the feed-forward layer."""
    keys: int
    """Width of keys (and of values), all heads together."""
    vocabulary: int


@dataclass(frozen=True)
class Load:
    """What of a run decides its memory."""

    tokens: int
    """Positions of one forward pass."""
    copies: int = 0
    """Copies of the trained weights: references, the start that the probe's KL is measured from."""
    terms: int = 1
    """Loss terms of a micro-batch: each holds a gradient of the head until the backward pass."""
    processes: int = 1
    width: int = 4
    """Bytes of a weight."""


def shape_of(path: str, **origin: Any) -> Shape:
    """The shape of the model at `path`, from its configuration; no weight is read or made. OSError or ValueError without one."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path, **origin)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=origin.get("trust_remote_code", False))
    names = set(linear_names(model))
    sizes = [m.weight.shape for n, m in model.named_modules() if n.rpartition(".")[2] in names]
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    each = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    inner = next((v for n in ("intermediate_size", "n_inner", "ffn_dim") if (v := getattr(text, n, None))), None)
    return Shape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        adapter=sum(sum(size) for size in sizes),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        inner=inner or 4 * text.hidden_size,
        keys=heads * each,
        vocabulary=text.vocab_size,
    )


def estimate(shape: Shape, settings: Optimiser, load: Load) -> dict[str, int]:
    """Bytes on one device by what they are for, in the order in which they come; their sum is the peak of a step."""
    lora = wanted(settings.lora, shape.parameters)
    trained = shape.adapter * settings.lora.rank if lora else shape.parameters
    width = 4 if lora else load.width
    spread = load.processes if settings.compute.parallel == "fsdp" else 1
    averaged = trained * 4 * (settings.ema is not None)
    lent = trained * width if load.copies or averaged else 0  # own weights are kept while others stand in their place
    found = {
        "weights": (shape.parameters * load.width + (trained * 4 if lora else 0)) // spread,
        "gradients": trained * width // spread,
        "optimiser": (2 if settings.name == "adamw" else 0) * trained * width // spread,
        "copies": (averaged + load.copies * trained * width + lent) // spread,
        "gathered": 0 if spread == 1 else (shape.parameters // shape.layers + _head(shape)) * load.width,
        "activations": _activations(shape, settings, load),
        "head": _logits(shape) + (0 if lora else load.terms * _head(shape) * load.width),
        "runtime": RUNTIME,
    }
    if settings.compute.autocast:
        found["half precision"] = 2 * shape.parameters // spread
    return {name: size for name, size in found.items() if size}


def _head(shape: Shape) -> int:
    return shape.vocabulary * shape.hidden


def _logits(shape: Shape) -> int:
    """Two chunks in float32: logits, and what becomes of them."""
    return 2 * 4 * min(HEAD_CHUNK, HEAD_ROWS * shape.vocabulary)


def _activations(shape: Shape, settings: Optimiser, load: Load) -> int:
    """What the layers keep for the backward pass; with checkpointing each its input, and one layer at a time the rest."""
    half = settings.compute.autocast is not None or load.width == 2
    width = 2 if half else 4
    layer = (NORMS * shape.hidden * 4) + (4 * shape.keys + GATES * shape.inner) * width
    if settings.compute.activation_checkpointing:
        return load.tokens * (shape.layers * shape.hidden * width + layer)
    return load.tokens * shape.layers * layer


def line(sizes: Mapping[str, int], free: float | None) -> str:
    """The estimate in one line, in GiB."""
    parts = ", ".join(f"{name} {size / GIB:.2g}" for name, size in sizes.items())
    left = "" if free is None else f"; {free / GIB:.3g} GiB free"
    return f"memory: about {sum(sizes.values()) / GIB:.2g} GiB a process ({parts}){left}"


def refuse_too_much(sizes: Mapping[str, int], settings: Optimiser, tokens: int, free: float | None) -> None:
    """Refusal where the estimate is above what the recipe allows, or above what is free."""
    allowed, total = settings.compute.memory, sum(sizes.values())
    limit = free if allowed is None else allowed * GIB
    if limit is None or total <= limit:
        return
    said = "is free on the device" if allowed is None else "optimiser.compute.memory allows"
    largest = max(sizes, key=lambda name: sizes[name])
    raise Refusal(
        f"the run would take about {total / GIB:.3g} GiB, most of it {largest} ({sizes[largest] / GIB:.3g}),"
        f" and {limit / GIB:.3g} GiB {said}",
        _less(largest, settings, tokens),
    )


def _less(largest: str, settings: Optimiser, tokens: int) -> str:
    """What to change so that the largest part shrinks."""
    if largest == "activations" and not settings.compute.activation_checkpointing:
        return "optimiser.compute.activation_checkpointing=true"
    if largest in ("activations", "head"):
        return f"replay.micro_batch_tokens={max(1, tokens // 2)}"
    if not settings.lora.enabled and largest in ("gradients", "optimiser", "copies", "weights"):
        return "optimiser.lora.enabled=true"
    return "optimiser.compute.parallel=fsdp under torchrun, with more processes; or a smaller model"


def free_memory(device: torch.device) -> float | None:
    """Free bytes for one process on the device; None where the system does not say. Processes of one machine share its memory."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    rows = (row.split() for row in meminfo.read_text(encoding="utf-8").splitlines())
    found = [1024.0 * int(row[1]) for row in rows if row[0] == "MemAvailable:"]
    found += _group_limit(Path("/sys/fs/cgroup"))
    return min(found) / int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if found else None


def _group_limit(folder: Path) -> list[float]:
    """What is left to a container, which sees its host's memory; empty without a limit."""
    most, used = folder / "memory.max", folder / "memory.current"
    if not (most.is_file() and used.is_file()):
        return []
    text = most.read_text(encoding="utf-8").strip()
    return [] if text == "max" else [float(text) - float(used.read_text(encoding="utf-8"))]
