"""The whole state of a run at one step, in a folder that appears at once: weights, optimiser, average, cursors, random state.

Writes checkpoint-STEP under the run's folder: a model folder that transformers loads, and in training/ safetensors and JSON. Reads
the newest one. Nothing is pickled. A folder without its final name is no checkpoint and is removed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.refusal import Refusal
from data.storage import disk_refusal
from trainer.ema import Average
from trainer.forward import Policy, save
from trainer.optimiser import load_state, state_tensors

PREFIX = "checkpoint-"


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name, durably, when the block ends well. A full disk leaves nothing."""
    from safetensors import SafetensorError

    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for entry in sorted(temporary.rglob("*"), reverse=True):
            _sync(entry)
        _sync(temporary)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        _sync(path.parent)
    except OSError as error:
        raise disk_refusal(error, str(path)) from error
    except SafetensorError as error:
        raise Refusal(
            f"{path} could not be written: {error}", "free disk space and resume the run; whatever was saved stays"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def write(
    folder: Path,
    step: int,
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    average: Average | None,
    state: Mapping[str, Any],
) -> None:
    """Save the state after `step`. `state` is JSON: cursors, stop rules, seconds."""
    from safetensors.torch import save_file

    tensors = {f"optimiser/{name}": value for name, value in state_tensors(optimiser, policy.model).items()}
    tensors |= {f"average/{name}": value for name, value in (average.weights if average else {}).items()}
    tensors["random"] = torch.get_rng_state()
    with appearing(folder / f"{PREFIX}{step}") as temporary:
        save(policy, str(temporary))
        (temporary / "training").mkdir()
        save_file(
            {name: value.contiguous() for name, value in tensors.items()}, temporary / "training/state.safetensors"
        )
        text = json.dumps({"step": step, **state}, indent=1, sort_keys=True)
        (temporary / "training/state.json").write_text(text + "\n", encoding="utf-8")


def steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints, oldest first."""
    names = [path.name.removeprefix(PREFIX) for path in folder.glob(f"{PREFIX}*")]
    return sorted(int(name) for name in names if name.isdigit())


def prune(folder: Path, keep: int, best: int | None) -> None:
    """Remove all but the newest `keep` and the best."""
    for step in steps(folder)[:-keep]:
        if step != best:
            shutil.rmtree(folder / f"{PREFIX}{step}")


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    found = steps(folder)
    return folder / f"{PREFIX}{found[-1]}" if found else None


def clear(folder: Path) -> None:
    """Remove what killed checkpoints left. Only for who holds the run: a live one is writing such a folder."""
    for leftover in folder.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def readable(checkpoint: Path) -> Iterator[None]:
    """A checkpoint that cannot be read as a refusal."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise Refusal(
            f"{checkpoint} cannot be read: {str(error).splitlines()[0]}",
            f"rm -r {checkpoint}, then the same command: the run goes on from the checkpoint before it, or from the start",
        ) from error


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint."""
    with readable(checkpoint):
        state = dict(json.loads((checkpoint / "training/state.json").read_text(encoding="utf-8")))
        return state | {name: state[name] for name in ("step", "cursors")}


def restore(checkpoint: Path, policy: Policy, optimiser: torch.optim.Optimizer, average: Average | None) -> None:
    """Put back optimiser, average and random state; the weights were loaded from the folder itself."""
    from safetensors.torch import load_file

    with readable(checkpoint):
        tensors = load_file(checkpoint / "training/state.safetensors")
        load_state(optimiser, policy.model, _part(tensors, "optimiser/"))
        if average is not None:
            device = policy.device
            average.weights = {name: value.to(device) for name, value in _part(tensors, "average/").items()}
        torch.set_rng_state(tensors["random"])


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
