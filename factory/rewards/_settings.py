"""From a recipe's mapping to a component's (or benchmark's) frozen `Settings`, and from `Settings` to its identity.

Refuses unknown names (with the nearest), wrong types, choices outside a Literal, files that are not there, and
whatever a component's own `__post_init__` finds contradictory (ValueError)."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from data.refusal import Refusal, nearest
from data.scorers import PORTIONS
from factory.rewards._files import FilePath, ModelPath, affixes, digest, model_id, stamp
from factory.rewards._hub import awaited, local

T = TypeVar("T")


def read(kind: type[T], given: Mapping[str, Any], where: str) -> T:
    """A `Settings` from plain values. Raises Refusal naming `where`, the setting and what was expected."""
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in given.items():
        if name not in hints:
            known = nearest(name, hints) if hints else "it takes none"
            raise Refusal(f"{where} has no setting {name!r}; {known}", f"rename or remove `{name}` in the recipe")
        try:
            values[name] = _cast(hints[name], value)
        except ValueError as error:
            raise Refusal(f"{where}: {name} is {value!r}, {error}", f"correct `{name}` in the recipe") from error
    try:
        return kind(**values)
    except ValueError as error:
        raise Refusal(f"{where}: {error}", "correct its settings in the recipe") from error


def _cast(hint: Any, value: Any) -> Any:
    """The value as the hint has it; ValueError says what was expected. A bool is no number, an int is a float."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return _choice(typing.get_args(hint), value)
    if origin in (Union, types.UnionType):
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return None if value is None else _cast(inner[0], value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError("expected a mapping")
        return dict(value)
    if origin is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
            raise ValueError("expected a list of texts")
        return tuple(_file(entry) for entry in value) if FilePath in typing.get_args(hint) else tuple(value)
    if hint is FilePath:
        return _file(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if hint is float or type(value) is not hint:
        raise ValueError(f"expected {_WANTED[hint]}")
    return value


_WANTED = {str: "a text", int: "a whole number", float: "a finite number", bool: "true or false"}


def _choice(choices: tuple[Any, ...], value: Any) -> Any:
    if value not in choices:
        raise ValueError(nearest(str(value), map(str, choices)))
    return value


def _file(value: Any) -> str:
    if not isinstance(value, str | Path):
        raise ValueError("expected a path")
    if awaited(str(value)):
        return str(value)
    own, *_ = [local(file) for file in filter(None, (str(value), affixes(str(value))))]
    for file in filter(None, (own, affixes(own))):
        stamp(file)
    return own


def identify(settings: Any) -> dict[str, Any]:
    """Plain values of the settings that change a value.

    A file is its sha256, so that moving it changes nothing and editing it does."""
    hints = typing.get_type_hints(type(settings))
    return {
        f.name: _plain(hints[f.name], getattr(settings, f.name)) for f in fields(settings) if f.name not in PORTIONS
    }


def _plain(hint: Any, value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(typing.get_args(hint)[0], entry) for entry in value]
    kinds = (hint, *typing.get_args(hint))
    if value is not None and FilePath in kinds:
        return {"sha256": digest(value)}
    return {"model_id": model_id(value)} if ModelPath in kinds else value
