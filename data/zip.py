"""Co-partitioned slices read side by side, whole groups at a time, in any order of row groups.

Reads Parquet by position, checks that the keys agree, and never filters: a filter below a positional join misaligns silently."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract import SAMPLE_KEYS
from data.manifest import Slice
from data.refusal import Refusal


@dataclass(frozen=True)
class RowGroup:
    """One row group of the base slice: shard, its index there, first row in the shard, rows, first row in the slice."""

    shard: int
    index: int
    start: int
    rows: int
    ordinal: int


def row_groups(base: Slice) -> list[RowGroup]:
    """The base slice's row groups in order; reads footers only."""
    found, ordinal = [], 0
    for shard, path in enumerate(base.files):
        start = 0
        for index in range((metadata := open_shard(path).metadata).num_row_groups):
            rows = metadata.row_group(index).num_rows
            if rows:
                found.append(RowGroup(shard, index, start, rows, ordinal))
            start, ordinal = start + rows, ordinal + rows
    return found


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """A permutation of row groups that depends on seed and epoch alone (Philox)."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count).tolist()


def zip_groups(
    base: Slice,
    others: Mapping[str, tuple[Slice, Sequence[str]]],
    *,
    columns: Sequence[str],
    order: Iterable[int],
) -> Iterator[pa.Table]:
    """One table a row group of `base`, in `order`, with the others' columns beside as `alias.column`.

    Keys of every slice are compared with the base's; slices with another sharding are refused. `base` columns keep their names,
    and the row's ordinal in the slice stands in `ordinal` (int64): it indexes the advantages vector."""
    for alias, (other, _) in others.items():
        if len(other.shards) != len(base.shards):
            raise Refusal(
                f"{alias}: {other.path} is not partitioned like {base.path}",
                "run the factory's stage again for this pool",
            )
    groups = row_groups(base)
    readers = {alias: _Reader(slice_, columns) for alias, (slice_, columns) in others.items()}
    own = _Reader(base, columns)
    for position in order:
        group = groups[position]
        table = own.rows(group)
        arrays = {name: table.column(name) for name in (*SAMPLE_KEYS, *(c for c in columns if c not in SAMPLE_KEYS))}
        arrays["ordinal"] = pa.chunked_array([pa.array(np.arange(group.ordinal, group.ordinal + group.rows))])
        for alias, reader in readers.items():
            beside = reader.rows(group)
            if not beside.select(list(SAMPLE_KEYS)).equals(table.select(list(SAMPLE_KEYS))):
                raise Refusal(
                    f"{reader.slice.path} holds other samples than {base.path} in shard {group.shard}",
                    "python -m data verify",
                )
            arrays |= {f"{alias}.{name}": beside.column(name) for name in reader.columns}
        yield pa.table(arrays)


@dataclass
class _Reader:
    """Rows of one slice by the base's row groups: by row group where the borders agree, else from the shard held in memory."""

    slice: Slice
    columns: Sequence[str]
    files: dict[int, pq.ParquetFile] = field(default_factory=dict)
    whole: tuple[int, pa.Table] | None = None

    def rows(self, group: RowGroup) -> pa.Table:
        names = [*SAMPLE_KEYS, *(c for c in self.columns if c not in SAMPLE_KEYS)]
        if group.shard not in self.files:
            self.files = {group.shard: open_shard(self.slice.files[group.shard])}
        file = self.files[group.shard]
        same = (
            group.index < file.metadata.num_row_groups and file.metadata.row_group(group.index).num_rows == group.rows
        )
        if same and (group.index == 0 or self._start(file, group.index) == group.start):
            return _clean(file.read_row_group(group.index, columns=names))
        if self.whole is None or self.whole[0] != group.shard:
            self.whole = (group.shard, _clean(file.read(columns=names)))
        return self.whole[1].slice(group.start, group.rows)

    @staticmethod
    def _start(file: pq.ParquetFile, index: int) -> int:
        return sum(file.metadata.row_group(i).num_rows for i in range(index))


def _clean(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata(None)


def open_shard(path: Path) -> pq.ParquetFile:
    """A shard's file; a missing one, or one that was cut short, is refused by its name."""
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise Refusal(f"{path} is no readable shard: {str(error).splitlines()[0]}", "python -m data verify") from error
