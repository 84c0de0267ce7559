"""Short ways to a component's values, and the real Faroese text where it stands."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factory.rewards import Batch, component

ROOT = Path(__file__).parents[3]


@pytest.fixture
def value() -> Callable[..., float | None]:
    """value(text, use=…, settings…, references=[…], answers=[…], …): one sample's value."""
    lists = Batch.__dataclass_fields__.keys()

    def score(text: str, **given: Any) -> float | None:
        batch = Batch.of_texts([text], **{k: [v] for k, v in given.items() if k in lists})
        [reward] = component({k: v for k, v in given.items() if k not in lists}).score(batch)
        assert (reward.value is None) == (reward.valid is False)
        assert reward.value is not None or reward.detail
        return reward.value

    return score


@pytest.fixture
def faroese_text() -> Callable[[str], list[str]]:
    """Lines of a file below FAROESE_TEXT; skips where the text is not there."""
    folder = ROOT / os.environ.get("FAROESE_TEXT", "../shared/faroese")

    def lines(name: str) -> list[str]:
        if not (folder / name).is_file():
            pytest.skip(f"no {name} below FAROESE_TEXT ({folder})")
        return (folder / name).read_text(encoding="utf-8").splitlines()

    return lines


@pytest.fixture
def dictionary() -> str:
    """The .dic of a small made dictionary: hon er á ø Ísoy Tórshavn bátur, with the forms bátar and bátin."""
    return str(Path(__file__).with_name("small.dic"))


@pytest.fixture(scope="session")
def dictionary_fo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The .dic of the npm package dictionary-fo: FAROESE_DICTIONARY, or fetched; skips where npm or its registry cannot be had."""
    if given := os.environ.get("FAROESE_DICTIONARY"):
        return given
    folder = tmp_path_factory.mktemp("npm")
    if shutil.which("npm") is None:
        pytest.skip("no npm to fetch dictionary-fo with")
    install = ["npm", "install", "--silent", "--no-audit", "--prefix", str(folder), "dictionary-fo@2.1.0"]
    done = subprocess.run(install, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot fetch dictionary-fo: {done.stderr.strip()[:200]}")
    return str(folder / "node_modules" / "dictionary-fo" / "index.dic")
