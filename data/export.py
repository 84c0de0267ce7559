"""One DuckDB file with the contents of every table and view, for any SQL and any tool.

Reads the lake. Writes one file, under a temporary name until it is whole. Refuses an existing file unless told to replace it, and
a file inside the lake. Views that have no data yet are left out and named."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from data.catalog import refuse_foreign
from data.contract import TABLES
from data.lake import Lake
from data.refusal import Refusal
from data.relations import quoted
from data.storage import replace_durably
from data.views import VIEWS, define

READABLE = "v1.0.0"  # by every DuckDB from this version on, the command line too, which may be older than our library


def export(lake: Lake, target: Path, *, replace: bool = False) -> dict[str, int | None]:
    """Copy the lake into `target`; rows of each table and view by name, None where a view has no data yet."""
    import duckdb

    target = target.resolve()
    if target.is_relative_to(lake.root.resolve()):
        raise Refusal(f"{target} lies inside the lake", "python -m data export lake.duckdb")
    if target.exists() and not replace:
        raise Refusal(f"{target} exists", f"python -m data export {target} --replace")
    if not target.parent.is_dir():
        raise Refusal(f"there is no folder {target.parent}", f"mkdir -p {target.parent}")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        rows = _copy(lake, temporary)
        replace_durably(temporary, target)
    except (duckdb.Error, OSError) as error:
        raise Refusal(
            f"{target} could not be written: {str(error).splitlines()[0]}", "python -m data verify"
        ) from error
    finally:
        for leftover in (temporary, temporary.with_name(temporary.name + ".wal")):
            with contextlib.suppress(OSError):  # a read-only disk refuses this too
                leftover.unlink(missing_ok=True)
    return rows


def _copy(lake: Lake, path: Path) -> dict[str, int | None]:
    import duckdb

    rows: dict[str, int | None] = {}
    con = duckdb.connect(
        str(path), config={"python_enable_replacements": "false", "storage_compatibility_version": READABLE}
    )
    try:
        for name in (*TABLES, *VIEWS):
            try:
                definition = define(lake, name)
            except Refusal:
                if name in TABLES:
                    raise
                rows[name] = None
                continue
            if name in VIEWS and any(rows.get(needed, 0) is None for needed in definition.needs):
                rows[name] = None
                continue
            lake.place.fetch(definition.files)
            refuse_foreign(lake, definition.files)
            con.execute(f"CREATE TABLE {quoted(name)} AS {definition.sql}")
            rows[name] = con.sql(f"SELECT count(*) FROM {quoted(name)}").fetchall()[0][0]
    finally:
        con.close()
    return rows
