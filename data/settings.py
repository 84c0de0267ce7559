"""Reads dataclasses of settings: what fields they have, what the line under each says, and how `--help` lays out what it lists.

Imports neither Hydra nor anything heavy."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

NAMES, WIDE = 28, 110  # columns that the names of a table take, and a line of names alone


def first_comment(path: Path) -> str:
    """What a recipe says of itself: its first comment, behind Hydra's own `@package` line; a comma or semicolon goes on."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    said = ""
    for line in lines:
        if line.startswith("#") and "@package" not in line:
            said = f"{said} {line.lstrip('# ')}".strip()
        elif said:
            break
        if said and not said.endswith((",", ";")):
            break
    return said


def described(entries: Iterable[tuple[str, str]]) -> list[str]:
    """Names with what is said of each, in two columns; a name wider than its column has a line of its own.

    >>> print("\\n".join(described([("a", "first"), ("long", "second")])))
      a     first
      long  second
    """
    held = list(entries)
    width = min(max((len(name) for name, _ in held), default=0), NAMES)
    lines = []
    for name, doc in held:
        if doc and len(name) > width:
            lines += [f"  {name}", f"  {'':<{width}}  {doc}"]
        else:
            lines.append(f"  {name:<{width}}  {doc}".rstrip())
    return lines


def listed(names: Iterable[str]) -> list[str]:
    """Names alone, several on a line.

    >>> listed(["naive", "grpo"])
    ['  naive, grpo']
    """
    return textwrap.wrap(", ".join(names), WIDE, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def constructed(path: Path, kind: str) -> list[str]:
    """The first words of every `kind("…", …)` in a file, in its order; the file is read and not imported."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == kind and node.args
    ]
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    return [str(call.args[0].value) for call in calls if isinstance(call.args[0], ast.Constant)]


def nested(cls: type) -> Iterator[type]:
    """A dataclass and every dataclass that its fields name."""
    yield cls
    for value in typed_fields(cls).values():
        yield from nested(value)


def typed_fields(cls: type) -> dict[str, type]:
    """Field name → dataclass, for the fields that hold one."""
    found = {}
    for name, hint in typing.get_type_hints(cls).items():
        for option in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(option) and isinstance(option, type):
                found[name] = option
    return found


def field_docs(cls: type) -> dict[str, str]:
    """The line under each field of a dataclass, base classes included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        docs |= {name: doc for name, _, doc in _fields(body)}
    return docs


def _fields(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.expr | None, str]]:
    """Name, default and line of each described field in a class's body."""
    for statement, follower in itertools.pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(follower, ast.Expr)
            and isinstance(follower.value, ast.Constant)
        ):
            yield statement.target.id, statement.value, " ".join(str(follower.value.value).split())  # type: ignore[union-attr]


class Setting(NamedTuple):
    """One line of a settings table."""

    name: str
    """Its whole key; `NAME` stands for what the user calls an entry."""
    default: str
    """As `--help` shows it; empty: null, or nothing that one would write."""
    doc: str


def file_settings(path: Path, prefix: str = "") -> Iterator[Setting]:
    """Settings of the class `Settings` in a file, which is read and not imported."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "Settings":
            for name, default, doc in _fields(node.body):
                value = default.value if isinstance(default, ast.Constant) else None
                yield Setting(prefix + name, _shown(value), doc)


def settings_of(cls: type, prefix: str = "", skip: Sequence[str] = ()) -> Iterator[Setting]:
    """Settings of a dataclass and, behind each, of those that it names."""
    docs, inner = field_docs(cls), typed_fields(cls)
    for f in dataclasses.fields(cls):
        if f.name in skip:
            continue
        yield Setting(prefix + f.name, _default(f), docs.get(f.name, ""))
        if f.name in inner:
            yield from settings_of(inner[f.name], f"{prefix}{f.name}.")
        for kind, path in f.metadata.get("kinds", dict)().items():  # files whose `Settings` an entry of the mapping has
            yield Setting(f"{prefix}{f.name}.NAME.kind={kind}", "", "")
            yield from file_settings(path, f"  {prefix}{f.name}.NAME.")


def last_parts(cls: type) -> dict[str, str]:
    """The last part of each setting's key → the whole key, where only one setting ends so; a command's own section is left out.

    >>> from data.config import Recipe
    >>> parts = last_parts(Recipe)
    >>> parts["held_out"], "temperature" in parts
    ('prompts.held_out', False)
    """
    found: dict[str, list[str]] = {}
    for setting in settings_of(cls, ""):
        key = (
            setting.name.partition(".")[2] if setting.name.partition(".")[0] in ("factory", "trainer") else setting.name
        )
        if "." in key and "NAME" not in key:
            found.setdefault(key.rpartition(".")[2], []).append(key)
    return {part: keys[0] for part, keys in found.items() if len(keys) == 1}


def rows(cls: type, prefix: str, skip: Sequence[str] = ()) -> list[str]:
    """Lines of the settings table of a dataclass and, indented by their names, of those that it names."""
    return described((setting.name, _line(setting)) for setting in settings_of(cls, prefix, skip))


def _line(setting: Setting) -> str:
    return f"{setting.doc} [{setting.default}]".strip() if setting.default else setting.doc


def _default(f: dataclasses.Field[Any]) -> str:
    if f.default_factory is not dataclasses.MISSING:
        made = f.default_factory()
        return ", ".join(map(str, made)) if isinstance(made, list | tuple) else ""
    return "" if f.default in (dataclasses.MISSING, "???") else _shown(f.default)


def _shown(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
