"""Reads dataclasses of settings: what fields they have, what the line under each says, and the table that `--help` prints.

Imports neither Hydra nor anything heavy."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple


def first_comment(path: Path) -> str:
    """What a recipe says of itself: its first comment, behind Hydra's own `@package` line."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return next((line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line), "")


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


def rows(cls: type, prefix: str, skip: Sequence[str] = ()) -> list[str]:
    """Lines of the settings table of a dataclass and, indented by their names, of those that it names."""
    return [_line(setting) for setting in settings_of(cls, prefix, skip)]


def _line(setting: Setting) -> str:
    default = f" [{setting.default}]" if setting.default else ""
    return f"  {setting.name:<28} {setting.doc}{default}".rstrip()


def _default(f: dataclasses.Field[Any]) -> str:
    if f.default_factory is not dataclasses.MISSING:
        made = f.default_factory()
        return ", ".join(map(str, made)) if isinstance(made, list | tuple) else ""
    return "" if f.default in (dataclasses.MISSING, "???") else _shown(f.default)


def _shown(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
