"""The recipe's dataclasses as OmegaConf's structured nodes: mappings that take new names, null roots that an override begins.

Reads and writes nothing; OmegaConf is imported where it is used, so that `--help` stays light."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import typing
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from data.settings import nested, typed_fields


def in_mapping(cls: type, path: Sequence[str]) -> bool:
    """Whether a key lies inside a mapping whose keys the user names, such as `components.words`: Hydra adds it only if told to.

    >>> from data.config import Recipe
    >>> in_mapping(Recipe, ["components", "words"]), in_mapping(Recipe, ["sampling", "n"])
    (True, False)
    """
    if len(path) < 2 or path[0] not in (hints := typing.get_type_hints(cls)):
        return False
    if typing.get_origin(hints[path[0]]) is dict:
        return True
    inner = typed_fields(cls).get(path[0])
    return inner is not None and in_mapping(inner, path[1:])


def typed_entry(cls: type, path: Sequence[str]) -> int:
    """How many names lead to the mapping of dataclasses (`imports`, `corpus`) that a key lies in; 0: it lies in none."""
    if len(path) < 2 or path[0] not in (inner := typed_fields(cls)):
        return 0
    if typing.get_origin(typing.get_type_hints(cls)[path[0]]) is dict:
        return 1
    deeper = typed_entry(inner[path[0]], path[1:])
    return deeper + 1 if deeper else 0


def addressed(cls: type, words: Sequence[str]) -> set[str]:
    """Root keys that may be null and that an override lies within or describes: teacher.path=x, teacher={path: x}.

    >>> from data.config import Recipe
    >>> sorted(addressed(Recipe, ["teacher.path=x", "student.path=y", "translate={by: teacher}", "rephrase=null"]))
    ['teacher', 'translate']
    """
    optional = {f.name for f in dataclasses.fields(cls) if f.default is None} & set(typed_fields(cls))
    return {name for name in optional if any(re.match(rf"\+*{name}(\.|=\{{)", word) for word in words)}


def with_open_mappings(cls: type, begun: Iterable[str] = ()) -> Any:
    """The recipe's structured node, where mappings (components, corpora) take new names from the command line too.

    `begun`: keys that are null by default and begin with their dataclass's defaults, since Hydra cannot add within null."""
    from omegaconf import DictConfig, OmegaConf

    def open_(node: Any) -> None:
        if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
            return
        if node._metadata.object_type is dict:
            OmegaConf.set_struct(node, False)
        for key in node:
            open_(node._get_node(key))

    node = OmegaConf.structured(cls)
    for name in begun:
        node[name] = OmegaConf.structured(typed_fields(cls)[name])
    open_(node)
    return node


def without_unknown(config: Any, cls: type, read: Collection[str]) -> Any:
    """The composed recipe without what only the other command can fill in: settings of its section that point to its own defaults.

    `config` is changed in place. Such a section is one that `cls` has no dataclass for; `read`: keys of it that are read anyway."""
    from omegaconf import OmegaConf

    for name in {"factory", "trainer"} - set(typed_fields(cls)):
        if not OmegaConf.is_interpolation(config, name) and OmegaConf.is_dict(section := config.get(name)):
            _prune(section, name, read)
    return config


def _prune(section: Any, name: str, read: Collection[str] = ()) -> None:
    """`name`: the root key; what points to nothing elsewhere stays, and is refused where the recipe is made."""
    from omegaconf import DictConfig, OmegaConf, open_dict
    from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

    for key in [key for key in section if key not in read]:
        node = section._get_node(key)
        if isinstance(node, DictConfig) and not (node._is_none() or node._is_interpolation() or node._is_missing()):
            _prune(node, name)
            continue
        try:
            value = None if OmegaConf.is_missing(section, key) else section[key]
            if OmegaConf.is_config(value):
                OmegaConf.to_container(value, resolve=True)
        except InterpolationKeyError as error:
            if f"'{name}." in str(error):
                with open_dict(section):
                    del section[key]
        except OmegaConfBaseException:
            pass


@contextlib.contextmanager
def thawed(cls: type) -> Iterator[type]:
    """The recipe's dataclasses as ones that Hydra may override; their instances stay frozen.

    OmegaConf makes read-only whatever it builds from a frozen dataclass, also nodes that a merge builds later (an optional
    model, an entry of a mapping), so the mark that it reads is taken off while a recipe is composed."""
    marks = [c.__dataclass_params__ for c in nested(cls)]  # type: ignore[attr-defined]
    for mark in marks:
        mark.frozen = False
    try:
        yield cls
    finally:
        for mark in marks:
            mark.frozen = True
