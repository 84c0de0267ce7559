"""Two made languages, and commands that train, widen and measure a tiny model on either."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from two_languages import ENGLISH, FAROESE, World, made
from two_languages import bits_per_byte as measure

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return World(tmp_path)


@pytest.fixture(scope="session")
def made_texts() -> Callable[[str, int, int], list[str]]:
    return lambda language, count, seed: made({"en": ENGLISH, "fo": FAROESE}[language], count, seed)


@pytest.fixture(scope="session")
def bits_per_byte() -> Callable[[Path, list[str]], float]:
    return measure


@pytest.fixture(scope="session")
def real_text() -> Callable[[str], list[str]]:
    """Lines of a file below FAROESE_TEXT; of a .tsv its last column. Skips where the text is not there."""
    folder = ROOT / os.environ.get("FAROESE_TEXT", "../shared/faroese")

    def lines(name: str) -> list[str]:
        if not (folder / name).is_file():
            pytest.skip(f"no {name} below FAROESE_TEXT ({folder})")
        found = (folder / name).read_text(encoding="utf-8").splitlines()
        return [line.split("\t")[-1] for line in found[1:]] if name.endswith(".tsv") else found

    return lines
