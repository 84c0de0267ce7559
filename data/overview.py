"""What the lake holds and what its columns mean. Reads manifests and file sizes; opens no Parquet file."""

from __future__ import annotations

import pyarrow as pa

from data.contract import TABLES, Column
from data.lake import Lake
from data.refusal import Refusal, nearest
from data.relations import asked_type, component_labels, current, journal_files
from data.views import SLICE_COLUMNS, VIEWS, define


def overview(lake: Lake) -> tuple[pa.Table, pa.Table]:
    """Tables (rows, slices, bytes, what a row is) and views (whether they have data, what a row is)."""
    import pyarrow.parquet as pq

    held = []
    for name, table in TABLES.items():
        slices = lake.slices(name)
        if table.journal:
            files = journal_files(lake, name)
            rows, size = sum(pq.read_metadata(file).num_rows for file in files), sum(f.stat().st_size for f in files)
        else:
            shards = {shard.file: shard.rows for s in current(slices) for shard in s.shards}
            rows, size = sum(shards.values()), sum(map(lake.place.size, shards))
        held.append(
            {
                "table": name,
                "rows": rows,
                "slices": len(slices),
                "bytes": size,
                "one row per": table.one_row_per,
            }
        )
    views = [{"view": n, "data": _has_data(lake, n), "one row per": v.one_row_per} for n, v in VIEWS.items()]
    return pa.Table.from_pylist(held), pa.Table.from_pylist(views)


def _has_data(lake: Lake, view: str) -> str:
    try:
        definition = define(lake, view)
    except Refusal:
        return "not yet"
    return "not yet" if any(n in VIEWS and _has_data(lake, n) == "not yet" for n in definition.needs) else "yes"


def described(name: str, lake: Lake) -> tuple[str, pa.Table]:
    """A title and a row a column of one table or view. Component columns are those of the lake, where there is one."""
    if name in TABLES:
        columns = [*TABLES[name].columns, *SLICE_COLUMNS]
        return f"{name}: one row per {TABLES[name].one_row_per}", _columns(columns)
    if name not in VIEWS:
        raise Refusal(f"no table or view named {name}: {nearest(name, (*TABLES, *VIEWS))}", "python -m data tables")
    view = VIEWS[name]
    columns = list(view.columns)
    if name == "reward_table":
        columns += [Column(label, pa.float64(), "a component; null: not scored") for label in component_labels(lake)]
    title = f"{name}: one row per {view.one_row_per}"
    return title + (f"; {view.per_component}" if view.per_component else ""), _columns(columns)


def _columns(columns: list[Column]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"column": c.name, "type": asked_type(c.type), "unit": c.unit, "meaning": c.doc} for c in columns]
    )
