"""Writes `data/README.md` from the contract, the views and the commands: a test fails where the file is behind.

python -m data.readme
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from data.contract import TABLES, VERSION, Column
from data.expression import FUNCTIONS, GROUP_FUNCTIONS, SAMPLE_COLUMNS
from data.relations import sql_type
from data.storage import SCALAR_ROW_GROUP, TOKEN_ROW_GROUP
from data.views import SLICE_COLUMNS, VIEWS


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


PATH = Path(__file__).parent / "README.md"

HEAD = f"""# The tables

Written by `python -m data.readme` from `contract.py` and `views.py` (contract {VERSION}); edit those.

```
python -m data tables
python -m data sql "SELECT pool, prompt, text FROM reward_table LIMIT 5"
python -m data describe reward_table
python -m data verify
```

From Python:

```python
from data import Lake

lake = Lake.open("data/lake")
lake.sql("SELECT pool, count(*) AS n FROM reward_table GROUP BY pool")  # an Arrow table
lake.scan("samples", label="demo")  # a polars LazyFrame
```

## How it lies on disk

`<lake>/<table>/<label>-<hash>/part-00000.parquet … _manifest.json`. A slice exists once its manifest does; the manifest lists its
shards' keys, files and sha256. Journal tables lie under `<lake>/<table>/journal/`. Tables keyed by `group_id, sample_index` have
the shards and the row order of the `samples` slice they belong to. Row groups hold whole groups: {TOKEN_ROW_GROUP} of them in
tables with lists per token, up to {SCALAR_ROW_GROUP:,} rows elsewhere. Ids are unsigned 64-bit numbers, shown as 16 hex digits.
Null means "not measured" or "not scored", never 0; NaN and infinities are refused. Log-probabilities are in nats, float32 rounded
to 15 mantissa bits.

## What SQL may do here

One SELECT (DESCRIBE, SHOW and SUMMARIZE too) over the tables and views below; nothing else is read and nothing is written. For
more, `python -m data export lake.duckdb` makes a copy that any tool may use. Every table's view covers all slices, with two more
columns:

{{slice_columns}}

## Reward and filter expressions

One number (or one condition) over component labels and {_listed(SAMPLE_COLUMNS)}: `+ - * / %`, comparisons,
`AND OR NOT IN BETWEEN`, `IS NULL`, `CASE`, `coalesce`, `clip(x, low, high)`,
{_listed(name.lower() for name in FUNCTIONS if name != "Pow")},
`power`, and over the whole group or pool {_listed(GROUP_FUNCTIONS)}. What is missing stays missing: only
`coalesce`, `IS NULL` and `CASE` give a null a meaning. Population standard deviations; no spread gives 0.
"""


def render() -> str:
    """The text of data/README.md."""
    parts = [HEAD.replace("{slice_columns}", _columns(SLICE_COLUMNS)), "## Tables"]
    for name, table in TABLES.items():
        kind = "journal: it only grows" if table.journal else "derived: its slices never change"
        keys = f"; ordered by {', '.join(f'`{key}`' for key in table.keys)}" if table.keys else ""
        parts.append(f"### {name}\n\nOne row per {table.one_row_per} ({kind}{keys}).\n\n{_columns(table.columns)}")
    parts.append("## Views")
    for name, view in VIEWS.items():
        more = f"\n\nAnd {view.per_component}." if view.per_component else ""
        parts.append(f"### {name}\n\nOne row per {view.one_row_per}.\n\n{_columns(view.columns)}{more}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _columns(columns: Sequence[Column]) -> str:
    lines = ["| column | type | unit | meaning |", "|---|---|---|---|"]
    for column in columns:
        required = " (never null)" if column.required else ""
        type_ = sql_type(column.type).replace('"', "")
        lines.append(f"| `{column.name}` | {type_} | {column.unit} | {column.doc.replace('|', '∣')}{required} |")
    return "\n".join(lines)


if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")
