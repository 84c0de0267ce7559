"""Every file of conf/benchmark is an entry that its kind takes, and can be chosen by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from data.command import CONF
from factory.benchmarks import benchmark

FILES = sorted((CONF / "benchmark").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_entry_is_taken_by_its_kind(file: Path):
    text = file.read_text(encoding="utf-8")
    assert text.startswith(f"# @package factory.benchmarks.{file.stem}\n# ")
    assert benchmark(file.stem, yaml.safe_load(text)).kind != "prompts"


def test_entries_are_chosen_by_name(command):
    code, out, err = command(
        f"benchmark=[{','.join(f.stem for f in FILES)}]", "stages=[evaluate]", "benchmarks.foqa.shots=-1"
    )
    assert code == 2 and "shots=-1 is outside" in err and not out
    code, _, err = command("benchmark=[foq]", "stages=[evaluate]")
    assert code == 2 and "no benchmark named 'foq': did you mean 'foqa'" in err
