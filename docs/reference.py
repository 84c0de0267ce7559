"""Writes docs/reference.md from the contract, the settings, the components, the objectives and the kinds of benchmark.

python docs/reference.py

Reads dataclasses, docstrings and the first comments of conf/. It stands outside the packages, since it is the one reader of both
`factory` and `trainer`. A test fails where the page is behind, and where anything in it has no description."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data.contract import TABLES
from data.settings import Setting, file_settings, first_comment, settings_of
from data.views import VIEWS
from factory.config import FactoryRecipe, FactorySettings, kinds
from factory.rewards import names
from trainer.average_config import AverageSettings
from trainer.config import TrainerSettings
from trainer.drift.config import DriftSettings
from trainer.extension.settings import ExtendSettings
from trainer.objectives import OBJECTIVES
from trainer.rounds_config import RoundsSettings

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference.md"
ALIKE = {"dapo": "sums over tokens in place of samples", "dr_grpo": "divides by a constant"}  # same function as grpo
GROUPS = ("engine", "endpoint", "executor", "model", "corpus", "benchmark")
COMMANDS: dict[str, type] = {
    "trainer.drift": DriftSettings,
    "trainer.rounds": RoundsSettings,
    "trainer.average": AverageSettings,
    "trainer.extend": ExtendSettings,
}

HEAD = """# Reference

Written by `python docs/reference.py` from the code: edit that. A dash is null, or nothing that one would write. `--help` of each
command says the same on a terminal.

[Tables and views](#tables-and-views) · [Settings of a recipe](#settings-of-a-recipe) ·
[of the factory](#settings-of-the-factory) · [of the trainer](#settings-of-the-trainer) ·
[Components](#components) · [Objectives](#objectives) · [Kinds of benchmark](#kinds-of-benchmark) ·
[Small commands](#small-commands) · [Files of conf](#files-of-conf)"""

COMPONENTS = """## Components

A component is an entry of `components`: `NAME: {use: FILE, …its settings}`. Beside the settings below an entry may say `span`
(`answer` or `whole`: whether it sees a reasoning model's thought), `scorer` (whose scores it reads, where it reads scores), `by`
(who replies, where it asks a model) and `method` (which kind of teacher's answers it compares with). A function of one's own is
`use: path.to:function` ([how](how-reward.md))."""

OBJECTIVE_TEXT = """## Objectives

`objective=NAME`, or a weighted sum such as `objective={seq_tis: 1, naive: 0.1}`. c is what the gradient of a token's log π is
multiplied by; ρ = π/μ of a token, w of a whole sample, A the advantage. *Scope*: what must be known before the first coefficient.
*Sum*: how tokens are added up, where `losses.aggregation` is null. Which fits when: [by ESS](how-objective.md)."""


def render() -> str:
    """The text of docs/reference.md."""
    parts = [
        HEAD,
        *_tables(),
        _section(
            "Settings of a recipe", "Shared by both commands: `key=value`, or at the root of a recipe.", FactoryRecipe
        ),
        _section(
            "Settings of the factory",
            "`key=value` for `python -m factory`; in a recipe under `factory:`.",
            FactorySettings,
        ),
        _section(
            "Settings of the trainer",
            "`key=value` for `python -m trainer`; in a recipe under `trainer:`.",
            TrainerSettings,
        ),
        COMPONENTS,
        *(_file(name, ROOT / "factory/rewards" / f"{name}.py") for name in names()),
        OBJECTIVE_TEXT,
        _grid(("objective", "scope", "sum", "reads", "coefficient and source"), objectives()),
        "## Kinds of benchmark\n\nAn entry of `factory.benchmarks`: `NAME: {kind: KIND, …}`; `prompts` where no kind is named.",
        *(_file(name, path) for name, path in kinds().items()),
        "## Small commands\n\nThey take `key=value` and no recipe, but `trainer.rounds` and `trainer.extend`, which take both.",
        *(f"### python -m {name}\n\n{_settings(settings_of(cls))}" for name, cls in COMMANDS.items()),
        "## Files of conf\n\nChosen by name: `engine=vllm`, `endpoint=openai`, `model.teacher=gpt4`, `'corpus=[wikipedia_fo]'`.",
        _grid(("file", "what it is"), conf_files()),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def objectives() -> Iterator[tuple[str, ...]]:
    """Name, scope, aggregation, what it reads, and the docstring's formula and source, of each objective."""
    for name, row in OBJECTIVES.items():
        text = inspect.getdoc(row.coefficient) or ""
        first = " ".join(text.split("\n\n")[0].split())
        source = next((p for p in re.split(r"\n\n|(?<=\.)\s+(?=Source:)", text) if p.startswith("Source:")), "")
        said = f"as `grpo`, but {ALIKE[name]}" if name in ALIKE else f"{first} {' '.join(source.split())}".strip()
        yield f"`{name}`", row.scope, row.aggregate, ", ".join(sorted(row.needs)), said


def conf_files() -> Iterator[tuple[str, str]]:
    """Every file of the groups with its first comment."""
    for group in GROUPS:
        for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
            yield f"`{group}/{path.stem}`", first_comment(path)


def docstring(path: Path) -> str:
    """The docstring of a file, which is read and not imported."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _tables() -> Iterator[str]:
    yield "## Tables and views\n\nEvery column with its type, unit and meaning: [data/README.md](../data/README.md)."
    yield _grid(
        ("table", "one row per", "columns"), ((_link(n), t.one_row_per, _columns(t)) for n, t in TABLES.items())
    )
    yield _grid(("view", "one row per", "columns"), ((_link(n), v.one_row_per, _columns(v)) for n, v in VIEWS.items()))


def _link(name: str) -> str:
    return f"[{name}](../data/README.md#{name})"


def _columns(table: Any) -> str:
    return ", ".join(f"`{column.name}`" for column in table.columns)


def _section(title: str, text: str, cls: type) -> str:
    own = [s for s in settings_of(cls, skip=("factory", "trainer")) if ".NAME." not in s.name]
    return f"## {title}\n\n{text}\n\n{_settings(own)}"


def _file(name: str, path: Path) -> str:
    settings = list(file_settings(path))
    return f"### {name}\n\n{docstring(path)}\n\n{_settings(settings) if settings else 'No settings.'}"


def _settings(settings: Iterable[Setting]) -> str:
    return _grid(
        ("setting", "default", "meaning"),
        ((f"`{s.name}`", f"`{s.default}`" if s.default else "–", s.doc) for s in settings),
    )


def _grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "∣") for cell in line) + " |" for line in (heads, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(heads), *lines[1:]])


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
