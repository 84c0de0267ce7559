"""Fingerprints of models and tokenizers from their files alone; no weights are loaded.

Reads safetensors headers and bytes, or a GGUF file. Caches by path, size and time. Refuses an empty folder and one without weights,
a GGUF file that is not named, and hub ids that cannot be had."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.config import ModelSettings, Recipe
from data.keys import digest
from data.refusal import Refusal

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "special_tokens_map.json",
)
TOKENIZER_SETTINGS = ("bos_token", "eos_token", "unk_token", "add_bos_token", "add_eos_token", "add_prefix_space")
CHANGELESS = (
    "_name_or_path",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
)  # of config.json: no value follows
BLOCK = 1 << 24  # bytes read at a time: weights never lie in memory whole


def model_folder(model: ModelSettings, runs: str | Path) -> Path:
    """The local folder of a model: as given, of a run, or fetched from the hub."""
    path = model.path
    if path.startswith("run:"):
        name = path.removeprefix("run:")
        folder = Path(runs) / name / "final"
        if not folder.is_dir():
            raise Refusal(
                f"no finished run named {name} in {runs}", 'python -m data sql "SELECT run, status FROM runs"'
            )
        return _whole_model(folder)
    if Path(path).is_dir():
        return _readable(model, Path(path))
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise Refusal(f"no model folder at {path}", "give a folder, a hub id or run:NAME, e.g. student.path=run:NAME")
    return _from_hub(model)


def _readable(model: ModelSettings, folder: Path) -> Path:
    """The folder as given, unless it is empty or its GGUF file is not named: which of its files is the model says the recipe, so
    that a file put beside it later changes no fingerprint."""
    if not any(folder.iterdir()):
        raise Refusal(f"{folder} is empty", "put the model there, as save_pretrained does, or give another folder")
    packed = sorted(path.name for path in folder.glob("*.gguf"))
    if packed and not model.gguf_file and not any(folder.glob("*.safetensors")) and model.initial == "pretrained":
        names = ", ".join(packed)
        raise Refusal(
            f"{folder} holds {names} and no safetensors, and the recipe names no GGUF file",
            f"student.gguf_file={packed[0] if len(packed) == 1 else 'ONE_OF_THEM'}, or teacher.gguf_file where it is the teacher's",
        )
    return _whole_model(folder)


def gigabytes(model: ModelSettings, folder: Path) -> float:
    """10⁹ bytes of the weights' files."""
    files = [folder / model.gguf_file] if model.gguf_file else list(folder.glob("*.safetensors"))
    return sum(path.stat().st_size for path in files if path.is_file()) / 1e9


SLOW = 1.0  # GB of weights from which on loading them is said: some seconds from a disk


def loading(model: ModelSettings, folder: Path) -> str | None:
    """A line to be printed before weights are loaded; None where that takes no time."""
    size = gigabytes(model, folder) if model.initial == "pretrained" else 0.0
    return f"loading {model.path} ({size:.1f} GB) …" if size >= SLOW else None


def _whole_model(folder: Path) -> Path:
    """The folder, unless it holds an adapter without its model: the adapter's file would pass for the weights."""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise Refusal(
            f"{folder} holds an adapter alone, which is no model by itself",
            "train the run with optimiser.lora.merge=true, or merge it: trainer.adapter.merged(FOLDER)",
        )
    return folder


def _from_hub(model: ModelSettings) -> Path:
    import huggingface_hub

    patterns = (
        [model.gguf_file, "*.json"] if model.gguf_file else ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
    )
    try:
        return Path(huggingface_hub.snapshot_download(model.path, revision=model.revision, allow_patterns=patterns))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Refusal(
            f"no model {model.path}: not a folder here, and not to be had from the hub ({reason})",
            "give a folder that holds it, e.g. student.path=/models/NAME",
        ) from error


def identity(model: ModelSettings, runs: str | Path, seed: int = 0) -> dict[str, Any]:
    """The row of `models` for these weights; `model_id` hashes what changes values, nothing else. `seed` is of random weights."""
    if model.endpoint is not None:
        return _served(model)
    folder = model_folder(model, runs)
    values: dict[str, Any] = {
        "weights": weights_fingerprint(folder, model.gguf_file)
        if model.initial == "pretrained"
        else _random(folder, seed),
        "tokenizer": tokenizer_fingerprint(folder, model.gguf_file),
        "chat_template": digest(chat_template(model, folder)),
        "dtype": model.dtype,
        "head_dtype": "float32",
        "quantisation": "gguf" if model.gguf_file else None,
        "adapter": None,
    }
    run = model.path.removeprefix("run:") if model.path.startswith("run:") else None
    return {
        "model_id": digest([values, _architecture(folder)])[:16],
        "name": model.path,
        "revision": model.revision,
        "attention": "sdpa",
        "parent_run": run,
        "end_tokens": end_tokens(folder),
        **values,
    }


def _served(model: ModelSettings) -> dict[str, Any]:
    """A model behind an endpoint is known by its name, and by what every request adds; nothing of it can be fingerprinted."""
    named = digest(["api", model.path, model.revision, dict(model.request)])
    return {"model_id": named[:16], "name": model.path, "revision": model.revision}


def _random(folder: Path, seed: int) -> str:
    """Weights that are drawn, not read: named by the architecture they are drawn for, and the seed."""
    return digest(["random", _architecture(folder), seed])


def _architecture(folder: Path) -> str:
    """What the configuration adds to the weights (rotary base, windows, scales) and which tokens end a text."""
    config = {k: v for k, v in _json(folder / "config.json").items() if k not in CHANGELESS}
    end = _json(folder / "generation_config.json").get("eos_token_id")
    return digest(json.dumps([config, end], sort_keys=True))  # as text: a configuration may hold Infinity


def end_tokens(folder: Path) -> str:
    """The ids that the model's own files say end a text, in rising order: "1 106"; "" where only the tokenizer names one."""
    config = _json(folder / "config.json")
    parts = (_json(folder / "generation_config.json"), config, config.get("text_config") or {})
    named = [ids if isinstance(ids, list) else [ids] for part in parts if (ids := part.get("eos_token_id")) is not None]
    return " ".join(map(str, sorted({i for ids in named for i in ids})))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise Refusal(f"{path} is no JSON: {error}", "copy the model's folder again") from error
    if not isinstance(content, dict):
        raise Refusal(f"{path} is no JSON object", "copy the model's folder again")
    return content


def chat_template(model: ModelSettings, folder: Path) -> str | None:
    """The Jinja text of the model's chat template: the recipe's, the folder's, or None (GGUF files carry their own)."""
    if model.chat_template:
        path = Path(model.chat_template)
        is_file = len(model.chat_template) < 256 and "{" not in model.chat_template and path.is_file()
        if not is_file and "{" not in model.chat_template:
            raise Refusal(
                f"no chat template at {model.chat_template}", "student.chat_template=FILE.jinja, or Jinja text"
            )
        return path.read_text(encoding="utf-8") if is_file else model.chat_template
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return _json(folder / "tokenizer_config.json").get("chat_template")


def tokenizer_fingerprint(folder: Path, gguf_file: str | None = None) -> str:
    """sha256 over the tokenizer's files (or the GGUF file that holds it), and the special tokens that its settings name."""
    files = (
        [folder / gguf_file] if gguf_file else [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    )
    if not files:
        raise Refusal(
            f"{folder} holds no tokenizer", "save the tokenizer beside the weights, as tokenizer.save_pretrained does"
        )
    settings = {} if gguf_file else _json(folder / "tokenizer_config.json")
    chosen = {name: settings[name] for name in TOKENIZER_SETTINGS if name in settings}
    return digest([*([f.name, _cached("bytes", [f])] for f in files), chosen])


def weights_fingerprint(folder: Path, gguf_file: str | None = None) -> str:
    """sha256 over sorted (tensor name, dtype, shape, bytes): the same for any sharding of the same weights."""
    if gguf_file:
        if not (folder / gguf_file).is_file():
            raise Refusal(f"{folder} holds no {gguf_file}", f"ls {folder}")
        return _cached("bytes", [folder / gguf_file])
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise Refusal(
            f"{folder} holds no *.safetensors weights",
            "convert them: model.save_pretrained(folder, safe_serialization=True)",
        )
    return _cached("tensors", files)


def _cached(kind: str, files: list[Path]) -> str:
    stats = [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    read = _tensors if kind == "tensors" else _bytes
    return remembered("fingerprints", digest([kind, stats]), lambda: read(files))


def remembered(what: str, key: str, compute: Callable[[], str]) -> str:
    """A text that is slow to compute and depends on `key` alone, kept in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "grpo-kd" / what / key
    if cache.is_file():
        return cache.read_text()
    value = compute()
    cache.parent.mkdir(parents=True, exist_ok=True)
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}")
    temporary.write_text(value)
    temporary.replace(cache)
    return value


def _bytes(files: list[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                total.update(block)
    return total.hexdigest()


def _tensors(files: list[Path]) -> str:
    entries = []
    for path in files:
        with path.open("rb") as file:
            try:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length))
            except (struct.error, ValueError) as error:
                raise Refusal(f"{path} is no safetensors file: {error}", "copy the weights again") from error
            for name, tensor in header.items():
                if name == "__metadata__":
                    continue
                start, end = tensor["data_offsets"]
                file.seek(8 + length + start)
                entries.append([name, tensor["dtype"], tensor["shape"], _span(file, end - start)])
    return digest(sorted(entries))


def _span(file: Any, length: int) -> str:
    total = hashlib.sha256()
    while length:
        block = file.read(min(BLOCK, length))
        if not block:
            raise Refusal(f"{file.name} is cut short", "copy the weights again")
        total.update(block)
        length -= len(block)
    return total.hexdigest()


def policy_model(recipe: Recipe) -> ModelSettings:
    """The model that the pool is sampled from and training starts at."""
    import dataclasses

    if recipe.policy == "student":
        return recipe.student
    if not recipe.policy.startswith("run:"):
        raise Refusal(f"policy={recipe.policy} is neither student nor run:NAME", "policy=run:NAME")
    return dataclasses.replace(recipe.student, path=recipe.policy, revision=None, gguf_file=None, initial="pretrained")
