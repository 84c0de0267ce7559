"""The manifest: the file that is written last and whose existence is the fact "this slice is complete".

A manifest lists shard keys and the files that hold them, which may lie in older slices. Recipe names, labels, versions and
times stand here, outside every key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from data.contract import VERSION
from data.places import MANIFEST, Folder, Place
from data.refusal import Refusal

FILE = MANIFEST


@dataclass(frozen=True)
class ShardFile:
    """One shard of a published slice. `file` is relative to the lake's root; `sha256` is of the file's bytes."""

    index: int
    key: str
    file: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Slice:
    """One published set of shards. `parents` are `table/name` of the slices it was made from."""

    root: Path
    table: str
    name: str
    label: str
    shards: tuple[ShardFile, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    remote: Place | None = field(default=None, compare=False, repr=False)
    """Where it lies, if not in the folder `root`."""

    @property
    def place(self) -> Place:
        """Where its files lie."""
        return self.remote or Folder(self.root)

    @property
    def path(self) -> str:
        """`table/name`, as messages and `runs` show it."""
        return f"{self.table}/{self.name}"

    @cached_property
    def paths(self) -> list[Path]:
        """Absolute paths of its shards on this machine, in order: there, or there once fetched."""
        return [self.place.path(shard.file, shard.sha256) for shard in self.shards]

    @cached_property
    def files(self) -> list[Path]:
        """`paths`, fetched. Kept: a loop over thousands of shards asks for it at each of them."""
        self.place.fetch(self.paths)
        return self.paths

    def file(self, index: int) -> Path:
        """One shard's file, fetched."""
        self.place.fetch([self.paths[index]])
        return self.paths[index]

    def holds_the_same(self, other: Slice) -> bool:
        """Whether both list the same shards: two recipes that ask alike have a slice each, and one content."""
        return self.table == other.table and [s.key for s in self.shards] == [s.key for s in other.shards]

    @property
    def rows(self) -> int:
        """Rows over all shards."""
        return sum(shard.rows for shard in self.shards)

    def parent(self, table: str) -> str:
        """`table/name` of its parent in that table."""
        return next(p for p in self.parents if p.startswith(f"{table}/"))


def write_manifest(slice_: Slice, *, replace: bool = True) -> bool:
    """Write the manifest atomically; from this moment readers see the slice. False where one is there, not to be replaced."""
    content = {name: getattr(slice_, name) for name in WRITTEN} | {"contract": VERSION}
    content["shards"] = [asdict(shard) for shard in slice_.shards]
    text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    return slice_.place.write_manifest(slice_.path, text, replace=replace)


WRITTEN = ("label", "shards", "settings", "models", "parents", "notes", "created")  # the folder's name says the rest


def read_manifest(place: Place, table: str, name: str) -> Slice:
    """The slice of one folder. Refuses a manifest that is no JSON or of another contract."""
    try:
        content = json.loads(place.read_manifest(f"{table}/{name}"))
        shards = tuple(ShardFile(**shard) for shard in content.pop("shards"))
        version = content.pop("contract")
        content["parents"] = tuple(content["parents"])
        remote = None if isinstance(place, Folder) else place
        slice_ = Slice(root=place.root, table=table, name=name, shards=shards, remote=remote, **content)
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(
            f"{table}/{name}/{FILE} is not a manifest: {error}",
            f"rm -r {place.uri}/{table}/{name} and run the stage again",
        ) from error
    if version != VERSION:
        raise Refusal(
            f"{table}/{name} was written under contract {version}, this is contract {VERSION}",
            "make the slice again with the factory",
        )
    return slice_


def read_slices(place: Place, table: str) -> Iterator[Slice]:
    """Every complete slice of a table, oldest first."""
    names = place.complete(table)
    yield from sorted((read_manifest(place, table, name) for name in names), key=lambda s: (s.created, s.name))
