"""What a table of the lake is made of: columns with their types, units and meanings.

Reads and writes nothing; `contract.py` and `journals.py` hold the tables themselves."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

SAMPLE_KEYS = ("group_id", "sample_index")

MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
TOKENS = pa.list_(pa.int32())
NATS = pa.list_(pa.float32())
TEXTS = pa.list_(pa.string())


@dataclass(frozen=True)
class Column:
    """One column: its Arrow type, its unit and its meaning. `required` columns are never null; `gaps`: its lists may hold null."""

    name: str
    type: pa.DataType
    doc: str
    unit: str = ""
    required: bool = False
    gaps: bool = False


@dataclass(frozen=True)
class Table:
    """One table. `keys` order its rows; `tokens` marks the tables with lists per token (small row groups)."""

    name: str
    one_row_per: str
    columns: tuple[Column, ...]
    keys: tuple[str, ...] = ()
    journal: bool = False
    tokens: bool = False

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema that every shard of this table has."""
        return pa.schema([pa.field(c.name, c.type, nullable=not c.required) for c in self.columns])

    @property
    def logprob_columns(self) -> tuple[str, ...]:
        """Columns stored at 15 mantissa bits, byte-stream split."""
        return tuple(c.name for c in self.columns if c.type == NATS and c.unit == "nats")

    def per_token(self, rows: pa.Table) -> bool:
        """Whether these rows hold lists per token: always, or (`rewards.values`) where some row has one."""
        there = [c.name for c in self.columns if c.type in (TOKENS, NATS) and c.name in rows.column_names]
        return self.tokens or any(rows.column(name).null_count < rows.num_rows for name in there)

    @property
    def sample_keyed(self) -> bool:
        """Whether the table is co-partitioned with `samples`."""
        return self.keys == SAMPLE_KEYS


def key(name: str, type_: pa.DataType, doc: str) -> Column:
    """A column that names the row."""
    return Column(name, type_, doc, required=True)
