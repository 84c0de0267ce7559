"""What views are made of: SQL names and types, relations over shards, and the pools of a lake.

Reads manifests; opens no Parquet file and runs no SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from data.columns import Column, Table
from data.lake import Lake
from data.manifest import Slice


@dataclass(frozen=True)
class View:
    """One joined view: what a row is, its fixed columns, and whether a column per component label follows."""

    name: str
    one_row_per: str
    columns: tuple[Column, ...]
    per_component: str = ""


@dataclass(frozen=True)
class Definition:
    """A view to create: its SELECT, the files it may read (paths on this machine, to be fetched), the views it stands on."""

    sql: str
    files: tuple[Path, ...] = ()
    needs: tuple[str, ...] = ()


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def sql_type(type_: pa.DataType) -> str:
    """The SQL name of a contract column's type.

    >>> sql_type(pa.list_(pa.struct([pa.field("role", pa.string())])))
    'STRUCT("role" VARCHAR)[]'
    """
    if pa.types.is_list(type_):
        return f"{sql_type(type_.value_type)}[]"
    if pa.types.is_map(type_):
        return f"MAP({sql_type(type_.key_type)}, {sql_type(type_.item_type)})"
    if pa.types.is_struct(type_):
        return "STRUCT(" + ", ".join(f"{quoted(f.name)} {sql_type(f.type)}" for f in type_) + ")"
    return _SCALARS[type_]


_SCALARS = {
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.uint8(): "UTINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint64(): "UBIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.timestamp("us", tz="UTC"): "TIMESTAMPTZ",
}


def asked_type(type_: pa.DataType) -> str:
    """The SQL name of a column's type in a view: as in the files, but for ids, which are text.

    >>> asked_type(pa.uint64()), asked_type(pa.uint8())
    ('VARCHAR', 'UTINYINT')
    """
    return "VARCHAR" if type_ == pa.uint64() else sql_type(type_)


def hex_sql(column: str) -> str:
    """SQL of an unsigned 64-bit number as 16 hex digits (`keys.hex_id`); half the time that format('{:016x}') takes."""
    return f"lpad(lower(hex({column})), 16, '0')"


def asked_sql(column: Column, alias: str) -> str:
    """One column of a table as every query sees it: ids as the text that is printed, so that a printed one can be asked for."""
    name = f"{alias}.{quoted(column.name)}"
    return f"{hex_sql(name)} AS {quoted(column.name)}" if column.type == pa.uint64() else name


def files_sql(table: Table, files: Sequence[Path]) -> str:
    """A relation with the contract's columns over some shards, plus `filename`; typed and empty where there is none.

    A column that a shard written under an older minor contract lacks is null."""
    columns = ", ".join(f"NULL::{sql_type(c.type)} AS {quoted(c.name)}" for c in table.columns)
    empty = f"SELECT {columns}, NULL::VARCHAR AS filename WHERE false"
    if not files:
        return f"({empty})"
    names = ", ".join(literal(str(file)) for file in files)
    return f"({empty} UNION ALL BY NAME SELECT * FROM read_parquet([{names}], union_by_name=true, filename=true))"


def journal_files(lake: Lake, table: str) -> tuple[Path, ...]:
    """The files of a journal table."""
    return tuple(lake.journal(table))


def current(slices: Sequence[Slice]) -> list[Slice]:
    """Slices without those whose every file a newer slice of the same label names again.

    Of evaluations of one policy name on one benchmark only the newest counts: a run trained again is another model. So do the
    newest intervals of a benchmark."""
    kept: list[Slice] = []
    named: dict[str, set[str]] = {}
    measured: set[tuple[str, ...]] = set()
    for slice_ in reversed(slices):
        if "benchmark" in slice_.settings and slice_.table in ("evaluations", "intervals"):
            subject = (slice_.label, str(slice_.settings.get("policy")), str(slice_.settings["benchmark"]))
            if subject in measured:
                continue
            measured.add(subject)
        files = {shard.file for shard in slice_.shards}
        if not files or not files <= named.setdefault(slice_.label, set()):
            kept.append(slice_)
        named.setdefault(slice_.label, set()).update(files)
    return kept[::-1]


@dataclass(frozen=True)
class Pool:
    """One pool: its newest samples slice, the slices it came from, and its newest rewards slice by component label."""

    samples: Slice
    groups: Slice | None
    prompts: Slice | None
    rewards: dict[str, Slice]


def pools(lake: Lake) -> dict[str, Pool]:
    """The pools of a lake by label, oldest first."""
    newest = {samples.label: samples for samples in lake.slices("samples")}
    rewards = lake.slices("rewards")
    found = {}
    for label, samples in newest.items():
        groups = _parent(lake, samples, "groups")
        found[label] = Pool(
            samples,
            groups,
            _parent(lake, groups or samples, "prompts"),
            {r.label: r for r in rewards if samples.path in r.parents},
        )
    return found


def _parent(lake: Lake, slice_: Slice, table: str) -> Slice | None:
    path = next((p for p in slice_.parents if p.startswith(f"{table}/")), None)
    return lake.slice(path) if path else None


def component_labels(lake: Lake) -> list[str]:
    """Labels of every component that some pool has, sorted."""
    return sorted({label for pool in pools(lake).values() for label in pool.rewards})
