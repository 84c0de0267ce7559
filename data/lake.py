"""The lake: find, publish, scan and query slices of Parquet under one folder.

Layout: <root>/<table>/<label>-<hash12>/part-00000.parquet … _manifest.json. A shard's key is the hash of the settings that
change values, the models' fingerprints and the parents' shard keys; a shard that exists anywhere in the table under its key is
named again, not made again. Refuses to write what the contract forbids; never changes or deletes a published file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract import TABLES
from data.keys import digest
from data.manifest import FILE, ShardFile, Slice, read_manifest, read_slices, write_manifest
from data.refusal import Refusal, nearest
from data.storage import disk_refusal, file_sha256, read_shard, write_shard

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Key", "Lake", "Publisher", "Shard", "Slice"]


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
    """One shard to be made: its place, its key and the file of the first parent's shard (None for a root table)."""

    index: int
    key: str
    parent_path: Path | None
    parent_key: str | None = None

    def parent_rows(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of the parent's shard."""
        if self.parent_path is None:
            raise ValueError("a shard of a root table has no parent rows")
        return read_shard(self.parent_path, self.parent_key, columns)


@dataclass(frozen=True)
class Lake:
    """A folder of slices. Open it with `Lake.open`; it is cheap and holds no connection."""

    root: Path

    @classmethod
    def open(cls, uri: str | Path = "data/lake", *, must_exist: bool = False) -> Lake:
        """The lake at a folder. With `must_exist`, a folder without tables is refused."""
        if "://" in str(uri):
            raise Refusal(f"{uri} is a URL; a lake is a folder here", "lake=FOLDER")
        root = Path(uri)
        if must_exist and not any((root / name).is_dir() for name in TABLES):
            raise Refusal(f"no lake at {uri}", f"python -m factory recipe=demo lake={uri}")
        return cls(root.absolute())

    def slices(self, table: str, *, label: str | None = None, **settings: Any) -> list[Slice]:
        """Complete slices of a table, oldest first, filtered by label and by settings."""
        if table not in TABLES:
            raise Refusal(f"no table named {table}: {nearest(table, TABLES)}", "python -m data tables")
        found = read_slices(self.root, table)
        return [
            s for s in found if label in (None, s.label) and all(s.settings.get(k) == v for k, v in settings.items())
        ]

    def slice(self, path: str) -> Slice:
        """The slice named `table/name`."""
        table, _, name = path.partition("/")
        if not (self.root / table / name / FILE).is_file():
            raise Refusal(f"no slice {path} in {self.root}", "python -m data tables")
        return read_manifest(self.root, table, name)

    def find(self, table: str, key: Key, *, label: str | None = None) -> Slice | None:
        """The complete slice of exactly this key, or None: a slice whose files are gone is to be made again.

        A label picks among slices of the same content."""
        suffix = key.suffix(table)
        named = [s for s in self.slices(table, label=label) if s.name.endswith(suffix)]
        matches = [s for s in named if all(file.is_file() for file in s.files)]
        return matches[-1] if matches else None

    def renew(self, slice_: Slice) -> Slice:
        """Make a slice the newest of its table again: what is resolved as "the newest" is what was asked for last."""
        renewed = replace(slice_, created=_now())
        write_manifest(renewed)
        return renewed

    def publish(self, table: str, key: Key, *, label: str, notes: Mapping[str, Any] | None = None) -> Publisher:
        """Begin or resume a slice; the first of the key's parents gives shards and row order."""
        return Publisher(self, table, key, label, dict(notes or {}))

    def read(self, slice_: Slice, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of a slice, in order. For small tables; large ones are streamed with `zip_groups`."""
        schema = TABLES[slice_.table].schema
        names = list(columns) if columns else schema.names
        parts = [self.read_shard(slice_, index, names) for index in range(len(slice_.shards))]
        return pa.concat_tables(parts) if parts else schema.empty_table().select(names)

    def read_shard(self, slice_: Slice, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of one shard of a slice. A file that is not the manifest's is refused."""
        return read_shard(slice_.files[index], slice_.shards[index].key, columns)

    def append(self, table: str, rows: pa.Table, name: str) -> Path:
        """Write one file of a journal table; the same name replaces its older version (a run's metrics)."""
        if not TABLES[table].journal:
            raise ValueError(f"{table} is derived: publish it")
        path = self.root / table / "journal" / f"{name}.parquet"
        write_shard(TABLES[table], rows, path, name, f"{table}/{name}")
        return path

    def sql(self, query: str, **params: Any) -> pa.Table:
        """The answer of one read-only SELECT over tables and views (data/catalog.py says which)."""
        from data.catalog import run

        return run(self, query, params)

    def scan(self, table: str, **where: Any) -> pl.LazyFrame:
        """A lazy polars frame over the newest slice of a table; `label=` and settings narrow it."""
        import polars as pl

        found = self.slices(table, **where)
        if not found:
            raise Refusal(f"{self.root} has no slice of {table} with {where}", "python -m data tables")
        return pl.scan_parquet([str(f) for f in found[-1].files])


def _first_parent(key: Key, index: int) -> tuple[Path | None, str | None]:
    """File and key of the first parent's shard."""
    if not key.parents:
        return None, None
    return key.parents[0].files[index], key.parents[0].shards[index].key


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Publisher:
    """Makes one slice: a context manager that holds the slice's lock. Shards are kept even without `finish`."""

    def __init__(self, lake: Lake, table: str, key: Key, label: str, notes: dict[str, Any]):
        keys = key.shard_keys(table)
        self.lake, self.table, self.key, self.label, self.notes = lake, TABLES[table], key, label, notes
        self.name = label + key.suffix(table)
        self.folder = lake.root / table / self.name
        self.shards = [Shard(i, k, *_first_parent(key, i)) for i, k in enumerate(keys)]
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
        by_key = {s.key: s for older in read_slices(self.lake.root, self.table.name) for s in older.shards}
        known = {}
        for shard in self.shards:
            path = self._path(shard)
            if shard.key in by_key and (self.lake.root / by_key[shard.key].file).is_file():
                older = by_key[shard.key]
                known[shard.index] = ShardFile(shard.index, shard.key, older.file, older.rows, older.sha256)
            elif path.is_file():
                known[shard.index] = self._entry(shard, _checked_rows(path, shard.key), file_sha256(path))
        return known

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"part-{shard.index:05d}.parquet"

    def _entry(self, shard: Shard, rows: int, sha256: str) -> ShardFile:
        return ShardFile(shard.index, shard.key, str(self._path(shard).relative_to(self.lake.root)), rows, sha256)

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
                    f"python -m data verify --lake {self.lake.root}",
                )
        self._made[shard.index] = self._entry(
            shard, rows.num_rows, write_shard(self.table, rows, self._path(shard), shard.key, where)
        )

    def finish(self) -> Slice:
        """Write the manifest, last. A slice that was complete before is returned as it is."""
        if pending := self.pending():
            raise ValueError(f"{self.table.name}/{self.name}: {len(pending)} shards are not made yet")
        shards = tuple(self._made[i] for i in range(len(self.shards)))
        there = (self.folder / FILE).is_file()
        if there and (older := read_manifest(self.lake.root, self.table.name, self.name)).shards == shards:
            return older
        slice_ = Slice(
            root=self.lake.root,
            table=self.table.name,
            name=self.name,
            label=self.label,
            shards=shards,
            settings=dict(self.key.settings),
            models=dict(self.key.models),
            parents=tuple(parent.path for parent in self.key.parents),
            notes=self.notes,
            created=_now(),
        )
        write_manifest(slice_)
        return slice_


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
