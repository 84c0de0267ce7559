"""What the lake holds and what its columns mean. Reads manifests and file sizes; opens no Parquet file."""

from __future__ import annotations

import pyarrow as pa

from data.contract import TABLES, Column
from data.lake import Lake
from data.manifest import Slice
from data.refusal import Refusal, nearest
from data.relations import asked_type, component_labels, current, journal_files
from data.views import SLICE_COLUMNS, VIEWS, define


def overview(lake: Lake) -> tuple[pa.Table, pa.Table]:
    """Tables (rows, slices, bytes, what a row is) and views (whether they have data, what a row is).

    Rows are those that SQL counts: of two labels that name one file, each has its rows. Bytes are those on the disk, once."""
    import pyarrow.parquet as pq

    held = []
    for name, table in TABLES.items():
        slices = lake.slices(name)
        if table.journal:
            there = journal_files(lake, name)
            rows, size = sum(pq.read_metadata(file).num_rows for file in there), sum(f.stat().st_size for f in there)
        else:
            shown = current(slices)
            files = {shard.file for s in shown for shard in s.shards}
            rows, size = sum(s.rows for s in shown), sum(map(lake.place.size, files))
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


def labels(lake: Lake) -> pa.Table:
    """A row a label: its samples where it is a pool's, its slices, the tables they are of. Pools come first.

    Models are left out: their labels are their names, and nothing is asked for by them."""
    found: dict[str, dict[str, list[Slice]]] = {}
    for name in (name for name in TABLES if name != "models"):
        for slice_ in lake.slices(name):
            found.setdefault(slice_.label, {}).setdefault(name, []).append(slice_)
    rows = [
        {
            "label": label,
            "samples": held["samples"][-1].rows if "samples" in held else None,
            "slices": sum(map(len, held.values())),
            "tables": ", ".join(held),
        }
        for label, held in sorted(found.items(), key=lambda item: ("samples" not in item[1], item[0]))
    ]
    types = (("label", pa.string()), ("samples", pa.int64()), ("slices", pa.int64()), ("tables", pa.string()))
    return pa.Table.from_pylist(rows, schema=pa.schema(types))


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
