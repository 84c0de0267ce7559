"""Puts the demo's text on disk. Writes the files of files.py and, last, world.json with their sha256.

A file that already holds the right bytes is left alone, so that its time stays. Refuses a seed below zero, and a folder
that cannot be written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from data.demo.files import texts
from data.demo.world import draw
from data.refusal import Refusal

SUMMARY = "world.json"


def write(folder: Path, seed: int = 0) -> list[str]:
    """Writes the world of `seed` below `folder` and returns the names of the files that were new or changed.

    Each file appears whole or not at all; world.json is removed first and written last, so while it stands every other
    file is of its seed. Raises Refusal."""
    if seed < 0:
        raise Refusal(f"the seed {seed} is below zero", "python -m data.demo --seed 0")
    contents = texts(draw(seed))
    contents[SUMMARY] = _summary(contents, seed)
    try:
        changed = [name for name, text in contents.items() if not _holds(folder / name, text)]
        if changed:
            (folder / SUMMARY).unlink(missing_ok=True)
        for name in changed:
            _replace(folder / name, contents[name])
    except OSError as error:
        raise Refusal(f"{folder} cannot be written: {error}", "python -m data.demo --out FOLDER") from error
    return changed


def _summary(contents: dict[str, str], seed: int) -> str:
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in contents.items()}
    return json.dumps({"seed": seed, "sha256": hashes}, indent=1) + "\n"


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(text.encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
