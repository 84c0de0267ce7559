"""Co-partitioned slices read side by side, whole groups at a time, in any order of row groups.

Reads Parquet by position, checks that the keys agree, and never filters: a filter below a positional join misaligns silently."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract import SAMPLE_KEYS
from data.manifest import Slice
from data.refusal import Refusal
from data.storage import lake_of


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
    groups: Sequence[RowGroup] | None = None,
) -> Iterator[pa.Table]:
    """One table a row group of `base`, in `order`, with the others' columns beside as `alias.column`.

    Keys of every slice are compared with the base's; slices with another sharding are refused. `base` columns keep their names,
    and the row's ordinal in the slice stands in `ordinal` (int64): it indexes the advantages vector.
    `groups`: the base's row groups where they are known already."""
    for alias, (other, _) in others.items():
        if len(other.shards) != len(base.shards):
            raise Refusal(
                f"{alias}: {other.path} is not partitioned like {base.path}",
                "run the factory's stage again for this pool",
            )
    groups = groups or row_groups(base)
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


OPEN_FILES = 16  # a shuffled order comes back to a shard soon; parsing a footer costs as much as reading a row group
DECODED = 8  # row groups kept where the borders differ: one of a scalar table serves many of a token table


class _Reader:
    """Rows of one slice by the base's row groups: decoded once where the borders agree, else from the row groups they touch."""

    def __init__(self, slice_: Slice, columns: Sequence[str]):
        self.slice, self.columns = slice_, columns
        self._names = [*SAMPLE_KEYS, *(c for c in columns if c not in SAMPLE_KEYS)]
        self._opened = lru_cache(OPEN_FILES)(self._open)
        self._kept = lru_cache(DECODED)(self._decoded)

    def rows(self, group: RowGroup) -> pa.Table:
        """The group's rows of this slice; fewer where the shard is shorter, which the caller's comparison of keys refuses."""
        starts, count = self._opened(group.shard)[1:]
        end = min(group.start + group.rows, count)
        touched = range(bisect_right(starts, group.start) - 1, bisect_left(starts, end))
        if not touched:
            return self._opened(group.shard)[0].schema_arrow.empty_table().select(self._names)
        first = touched[0]
        if len(touched) == 1 and starts[first] == group.start and end == (*starts, count)[first + 1]:
            return self._decoded(group.shard, first)
        pieces = pa.concat_tables([self._kept(group.shard, index) for index in touched])
        return pieces.slice(group.start - starts[first], end - group.start)

    def _open(self, shard: int) -> tuple[pq.ParquetFile, list[int], int]:
        path = self.slice.files[shard]
        file = open_shard(path)
        if (file.schema_arrow.metadata or {}).get(b"grpo_kd.key") != self.slice.shards[shard].key.encode():
            raise Refusal(f"shard {path} is a file of another slice than its manifest says", "python -m data verify")
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        return file, [0, *itertools.accumulate(sizes)][: len(sizes)], sum(sizes)

    def _decoded(self, shard: int, index: int) -> pa.Table:
        return _clean(read_row_group(self._opened(shard)[0], self.slice.files[shard], index, self._names))


def _clean(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata(None)


def open_shard(path: Path) -> pq.ParquetFile:
    """A shard's file; a missing one, or one that was cut short, is refused by its name."""
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from error


def read_row_group(file: pq.ParquetFile, path: Path, index: int, columns: Sequence[str]) -> pa.Table:
    """One row group of an open shard; damaged pages are refused by the file's name."""
    try:
        return file.read_row_group(index, columns=list(columns))
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> Refusal:
    reason = str(error).splitlines()[0]
    return Refusal(f"{path} is no readable shard: {reason}", f"python -m data verify --lake {lake_of(path)}")
