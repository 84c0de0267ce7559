"""Short ways to a component's values, and the real Faroese text where it stands."""

from __future__ import annotations

import os
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
