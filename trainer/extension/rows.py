"""Weights with a row for every token: what is not a matrix of the vocabulary stays byte for byte.

Reads a model folder's safetensors, one file at a time, and its config.json. Writes both into another folder. Refuses models whose
matrices of the vocabulary are not found in the files."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.refusal import Refusal
from trainer.parents import Parent, names_of, read

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Rows:
    """The new rows of a matrix of the vocabulary."""

    first: int
    """Id of the first new token."""
    parts: Sequence[Sequence[int]]
    """Old ids of each new token."""
    start: str
    """pieces: the mean of the parts' rows. random: drawn as the architecture draws them, under `seed`."""
    spread: float
    """Standard deviation of random rows."""
    seed: int = 0

    @property
    def end(self) -> int:
        """One more than the last new id."""
        return self.first + len(self.parts)


def grown_matrix(old_vd: Tensor, rows: Rows, seed: int) -> Tensor:
    """(v, d) or (v,) → the same with the new tokens' rows, in its dtype. Rows of ids that nobody had are the mean of all.

    A matrix that was padded beyond the tokenizer keeps its height where that is enough."""
    import torch

    height = old_vd.shape[0]
    new = torch.empty((max(height, rows.end), *old_vd.shape[1:]), dtype=old_vd.dtype)
    new[:height] = old_vd
    if rows.first > height:
        new[height : rows.first] = old_vd.float().mean(0).to(old_vd.dtype)
    if rows.start == "random":
        drawn = torch.empty((len(rows.parts), *old_vd.shape[1:]), dtype=torch.float32)
        drawn.normal_(0.0, rows.spread, generator=torch.Generator().manual_seed(seed))
        new[rows.first : rows.end] = drawn.to(old_vd.dtype)
        return new
    flat = torch.tensor([id_ for ids in rows.parts for id_ in ids])
    offsets = torch.tensor([0, *(len(ids) for ids in rows.parts)][:-1]).cumsum(0)
    table = old_vd.float().reshape(height, -1)
    means = torch.nn.functional.embedding_bag(flat, table, offsets, mode="mean")
    new[rows.first : rows.end] = means.reshape(-1, *old_vd.shape[1:]).to(old_vd.dtype)
    return new


def of_vocabulary(folder: Path, trust_remote_code: bool = False) -> set[str]:
    """Names, by their last two parts, of the parameters whose height is the vocabulary: embedding, head, its bias.

    Found by making the model on torch's meta device at two sizes. Refuses one whose width or middle depends on the vocabulary."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shapes = []
    for more in (0, 1):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        config.get_text_config().vocab_size += more
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        shapes.append({name: value.shape for name, value in model.state_dict().items()})
    before, after = shapes
    found = {name for name, shape in before.items() if after[name] != shape}
    for name in found:
        if after[name][1:] != before[name][1:]:
            raise Refusal(
                f"{name} has shape {tuple(before[name])}, which grows with the vocabulary elsewhere than in its rows",
                "give a model of another family",
            )
    return {_last(name) for name in found}


def _last(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def write_weights(parent: Parent, target: Path, rows: Rows, names: set[str]) -> None:
    """Every file of the parent's weights, with grown matrices; the index says the new size."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    grown = sorted(name for name in parent.files if _last(name) in names)
    if not grown:
        raise Refusal(
            f"{parent.folder} holds none of {', '.join(sorted(names))}", f"python -m data doctor, or ls {parent.folder}"
        )
    added = 0
    for path in sorted(set(parent.files.values())):
        tensors = {}
        for name in names_of(path):
            own = read(parent, name)
            if name in grown:
                larger = grown_matrix(own, rows, rows.seed + grown.index(name))
                added += (larger.numel() - own.numel()) * own.element_size()
                own = larger
            tensors[name] = own.contiguous()
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {"format": "pt"}
        save_file(tensors, target / path.name, metadata=metadata)
    _write_index(parent.folder, target, added)


def _write_index(source: Path, target: Path, added: int) -> None:
    if not (source / INDEX).is_file():
        return
    index = json.loads((source / INDEX).read_text(encoding="utf-8"))
    if "total_size" in index.get("metadata", {}):
        index["metadata"]["total_size"] += added
    (target / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def grown_config(config: dict[str, Any], height: int) -> dict[str, Any]:
    """config.json with the new height, where the old one stands; nothing else changes."""
    made = copy.deepcopy(config)
    inside = made.get("text_config")
    place = inside if isinstance(inside, dict) and "vocab_size" not in made else made
    place["vocab_size"] = height
    return made
