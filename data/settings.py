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
from typing import Any


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


def file_rows(path: Path, prefix: str) -> list[str]:
    """Lines of the settings table of the class `Settings` in a file, which is read and not imported."""
    lines = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "Settings":
            for name, default, doc in _fields(node.body):
                value = default.value if isinstance(default, ast.Constant) else None
                shown = (
                    "" if value in (None, "") else f" [{str(value).lower() if isinstance(value, bool) else value!s}]"
                )
                lines.append(f"  {prefix + name:<28} {doc}{shown}")
    return lines


def rows(cls: type, prefix: str, skip: Sequence[str] = ()) -> list[str]:
    """Lines of the settings table of a dataclass and, indented by their names, of those that it names."""
    docs, inner, lines = field_docs(cls), typed_fields(cls), []
    for f in dataclasses.fields(cls):
        if f.name in skip:
            continue
        lines.append(f"  {prefix + f.name:<28} {docs.get(f.name, '')}{_default(f)}")
        if f.name in inner:
            lines += rows(inner[f.name], f"{prefix}{f.name}.")
        for kind, path in f.metadata.get("kinds", dict)().items():  # files whose `Settings` an entry of the mapping has
            lines += [f"  {prefix}{f.name}.NAME.kind={kind}", *file_rows(path, f"  {prefix}{f.name}.NAME.")]
    return lines


def _default(f: dataclasses.Field[Any]) -> str:
    if f.default in (dataclasses.MISSING, None, "???"):
        return ""
    return f" [{str(f.default).lower() if isinstance(f.default, bool) else f.default}]"
