"""Writes `data/README.md` from the contract, the views and the commands: a test fails where the file is behind.

python -m data.readme
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from data.contract import TABLES, VERSION, Column
from data.expression import FUNCTIONS, GROUP_FUNCTIONS, SAMPLE_COLUMNS
from data.relations import asked_type
from data.storage import SCALAR_ROW_GROUP, TOKEN_ROW_GROUP
from data.views import SLICE_COLUMNS, VIEWS


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


PATH = Path(__file__).parent / "README.md"

HEAD = f"""# The tables

Written by `python -m data.readme` from `contract.py`, `journals.py`, `views.py` and `leaderboard.py`, contract {VERSION}:
edit those.

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
tables with lists per token (and where `rewards.values` has some), up to {SCALAR_ROW_GROUP:,} rows elsewhere. Ids are unsigned
64-bit numbers in the files; SQL sees them as 16 hex digits. Null means "not measured" or "not scored", never 0; NaN and
infinities are refused. Log-probabilities are in nats, float32 rounded to 15 mantissa bits.

## On object storage

`lake=s3://bucket/prefix` (`--lake` here) is the same lake: the same files and manifests, parts with sixteen digits of their
sha256 in their names. Endpoint, region and credentials come from the environment (`AWS_ENDPOINT_URL`, `AWS_REGION`,
`AWS_ACCESS_KEY_ID`, …) and are written nowhere. The storage must know conditional put (`If-None-Match`): of two writers of one
slice the first one's manifest stands. Files are fetched as a query or a run needs them, compared with their sha256, and kept in
`GRPO_KD_CACHE` (else the user's cache folder), which may be removed whenever nothing runs and no call of an API was killed.
`push` and `pull` copy a lake, or some slices with what they were made from, between folders and storage. `gc` removes what no
manifest names; there, only from slices that nobody wrote to for a day. Multipart uploads that a kill left open are invisible
but billed: let the bucket expire them.

## What SQL may do here

One SELECT (DESCRIBE, SHOW and SUMMARIZE too) over the tables and views below; nothing else is read and nothing is written. For
more, `python -m data export lake.duckdb` makes a copy that any tool may use. Every table's view covers all slices, with two more
columns:

{{slice_columns}}

## Ids, and joins of views with tables

In SQL, and in what `export` writes, every id is text of 16 hex digits, as it is printed: a copied one can be asked for, and ids of
views and tables join. (The files, `lake.scan` and `lake.read` hold numbers: `int(text, 16)`.) Items of `evaluations` on prompts are
ids too.

```
python -m data sql "SELECT * FROM samples WHERE group_id = '112472ad9b4e513e'"
python -m data sql "SELECT r.prompt, r.text, s.behaviour_logprobs \
  FROM reward_table r JOIN samples s USING (slice, group_id, sample_index) WHERE r.pool = 'demo'"
```

**Join on `slice` as well.** Tables hold every slice: a pool that was topped up, or reused under another label, has the same group
ids twice in `samples`, and a join by them alone counts its rows twice. `reward_table` has the newest slice of each pool and names
it. Where a view has no slice, compare its `pool` with the table's `label`; of scores and rewards the label says which scorer's or
component's they are (`demo-teacher`, `chrf`).

## Reward and filter expressions

One number (or one condition) over component labels and {_listed(SAMPLE_COLUMNS)}: `+ - * / %`, comparisons,
`AND OR NOT IN BETWEEN`, `IS NULL`, `CASE`, `coalesce`, `clip(x, low, high)`,
{_listed(name.lower() for name in FUNCTIONS if name != "Pow")},
`power`, and over the whole group or pool {_listed(GROUP_FUNCTIONS)}. What is missing stays missing: only
`coalesce`, `IS NULL` and `CASE` give a null a meaning. Population standard deviations; no spread gives 0.

`log_quantile_group(x)` is log F̂, F̂ the share of the group whose `x` is no higher. Best-of-N distillation (BOND, arXiv
2407.14622) of any expression `x` is the reward `(N−1)*log_quantile_group(x)`, say `3*log_quantile_group(agreement + language)` for
best of four, with `trainer.losses.kl=1` towards the policy that was sampled: its optimum is ∝ π·F^(N−1), best-of-N where no text
has much of π's mass. F̂ has G steps: choose G ≥ 2N.
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
        type_ = asked_type(column.type).replace('"', "")
        lines.append(f"| `{column.name}` | {type_} | {column.unit} | {column.doc.replace('|', '∣')}{required} |")
    return "\n".join(lines)


if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")
