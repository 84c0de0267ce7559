"""The whole state of a run at one step, in a folder that appears at once: weights, optimiser, average, cursors, random state.

Writes checkpoint-STEP under the run's folder: a model folder that transformers loads (of a run with adapters: an adapter folder of
peft's), and in training/ safetensors and JSON. Where the weights are averaged the folder is the average, as `final` is: what a
probe asked. Reads the newest one. Nothing is pickled. A folder without its final name is no checkpoint and is removed."""

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
from trainer.adapter import adapted, adapter_weights, merged_weights, read_adapter, write_adapter
from trainer.ema import Average, load, replaced
from trainer.forward import Policy, save
from trainer.fsdp import is_spread, kept, placed, whole, whole_state
from trainer.optimiser import load_state, state_tensors, trained
from trainer.references import Copies

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
    *,
    copies: Mapping[str, Tensor] | None = None,
    first: bool = True,
) -> None:
    """Save the state after `step`. `state` is JSON: cursors, stop rules, seconds. copies: `Copies.tensors`.

    Of an adapted model only the adapters are written. The first process writes; where the weights are spread (fsdp.py) all the
    others must call this too, or the first waits for their shares."""
    from safetensors.torch import save_file

    averaged = average.weights if average else None
    with replaced(policy.model, averaged):
        weights = gathered(policy, first)
    tensors = kept(_state(policy, optimiser, average, copies or {}), first)
    if not first:
        return
    tensors["random"] = torch.get_rng_state()
    with appearing(folder / f"{PREFIX}{step}") as temporary:
        with replaced(policy.model, averaged if weights is None else None):
            save_weights(policy, temporary, weights)
        (temporary / "training").mkdir()
        save_file(
            {name: value.contiguous() for name, value in tensors.items()}, temporary / "training/state.safetensors"
        )
        text = json.dumps({"step": step, **state}, indent=1, sort_keys=True)
        (temporary / "training/state.json").write_text(text + "\n", encoding="utf-8")


def _state(
    policy: Policy, optimiser: torch.optim.Optimizer, average: Average | None, copies: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    for name, value in state_tensors(optimiser, policy.model):
        yield f"optimiser/{name}", value
    if average is not None:  # the folder's model is the average in the model's dtype
        for name, value in average.weights.items():
            yield f"average/{name}", whole(value)
        for name, parameter in trained(policy.model).items():
            yield f"weights/{name}", whole(parameter.detach())
    for name, value in copies.items():
        yield f"copies/{name}", whole(value)


def gathered(policy: Policy, first: bool, *, merge: bool = False) -> dict[str, Tensor] | None:
    """The weights to write: the adapters' (or, with `merge`, all with them merged in), or what was gathered from all processes.

    None where the model holds its own weights whole and has no adapters: `save` reads them there. Other processes get nothing."""
    if adapted(policy.model):
        return kept(merged_weights(policy.model) if merge else adapter_weights(policy.model), first)
    return kept(whole_state(policy.model), first) if is_spread(policy.model) else None


def save_weights(policy: Policy, folder: Path, weights: Mapping[str, Tensor] | None, start: str | None = None) -> None:
    """Write what `gathered` gave, and the tokenizer. start: the model that an adapter belongs to, by the name to write down."""
    if weights is None:
        save(policy, str(folder))
        return
    if all(".lora_" in name for name in weights):
        write_adapter(policy.model, weights, folder, start or str(policy.model.name_or_path))
    else:
        policy.model.save_pretrained(str(folder), state_dict=dict(weights))
    policy.tokenizer.save_pretrained(str(folder))


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


def restore(
    checkpoint: Path,
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    average: Average | None,
    copies: Copies | None = None,
) -> None:
    """Put back optimiser, average, copies, random state, adapters, and the weights beside an average; others came from the folder.

    However many processes wrote it, each of these takes its share."""
    from safetensors.torch import load_file

    with readable(checkpoint):
        if adapted(policy.model):
            read_adapter(policy, checkpoint)
        tensors = load_file(checkpoint / "training/state.safetensors")
        load_state(optimiser, policy.model, _part(tensors, "optimiser/"))
        parameters = trained(policy.model)
        if average is not None:
            average.weights = {n: placed(v, parameters[n]) for n, v in _part(tensors, "average/").items()}
            load(policy.model, _part(tensors, "weights/"))
        if copies is not None:
            found = _part(tensors, "copies/").items()
            copies.put({name: placed(value, parameters[name.split("/", 1)[1]]) for name, value in found})
        torch.set_rng_state(tensors["random"])


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
