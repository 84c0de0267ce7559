"""The models that an average is made of: folders of whole weights, read a tensor at a time.

Reads safetensors of runs, folders and the hub; an adapter is merged into a temporary folder first. Refuses models that cannot be
averaged with one another: another tokenizer, other tensors or shapes."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

LEFT_BEHIND = ("*.safetensors", "README.md", "adapter_config.json", "training")


@dataclass(frozen=True)
class Parent:
    """A model by its own folder, which holds whole weights."""

    name: str
    """As the command names it."""
    folder: Path
    record: Mapping[str, Any]
    """run.json; empty for a folder."""

    @cached_property
    def files(self) -> dict[str, Path]:
        """Tensor name → file."""
        return {name: path for path in sorted(self.folder.glob("*.safetensors")) for name in names_of(path)}


@contextmanager
def opened(name: str, runs: str) -> Iterator[Parent]:
    """The model's folder; an adapter is merged into a temporary one, which goes afterwards."""
    from data.config import ModelSettings
    from data.fingerprint import model_folder
    from data.refusal import Refusal
    from trainer.journal import Run

    run = name.removeprefix("run:") if name.startswith("run:") else None
    record = (Run(run, Path(runs) / run).record or {}) if run else {}
    adapter = Path(runs) / run / "final" if run else Path(name)
    if (adapter / "adapter_config.json").is_file():
        with tempfile.TemporaryDirectory(dir=runs if Path(runs).is_dir() else None) as place:
            _merge(adapter, Path(place), runs)
            yield Parent(name, Path(place), record)
        return
    folder = model_folder(ModelSettings(path=name), runs)
    if not any(folder.glob("*.safetensors")):
        raise Refusal(f"{folder} holds no *.safetensors weights", "convert them: model.save_pretrained(folder)")
    yield Parent(name, folder, record)


def _merge(folder: Path, place: Path, runs: str) -> None:
    from data.config import ModelSettings
    from data.fingerprint import model_folder
    from data.refusal import Refusal
    from trainer.adapter import merged
    from trainer.forward import save

    stored = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    start = model_folder(ModelSettings(path=stored["base_model_name_or_path"]), runs)
    try:
        save(merged(str(folder), start=str(start)), str(place))
    except (ValueError, KeyError) as error:
        raise Refusal(f"the adapter in {folder} does not fit {start}: {error}", "give the merged model") from error
    for source in (start, folder):  # the files themselves: another spelling of the same JSON is another tokenizer
        copy_beside(source, place, skip=("config.json", "generation_config.json"))


def copy_beside(source: Path, target: Path, skip: Sequence[str] = ()) -> None:
    """Everything but weights and cards."""
    left = {path for pattern in LEFT_BEHIND for path in source.glob(pattern)}
    for path in source.iterdir():
        if path.is_file() and path not in left and path.name not in skip:
            shutil.copyfile(path, target / path.name)


def refuse_different(parents: Sequence[Parent]) -> None:
    """Refuse what cannot be averaged with the first: another tokenizer, other tensors, other shapes."""
    from data.fingerprint import tokenizer_fingerprint
    from data.refusal import Refusal

    first, *others = parents
    shapes, tokenizer = shapes_of(first), tokenizer_fingerprint(first.folder)
    for other in others:
        theirs = shapes_of(other)
        if tokenizer_fingerprint(other.folder) != tokenizer:
            raise Refusal(f"{first.name} and {other.name} have different tokenizers", "average models of one tokenizer")
        if names := sorted(set(shapes) ^ set(theirs)):
            where = first.name if names[0] in shapes else other.name
            raise Refusal(f"only {where} has the tensor {names[0]}", "average models of one architecture")
        for name, shape in shapes.items():
            if shape != theirs[name]:
                raise Refusal(
                    f"{name} has shape {shape} in {first.name} and {theirs[name]} in {other.name}",
                    "average models of one architecture",
                )


def names_of(path: Path) -> list[str]:
    """Tensor names of one file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def shapes_of(parent: Parent) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, from the headers alone."""
    from safetensors import safe_open

    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(set(parent.files.values())):
        with safe_open(path, framework="pt") as file:
            found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return found


def read(parent: Parent, name: str) -> Tensor:
    """One tensor in its own dtype."""
    from safetensors import safe_open

    with safe_open(parent.files[name], framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor
