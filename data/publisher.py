"""A slice in the making: its key, its shards, and the publisher that writes them and the manifest, last.

A shard's key is the hash of the settings that change values, the models' fingerprints and the parents' shard keys; a shard that
exists anywhere in the table under its key is named again, not made again. Shards are kept without a manifest, and found by the
next publisher. Refuses what the contract forbids, rows that are not the parent's, and a second writer on the same machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract import TABLES
from data.keys import digest
from data.manifest import ShardFile, Slice, read_manifest, read_slices, write_manifest
from data.refusal import Refusal
from data.storage import disk_refusal, file_sha256, read_shard

if TYPE_CHECKING:
    from data.lake import Lake


@dataclass(frozen=True)
class Key:
    """What a slice's values depend on, and nothing else. `settings` must be JSON; `models` maps a role to a fingerprint.

    `contents` are digests of each shard's rows where no parent says what they are (prompts, imports, corpus). A table without
    parents is named by its contents alone: the same rows from another place, or more of them, are the same shards."""

    settings: Mapping[str, Any]
    parents: tuple[Slice, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)
    contents: tuple[str, ...] = ()

    def shard_keys(self, table: str) -> list[str]:
        """One key per shard: parents with as many shards as the first are matched by index, others enter whole."""
        count = len(self.contents) or (len(self.parents[0].shards) if self.parents else 1)
        settings = {} if self.contents and not self.parents else dict(self.settings)
        above = [[shard.key for shard in parent.shards] for parent in self.parents]
        return [digest([table, settings, dict(self.models), self._parts(above, i, count)]) for i in range(count)]

    def suffix(self, table: str) -> str:
        """What ends the slice's name: its shards, the slices it belongs to and its settings.

        Slices of equal shards under other parents are other slices that name the same files, so that lineage stays exact."""
        return "-" + digest([self.shard_keys(table), [p.path for p in self.parents], dict(self.settings)])[:12]

    def _parts(self, above: list[list[str]], index: int, count: int) -> list[Any]:
        parts: list[Any] = [keys[index] if len(keys) == count else keys for keys in above]
        return [*parts, self.contents[index]] if self.contents else parts


@dataclass(frozen=True)
class Shard:
    """One shard to be made: its place, its key and the first parent (None for a root table)."""

    index: int
    key: str
    parent: Slice | None = None

    def parent_rows(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of the parent's shard."""
        if self.parent is None:
            raise ValueError("a shard of a root table has no parent rows")
        return read_shard(self.parent.file(self.index), self.parent.shards[self.index].key, columns)


def now() -> str:
    """The time, as manifests hold it: their order is the order of this text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Publisher:
    """Makes one slice: a context manager that holds the slice's lock. Shards are kept even without `finish`."""

    def __init__(self, lake: Lake, table: str, key: Key, label: str, notes: dict[str, Any]):
        keys = key.shard_keys(table)
        self.lake, self.table, self.key, self.label, self.notes = lake, TABLES[table], key, label, notes
        self.name = label + key.suffix(table)
        self.folder = lake.root / table / self.name
        parent = key.parents[0] if key.parents else None
        self.shards = [Shard(i, k, parent) for i, k in enumerate(keys)]
        self._made: dict[int, ShardFile] = {}
        self._lock = filelock.FileLock(lake.root / table / f".{self.name}.lock")

    def __enter__(self) -> Publisher:
        try:
            (self.lake.root / self.table.name).mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=10)
        except filelock.Timeout as error:
            raise Refusal(
                f"{self.table.name}/{self.name} is being written by another process",
                "wait for it, then run the same command",
            ) from error
        except OSError as error:
            raise disk_refusal(error, f"{self.table.name}/{self.name}") from error
        try:
            self._made = self._known()
        except Refusal:
            self._lock.release()  # __exit__ does not run where __enter__ raises
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        self._lock.release()

    def _known(self) -> dict[int, ShardFile]:
        """Shards that exist already: named by any manifest of this table, or left by a killed run of this slice."""
        place = self.lake.place
        by_key = {s.key: s for older in read_slices(place, self.table.name) for s in older.shards}
        known = {}
        for shard in self.shards:
            if shard.key in by_key and place.holds(by_key[shard.key].file):
                older = by_key[shard.key]
                known[shard.index] = ShardFile(shard.index, shard.key, older.file, older.rows, older.sha256)
            elif kept := place.kept(self._stem(shard)):
                file, path = kept
                rows = _checked_rows(path, shard.key)
                known[shard.index] = ShardFile(shard.index, shard.key, file, rows, file_sha256(path))
        return known

    def _stem(self, shard: Shard) -> str:
        return f"{self.table.name}/{self.name}/part-{shard.index:05d}"

    def pending(self) -> list[Shard]:
        """Shards still to be made, in order."""
        return [shard for shard in self.shards if shard.index not in self._made]

    def write(self, shard: Shard, rows: pa.Table) -> None:
        """Publish one shard atomically; it is kept without `finish`. A sample-keyed shard must repeat its parent's keys."""
        where = f"{self.table.name}/{self.name} shard {shard.index}"
        parent = self.key.parents[0] if self.key.parents else None
        if self.table.sample_keyed and parent and TABLES[parent.table].sample_keyed:
            keys = list(self.table.keys)
            schema = pa.schema([self.table.schema.field(name) for name in keys])
            if not rows.select(keys).cast(schema).equals(shard.parent_rows(keys).cast(schema)):
                raise Refusal(
                    f"{where}: rows are not those of {parent.path}, in order",
                    f"python -m data verify --lake {self.lake.uri}",
                )
        file, sha256 = self.lake.place.write_part(self.table, rows, self._stem(shard), shard.key, where)
        self._made[shard.index] = ShardFile(shard.index, shard.key, file, rows.num_rows, sha256)

    def finish(self) -> Slice:
        """Write the manifest, last. A slice that was complete before is returned as it is."""
        if pending := self.pending():
            raise ValueError(f"{self.table.name}/{self.name}: {len(pending)} shards are not made yet")
        shards = tuple(self._made[i] for i in range(len(self.shards)))
        if older := self._published():
            held = all(self.lake.place.holds(shard.file) for shard in older.shards)
            if older.shards == shards or (self.lake.remote and held):
                return older
        if gone := [shard.file for shard in shards if not self.lake.place.holds(shard.file)]:
            raise Refusal(f"{self.lake.uri}/{gone[0]} was removed meanwhile", "run the same command again")
        slice_ = Slice(
            root=self.lake.root,
            remote=self.lake.remote,
            table=self.table.name,
            name=self.name,
            label=self.label,
            shards=shards,
            settings=dict(self.key.settings),
            models=dict(self.key.models),
            parents=tuple(parent.path for parent in self.key.parents),
            notes=self.notes,
            created=now(),
        )
        if write_manifest(slice_, replace=older is not None):
            return slice_
        return read_manifest(
            self.lake.place, self.table.name, self.name
        )  # another machine's, first; our parts are garbage

    def _published(self) -> Slice | None:
        """The slice as its manifest says now, if it has one."""
        there = self.name in self.lake.place.complete(self.table.name)
        return read_manifest(self.lake.place, self.table.name, self.name) if there else None


def _checked_rows(path: Path, key: str) -> int:
    """Rows of a shard found without a manifest; a file of another key or cut short is refused."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise Refusal(f"{path} is no Parquet file: {error}", f"rm {path} and run the same command") from error
    metadata = file.schema_arrow.metadata or {}
    if metadata.get(b"grpo_kd.key") != key.encode():
        raise Refusal(f"{path} belongs to another slice", f"rm {path} and run the same command")
    return int(file.metadata.num_rows)
