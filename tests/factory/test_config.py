"""The factory's settings: few, described, and read somewhere."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from data.settings import field_docs
from factory import config

CLASSES = [
    getattr(config, n) for n in ("EngineSettings", "ImportSource", "CorpusSource", "Endpoint", "FactorySettings")
]
SOURCE = "\n".join(
    p.read_text(encoding="utf-8") for p in Path(config.__file__).parent.rglob("*.py") if p.name != "config.py"
)


@pytest.mark.parametrize("cls", CLASSES)
def test_settings_are_at_most_twelve_described_and_read(cls):
    names = [f.name for f in dataclasses.fields(cls)]
    assert len(names) <= 12 and set(names) <= set(field_docs(cls))
    for name in names:
        assert re.search(rf"\.{name}\b", SOURCE), f"{cls.__name__}.{name} is read nowhere"


def test_the_stages_of_the_settings_exist():
    from factory.stages import MODULES

    assert set(config.FactorySettings().stages) <= set(MODULES)
    for module in MODULES.values():
        assert Path(config.__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py").is_file()
