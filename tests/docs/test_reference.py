"""docs/reference.md is what the code says now, and everything in it has a description."""

from __future__ import annotations

import dataclasses
import importlib
import re
import runpy
from pathlib import Path

import pytest

from data.contract import TABLES
from data.settings import file_settings, settings_of
from data.views import VIEWS
from factory.config import FactoryRecipe, kinds
from factory.rewards import names
from trainer.config import TrainerRecipe
from trainer.objectives import OBJECTIVES

ROOT = Path(__file__).parents[2]
TOLD = runpy.run_path(str(ROOT / "docs" / "reference.py"))
PAGE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
FILES = [("factory.rewards", name) for name in names()] + [("factory.benchmarks", kind) for kind in kinds()]


def test_the_page_is_what_its_command_writes():
    assert TOLD["render"]() == PAGE, "run: python docs/reference.py"


@pytest.mark.parametrize("recipe", [FactoryRecipe, TrainerRecipe])
def test_every_setting_has_a_description_and_stands_in_the_page(recipe):
    for setting in settings_of(recipe):
        if ".NAME." not in setting.name:
            key = re.sub(r"^(factory|trainer)\.", "", setting.name)
            assert setting.doc or key in ("factory", "trainer"), setting.name
            assert key in ("factory", "trainer") or f"| `{key}` |" in PAGE, setting.name


@pytest.mark.parametrize("name", TOLD["COMMANDS"])
def test_every_setting_of_a_small_command_has_a_description(name):
    assert [s.name for s in settings_of(TOLD["COMMANDS"][name]) if not s.doc] == []


@pytest.mark.parametrize(("package", "name"), FILES)
def test_every_component_and_benchmark_has_a_description_and_so_has_each_setting(package, name):
    module = importlib.import_module(f"{package}.{name}")
    listed = {setting.name: setting.doc for setting in file_settings(Path(module.__file__))}
    assert set(listed) == {f.name for f in dataclasses.fields(module.Settings)}
    assert all(listed.values())
    assert f"### {name}\n\n{module.__doc__.splitlines()[0]}" in PAGE
    if package == "factory.rewards":  # what a component owes its reader
        assert re.search(r"\bRange\b", module.__doc__) and re.search(r"\bCannot see\b|\bCost\b", module.__doc__)


def test_every_objective_has_a_formula_and_a_source():
    rows = {row[0].strip("`"): row for row in TOLD["objectives"]()}
    assert list(rows) == list(OBJECTIVES)
    assert [n for n, row in rows.items() if not re.match(r"c = |as `grpo`", row[-1])] == []
    assert [n for n, row in rows.items() if n not in TOLD["ALIKE"] and "Source: " not in row[-1]] == []
    alike = {n for n, row in OBJECTIVES.items() if row.coefficient is OBJECTIVES["grpo"].coefficient} - {"grpo"}
    assert alike == set(TOLD["ALIKE"])


def test_every_column_has_a_description():
    for name, table in (TABLES | VIEWS).items():
        assert table.one_row_per and all(column.doc for column in table.columns), name


def test_every_file_of_conf_says_what_it_is():
    assert [name for name, says in TOLD["conf_files"]() if not says] == []
