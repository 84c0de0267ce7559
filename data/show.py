"""How tables are shown: on the terminal, as CSV, JSON or Parquet. Nulls are empty (null in JSON); ids are text already."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as Python values that JSON can hold: times as ISO 8601, NaN as null. What is printed can be asked for as it stands."""
    return [
        {name: _plain(value, table.schema.field(name).type) for name, value in row.items()} for row in table.to_pylist()
    ]


def _plain(value: Any, type_: pa.DataType) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
            return None if value != value else str(value)
        return value
    if isinstance(value, Decimal):  # a sum of integers is one
        return int(value) if value == value.to_integral_value() and not type_.scale else float(value)
    if pa.types.is_map(type_):
        return {str(k): _plain(v, type_.item_type) for k, v in value}
    if isinstance(value, list):
        return [_plain(v, type_.value_type) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v, type_.field(k).type) for k, v in value.items()}
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def as_json(table: pa.Table) -> str:
    """One JSON array, an object a row."""
    rows = ",\n ".join(json.dumps(row, ensure_ascii=False) for row in plain_rows(table))
    return f"[{rows}]\n"


def as_csv(table: pa.Table) -> str:
    """CSV with a header; lists and structs as JSON, nulls empty."""
    import csv

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.column_names)
    for row in plain_rows(table):
        writer.writerow([json.dumps(v, ensure_ascii=False) if isinstance(v, list | dict) else v for v in row.values()])
    return out.getvalue()


def as_parquet(table: pa.Table) -> bytes:
    """The rows as a Parquet file, in their own types."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def as_text(table: pa.Table, title: str | None = None) -> str:
    """A table for people, no wider than a terminal, whole where the output is no terminal."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE, pad_edge=False)
    for field in table.schema:
        right = any(is_(field.type) for is_ in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal))
        shown.add_column(Text(field.name), justify="right" if right else "left")
    for row in plain_rows(table):
        shown.add_row(*(Text(_cell(value)) for value in row.values()))
    console = Console(file=io.StringIO(), width=None if sys.stdout.isatty() else 10_000, color_system=None)
    console.print(shown)
    head = f"{title}\n" if title else ""
    return head + "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"  # type: ignore[attr-defined]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


FORMATS: dict[str, Callable[[pa.Table], bytes]] = {
    "table": lambda table: as_text(table).encode(),
    "csv": lambda table: as_csv(table).encode(),
    "json": lambda table: as_json(table).encode(),
    "parquet": as_parquet,
}
