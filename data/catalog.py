"""Safe SQL over a lake: one SELECT, over views and their files, and nothing else.

Reads the files that manifests name. Writes nothing and lets nothing be written: several statements, every statement but a
SELECT (DESCRIBE, SHOW and SUMMARIZE count), files outside the views, settings and extensions are refused. `allowed_paths` alone
would let COPY overwrite a listed shard; so the statement's type is checked first and the query runs as a subquery."""

from __future__ import annotations

import os
import re
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.contract import TABLES
from data.lake import Lake
from data.refusal import Refusal, nearest
from data.relations import component_labels, literal, quoted
from data.views import VIEWS, Definition, define

if TYPE_CHECKING:
    import duckdb

MEMORY_LIMIT = "4GB"
TIME_LIMIT = 300.0  # seconds; a question to a table that takes longer is a mistake more often than not
IDS = "python -m data sql \"SELECT * FROM samples WHERE group_id = '0123456789abcdef'\""
TABLES_COMMAND = "python -m data tables"


def run(lake: Lake, query: str, params: Mapping[str, Any] | None = None, *, seconds: float = TIME_LIMIT) -> pa.Table:
    """The answer of one read-only SELECT, materialised. `$name` in the query stands for params[name].

    Raises Refusal for anything but one SELECT, for unknown names (with the nearest), for a missing or cut shard, for a view
    without data, and after `seconds`."""
    import duckdb

    with connection(lake, query) as (con, select, files):
        timer = threading.Timer(seconds, con.interrupt)
        timer.start()
        try:
            # A trailing comment would swallow a closing bracket on its own line.
            wrapped = f"SELECT * FROM (\n{select}\n)"
            return con.sql(wrapped, params=dict(params) if params else None).to_arrow_table()
        except duckdb.InterruptException as error:
            raise Refusal(f"the query took longer than {seconds:g} s", "narrow it with WHERE or LIMIT") from error
        except duckdb.Error as error:
            raise _translated(error, con, files, query) from error
        finally:
            timer.cancel()


@contextmanager
def connection(lake: Lake, query: str) -> Iterator[tuple[duckdb.DuckDBPyConnection, str, list[Path]]]:
    """A locked connection with the views that the query can need, the query's one SELECT, and the files it may read."""
    import duckdb

    con = duckdb.connect(":memory:", config={"python_enable_replacements": "false"})
    try:
        select = _single_select(con, lake, query)
        files = create_views(con, lake, mentioned(query))
        _lock(con, files)
        yield con, select, files
    finally:
        con.close()


def mentioned(query: str) -> list[str]:
    """Views whose names occur in the query as words; all of the tables where none does (SHOW TABLES)."""
    words = set(re.findall(r"\w+", query.lower()))
    return [name for name in (*TABLES, *VIEWS) if name in words] or list(TABLES)


def create_views(con: duckdb.DuckDBPyConnection, lake: Lake, names: list[str]) -> list[Path]:
    """Create views and what they stand on; returns the files they read. Refuses a file that is missing or cut."""
    import duckdb

    made: dict[str, Definition] = {}

    def create(name: str) -> None:
        if name in made:
            return
        made[name] = define(lake, name)
        for needed in made[name].needs:
            create(needed)
        lake.place.fetch(made[name].files)
        con.execute(f"CREATE VIEW {quoted(name)} AS {made[name].sql}")

    files: list[Path] = []
    try:
        for name in names:
            create(name)  # DuckDB opens the files of a view as it is made
    except duckdb.Error as error:
        raise _shard_refusal(str(error), [f for d in made.values() for f in d.files]) from error
    for definition in made.values():
        files.extend(definition.files)
    refuse_foreign(lake, files)
    return list(dict.fromkeys(files))


def refuse_foreign(lake: Lake, files: Sequence[Path]) -> None:
    """Refuse a file that was put in a shard's place: DuckDB would fill the columns it lacks with null, and say nothing."""
    tables = {file: file.relative_to(lake.root).parts[0] for file in files}
    keys: dict[Path, set[str]] = {}
    for slice_ in (s for name in dict.fromkeys(tables.values()) for s in lake.slices(name)):
        for path, shard in zip(slice_.paths, slice_.shards, strict=True):
            keys.setdefault(path, set()).add(shard.key)
    for file, table in tables.items():
        try:
            found = pq.read_metadata(file).metadata or {}
        except (pa.ArrowInvalid, OSError) as error:
            raise _shard_refusal(str(file), [file]) from error
        key = found.get(b"grpo_kd.key", b"").decode()
        if found.get(b"grpo_kd.table") != table.encode() or key not in keys.get(file, {file.stem}):
            raise Refusal(f"shard {file} is a file of another slice", f"python -m data verify --lake {lake.uri}")


def _single_select(con: duckdb.DuckDBPyConnection, lake: Lake, query: str) -> str:
    import duckdb

    try:
        statements = con.extract_statements(query)
    except duckdb.Error as error:
        if (word := re.search(r'at or near "(\w+)"', str(error))) and word[1].lower() in _names(lake):
            again = re.sub(rf'(?<![\w".]){word[1]}(?![\w"])', f'"{word[1]}"', query)
            raise Refusal(
                f"{word[1]} is a word of SQL too: as a column's name it stands in double quotes",
                f"python -m data sql {shlex.quote(again)}",
            ) from error
        raise Refusal(
            f"no SQL: {_first_line(error)}", 'python -m data sql "SELECT * FROM reward_table LIMIT 5"'
        ) from error
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:
        got = f"{len(kinds)} statements" if len(kinds) != 1 else "a statement of type " + kinds[0]
        raise Refusal(
            f"only one SELECT can be asked here (or DESCRIBE, SHOW, SUMMARIZE), this is {got}",
            "python -m data export lake.duckdb, then any SQL on that copy",
        )
    return statements[0].query.strip().rstrip(";")


def _names(lake: Lake) -> set[str]:
    """Columns of every table and view, components too."""
    own = {c.name for table in TABLES.values() for c in table.columns}
    return own | {c.name for view in VIEWS.values() for c in view.columns} | set(component_labels(lake))


def _lock(con: duckdb.DuckDBPyConnection, files: list[Path]) -> None:
    """After this no setting can change and only the listed files can be opened. The order matters: locking comes last."""
    allowed = ", ".join(literal(str(file)) for file in files)
    con.execute(f"SET allowed_paths = [{allowed}]")
    con.execute("SET temp_directory = ''")  # else .tmp/ of the working folder stays writable
    con.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")


def _translated(error: duckdb.Error, con: duckdb.DuckDBPyConnection, files: list[Path], query: str) -> Refusal:
    """DuckDB's error as a sentence with the nearest known name, of what the query asks, and the next command."""
    import duckdb

    message = str(error)
    if found := re.search(r"(?:Table|View) with name (\S+) does not exist", message):
        return Refusal(f"no table or view named {found[1]}: {nearest(found[1], (*TABLES, *VIEWS))}", TABLES_COMMAND)
    column = re.search(r'column "([^"]+)" (?:was )?not found|does not have a column named "([^"]+)"', message)
    if isinstance(error, duckdb.BinderException) and column:
        name = column[1] or column[2]
        asked = mentioned(query)
        columns = "SELECT column_name FROM duckdb_columns() WHERE NOT internal AND list_contains($asked, table_name)"
        known = {row[0] for row in con.execute(columns, {"asked": asked}).fetchall()}
        if asked == list(TABLES):
            return Refusal(f"no column named {name}: the query names no table", TABLES_COMMAND)
        known.discard(name)  # of a table that is mentioned in another place than this
        return Refusal(f"no column named {name}: {nearest(name, known, 0.6)}", f"python -m data describe {asked[0]}")
    if isinstance(error, duckdb.ConversionException) and re.search(r"Could not convert string '[0-9a-f]{16}'", message):
        return Refusal(f"ids are text of 16 hex digits, not numbers: {_first_line(error)}", IDS)
    if isinstance(error, duckdb.PermissionException):
        return Refusal(f"SQL here reads the lake's tables and nothing else: {_first_line(error)}", TABLES_COMMAND)
    if any(str(file) in message for file in files):
        return _shard_refusal(message, files)
    if re.search("TProtocol|thrift|parquet|zstd", message, re.I):
        return Refusal(f"a shard cannot be read: {_first_line(error)}", "python -m data verify")
    return Refusal(_first_line(error), TABLES_COMMAND)


def _shard_refusal(message: str, files: list[Path]) -> Refusal:
    named = next((f for f in files if str(f) in message or not f.is_file()), None)
    what = message.splitlines()[0]
    if named is None:
        return Refusal(what, "python -m data verify")
    state = "is missing" if not named.is_file() else "is no whole Parquet file"
    if named.is_file() and not os.access(named, os.R_OK):
        return Refusal(f"shard {named} cannot be read: Permission denied", f"chmod u+r {named}")
    return Refusal(f"shard {named} {state}", "python -m data verify, then run the factory's stage again")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
