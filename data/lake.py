"""The lake: find, publish, scan and query slices of Parquet under one folder, or on object storage (remote.py).

Layout: <root>/<table>/<label>-<hash12>/part-00000.parquet … _manifest.json. A shard's key is the hash of the settings that
change values, the models' fingerprints and the parents' shard keys; a shard that exists anywhere in the table under its key is
named again, not made again. Refuses to write what the contract forbids; never changes or deletes a published file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from data.contract import TABLES
from data.manifest import Slice, read_manifest, read_slices, write_manifest
from data.places import MANIFEST, Folder, Place
from data.publisher import Key, Publisher, Shard, now
from data.refusal import Refusal, nearest
from data.storage import read_shard

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Key", "Lake", "Publisher", "Shard", "Slice"]


@dataclass(frozen=True)
class Lake:
    """Slices in a folder, or at a `remote` place whose local copies are in the folder. Open it with `Lake.open`; it is cheap."""

    root: Path
    remote: Place | None = None

    @classmethod
    def open(cls, uri: str | Path = "data/lake", *, must_exist: bool = False) -> Lake:
        """The lake at a folder or at s3://bucket/prefix. With `must_exist`, a place without tables is refused."""
        if "://" in str(uri):
            from data.remote import Bucket

            bucket = Bucket.open(str(uri))
            lake = cls(bucket.root, bucket)
        else:
            lake = cls(Path(uri).absolute())
            if lake.root.is_file() and not must_exist:
                raise Refusal(f"{uri} is a file, and a lake a folder", "lake=data/lake")
        if must_exist and not lake.place.exists():
            raise Refusal(f"no lake at {uri}", f"python -m factory recipe=demo lake={uri}")
        return lake

    @property
    def place(self) -> Place:
        """Where the lake lies."""
        return self.remote or Folder(self.root)

    @property
    def uri(self) -> str:
        """The lake as messages and commands name it."""
        return self.place.uri

    def slices(self, table: str, *, label: str | None = None, **settings: Any) -> list[Slice]:
        """Complete slices of a table, oldest first, filtered by label and by settings."""
        if table not in TABLES:
            raise Refusal(f"no table named {table}: {nearest(table, TABLES)}", "python -m data tables")
        found = read_slices(self.place, table)
        return [
            s for s in found if label in (None, s.label) and all(s.settings.get(k) == v for k, v in settings.items())
        ]

    def slice(self, path: str) -> Slice:
        """The slice named `table/name`."""
        table, _, name = path.partition("/")
        if not self.has(path):
            raise Refusal(f"no slice {path} in {self.uri}", "python -m data tables")
        return read_manifest(self.place, table, name)

    def has(self, path: str) -> bool:
        """Whether the slice named `table/name` is complete."""
        return self.place.holds(f"{path}/{MANIFEST}")

    def find(self, table: str, key: Key, *, label: str | None = None) -> Slice | None:
        """The complete slice of exactly this key, or None: a slice whose files are gone is to be made again.

        A label picks among slices of the same content."""
        suffix = key.suffix(table)
        named = [s for s in self.slices(table, label=label) if s.name.endswith(suffix)]
        matches = [s for s in named if all(self.place.holds(shard.file) for shard in s.shards)]
        return matches[-1] if matches else None

    def renew(self, slice_: Slice) -> Slice:
        """Make a slice the newest of its table again: what is resolved as "the newest" is what was asked for last."""
        renewed = replace(slice_, created=now())
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
        return read_shard(slice_.file(index), slice_.shards[index].key, columns)

    def append(self, table: str, rows: pa.Table, name: str) -> Path:
        """Write one file of a journal table; the same name replaces its older version (a run's metrics)."""
        if not TABLES[table].journal:
            raise ValueError(f"{table} is derived: publish it")
        return self.place.write_journal(TABLES[table], rows, name)

    def journal(self, table: str) -> list[Path]:
        """The files of a journal table on this machine, in the order of their names; a file's stem is its name."""
        paths = self.place.journal(table)
        self.place.fetch(paths)
        return paths

    def sql(self, query: str, **params: Any) -> pa.Table:
        """The answer of one read-only SELECT over tables and views (data/catalog.py says which)."""
        from data.catalog import run

        return run(self, query, params)

    def scan(self, table: str, **where: Any) -> pl.LazyFrame:
        """A lazy polars frame over the newest slice of a table; `label=` and settings narrow it."""
        import polars as pl

        found = self.slices(table, **where)
        if not found:
            raise Refusal(f"{self.uri} has no slice of {table} with {where}", "python -m data tables")
        return pl.scan_parquet([str(f) for f in found[-1].files])
