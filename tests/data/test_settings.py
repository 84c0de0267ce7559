"""How `--help` lays out what it lists: two columns that never touch, whole sentences, every name once, and nothing heavy loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import factory.__main__
import trainer.__main__
from data.settings import NAMES, constructed, described, first_comment, listed
from factory.rewards import names
from trainer.objectives import OBJECTIVES

ROOT = Path(__file__).parents[2]


def test_a_name_never_runs_into_its_text() -> None:
    wide = "n" * (NAMES + 9)
    assert described([("a", "short"), (wide, "text"), (wide, "")]) == [
        f"  a{' ' * (NAMES - 1)}  short", f"  {wide}", f"  {' ' * NAMES}  text", f"  {wide}",
    ]  # fmt: skip
    shown = [*trainer.__main__.COMMAND.help().splitlines(), *factory.__main__.COMMAND.help().splitlines()]
    recipes = [path.stem for path in (ROOT / "conf" / "recipe").glob("*.yaml")]
    for name in recipes:
        assert sum(line.startswith(f"  {name} ") for line in shown) == 2, name


def test_a_comment_that_goes_on_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text("# @package model\n# It needs a folder;\n# where there is none, make one.\n# More.\npath: x\n")
    assert first_comment(path) == "It needs a folder; where there is none, make one."
    path.write_text("# A sentence that stops;\npath: x\n# another\n")
    assert first_comment(path) == "A sentence that stops;"
    ends = {first_comment(found)[-1:] for found in (ROOT / "conf").glob("*/*.yaml")}
    assert not ends & {",", ";"}


def test_help_names_every_objective_and_every_component_and_loads_no_torch() -> None:
    assert sorted(constructed(ROOT / "trainer" / "objectives" / "__init__.py", "Objective")) == sorted(OBJECTIVES)
    for module, known in (("trainer", list(OBJECTIVES)), ("factory", names())):
        code = f"import sys, {module}.__main__ as m; print(m.COMMAND.help()); print({{'torch', 'pyarrow'}} & set(sys.modules))"
        shown = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT)
        assert shown.endswith("set()\n") and "\n".join(listed(known)) in shown
