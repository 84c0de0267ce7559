"""The manifest: the file that is written last and whose existence is the fact "this slice is complete".

A manifest lists shard keys and the files that hold them, which may lie in older slices. Recipe names, labels, versions and
times stand here, outside every key."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from data.contract import VERSION
from data.refusal import Refusal
from data.storage import disk_refusal, replace_durably

FILE = "_manifest.json"


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

    @property
    def path(self) -> str:
        """`table/name`, as messages and `runs` show it."""
        return f"{self.table}/{self.name}"

    @cached_property
    def files(self) -> list[Path]:
        """Absolute paths of its shards, in order. Kept: a loop over thousands of shards asks for it at each of them."""
        return [self.root / shard.file for shard in self.shards]

    @property
    def rows(self) -> int:
        """Rows over all shards."""
        return sum(shard.rows for shard in self.shards)

    def parent(self, table: str) -> str:
        """`table/name` of its parent in that table."""
        return next(p for p in self.parents if p.startswith(f"{table}/"))


def write_manifest(slice_: Slice) -> None:
    """Write the manifest atomically; from this moment readers see the slice."""
    folder = slice_.root / slice_.table / slice_.name
    content = {k: v for k, v in asdict(slice_).items() if k not in ("root", "table", "name")} | {"contract": VERSION}
    temporary = folder / f".{FILE}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
        replace_durably(temporary, folder / FILE)
    except OSError as error:
        with contextlib.suppress(OSError):  # a read-only disk refuses this too
            temporary.unlink(missing_ok=True)
        raise disk_refusal(error, slice_.path) from error


def read_manifest(root: Path, table: str, name: str) -> Slice:
    """The slice of one folder. Refuses a manifest that is no JSON or of another contract."""
    path = root / table / name / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        shards = tuple(ShardFile(**shard) for shard in content.pop("shards"))
        version = content.pop("contract")
        content["parents"] = tuple(content["parents"])
        slice_ = Slice(root=root, table=table, name=name, shards=shards, **content)
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(
            f"{table}/{name}/{FILE} is not a manifest: {error}", f"rm -r {root / table / name} and run the stage again"
        ) from error
    if version != VERSION:
        raise Refusal(
            f"{table}/{name} was written under contract {version}, this is contract {VERSION}",
            "make the slice again with the factory",
        )
    return slice_


def read_slices(root: Path, table: str) -> Iterator[Slice]:
    """Every complete slice of a table, oldest first."""
    names = [path.parent.name for path in (root / table).glob(f"*/{FILE}")]
    yield from sorted((read_manifest(root, table, name) for name in names), key=lambda s: (s.created, s.name))
