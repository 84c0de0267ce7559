"""One shard on disk: validated against the contract, rounded, compressed, written atomically.

Writes Parquet with no clock, host name or path in it, so that the same rows give the same bytes. Refuses what the contract
forbids: a missing, foreign or null column, NaN, a row order that is not by group."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.contract import Column, Table
from data.refusal import Refusal

TOKEN_ROW_GROUP = 128  # whole groups a row group, where rows hold lists: one read serves one step
SCALAR_ROW_GROUP = 131_072  # rows a row group, where rows hold scalars
COPIES_OF = "_uri"  # in a folder of local copies: the address of the lake that they are of
DROPPED_BITS = 23 - 15  # mantissa bits of float32 that are rounded away (relative error ≤ 2^-16)


def round_mantissa(values: np.ndarray) -> np.ndarray:
    """float32 rounded to 15 explicit mantissa bits, to nearest. Infinities and NaN must not enter.

    >>> bool(abs(round_mantissa(np.float32([0.1]))[0] - 0.1) < 0.1 * 2**-16)
    True
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    half = np.uint32(1 << (DROPPED_BITS - 1))
    return ((bits + half) & np.uint32(0xFFFFFFFF << DROPPED_BITS & 0xFFFFFFFF)).view(np.float32)


def validated(table: Table, rows: pa.Table, where: str) -> pa.Table:
    """The rows cast to the contract's schema, log-probabilities rounded. `where` names the shard in a refusal."""
    missing = [c.name for c in table.columns if c.name not in rows.column_names and c.required]
    foreign = [name for name in rows.column_names if name not in table.schema.names]
    if missing or foreign:
        raise Refusal(
            f"{where}: columns missing {missing}, not in the contract {foreign}",
            f"python -m data describe {table.name}",
        )
    columns = []
    for column in table.columns:
        if column.name not in rows.column_names:
            columns.append(pa.nulls(rows.num_rows, column.type))
            continue
        values = rows.column(column.name).combine_chunks()
        if column.required and values.null_count:
            raise Refusal(
                f"{where}: {column.name} is null in {values.null_count} rows", f"python -m data describe {table.name}"
            )
        cast = _cast(values, column.type, f"{where}: {column.name}")
        columns.append(_finite(cast, column, f"{where}: {column.name}", table))
    return pa.Table.from_arrays(columns, schema=table.schema)


def _cast(values: pa.Array, type_: pa.DataType, where: str) -> pa.Array:
    try:
        return values if values.type == type_ else values.cast(type_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Refusal(f"{where}: {str(error).splitlines()[0]}", "python -m data tables") from error


def _finite(values: pa.Array, column: Column, where: str, table: Table) -> pa.Array:
    """Refuse NaN and infinities; round the leaves of log-probability lists."""
    leaves = values.values if pa.types.is_list(values.type) else values
    if not pa.types.is_floating(leaves.type):
        return values
    finite = pc.all(pc.is_finite(leaves)).as_py()
    if finite is False:
        raise Refusal(f"{where} holds NaN or infinity", f"python -m data describe {table.name}")
    if column.name not in table.logprob_columns or not len(leaves):
        return values
    if leaves.null_count and not column.gaps:
        raise Refusal(
            f"{where} holds null inside a list: a missing log-probability is no number",
            f"python -m data describe {table.name}",
        )
    if values.offset:  # from_arrays takes no mask with sliced offsets
        values = values.take(pa.array(np.arange(len(values))))
        leaves = values.values
    mask = pc.is_null(values) if values.null_count else None
    gaps = leaves.is_null().to_numpy(zero_copy_only=False) if leaves.null_count else None
    rounded = pa.array(round_mantissa(leaves.fill_null(0).to_numpy()), mask=gaps)
    return pa.ListArray.from_arrays(values.offsets, rounded, type=values.type, mask=mask)


def group_starts(rows: pa.Table, key: str) -> np.ndarray:
    """Row numbers at which a new group begins, (groups,) int64. Rows of a group stand together."""
    ids = rows.column(key).to_numpy()
    return np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if len(ids) else np.zeros(0, np.int64)


def row_group_bounds(table: Table, rows: pa.Table) -> list[int]:
    """Row numbers where row groups begin and end: whole groups only."""
    if not rows.num_rows:
        return [0, 0]
    key = "group_id" if table.sample_keyed else (table.keys[0] if table.keys else table.columns[0].name)
    starts = group_starts(rows, key)
    if table.per_token(rows):
        cuts = starts[::TOKEN_ROW_GROUP].tolist()
    else:
        cuts = [0]
        while rows.num_rows - cuts[-1] > SCALAR_ROW_GROUP:
            reach = int(starts[np.searchsorted(starts, cuts[-1] + SCALAR_ROW_GROUP, "right") - 1])
            after = starts[np.searchsorted(starts, cuts[-1], "right") :]
            if reach == cuts[-1] and not len(after):
                break  # the last group alone is larger than a row group
            cuts.append(reach if reach > cuts[-1] else int(after[0]))
    return [*cuts, rows.num_rows]


def write_shard(table: Table, rows: pa.Table, path: Path, key: str, where: str) -> str:
    """Write one shard atomically and return the sha256 of its file. A full disk leaves nothing behind."""
    checked = validated(table, rows, where)
    metadata = {b"grpo_kd.table": table.name.encode(), b"grpo_kd.key": key.encode()}
    schema = checked.schema.with_metadata(metadata)
    leaves = [f"{name}.list.element" for name in table.logprob_columns]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    bounds = row_group_bounds(table, checked)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(
            temporary,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[f.name for f in schema if pa.types.is_string(f.type)],
            column_encoding=dict.fromkeys(leaves, "BYTE_STREAM_SPLIT") or None,
        ) as writer:
            for start, end in itertools.pairwise(bounds):
                writer.write_table(
                    checked.slice(start, end - start).replace_schema_metadata(metadata),
                    row_group_size=max(end - start, 1),
                )
        replace_durably(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a read-only disk refuses this too
            temporary.unlink(missing_ok=True)
        raise disk_refusal(error, where) from error
    return file_sha256(path)


def read_shard(
    path: Path,
    key: str | None,
    columns: Sequence[str] | None = None,
    *,
    texts: Sequence[str] = (),
    threads: bool = True,
) -> pa.Table:
    """Rows of one shard. A file that is missing, cut short or of another key than its manifest says is refused by its name.

    `texts`: columns that come as dictionary codes. `threads=False` for callers that read several shards at once."""
    try:
        with pq.ParquetFile(path, read_dictionary=list(texts)) as file:
            found = (file.schema_arrow.metadata or {}).get(b"grpo_kd.key")
            if key is not None and found != key.encode():
                raise Refusal(f"shard {path} is a file of another slice than its manifest says", _verify(path))
            rows = file.read(columns=list(columns) if columns else None, use_threads=threads)
    except (pa.ArrowInvalid, OSError) as error:
        raise Refusal(f"shard {path} cannot be read: {str(error).splitlines()[0]}", _verify(path)) from error
    return rows.replace_schema_metadata(None)


def _verify(path: Path) -> str:
    return f"python -m data verify --lake {lake_of(path)}"


def lake_of(path: Path) -> str:
    """The lake that a shard's file belongs to; a folder of local copies says of which one."""
    root = path.parents[2]
    uri = root / COPIES_OF
    return uri.read_text(encoding="utf-8") if uri.is_file() else str(root)


def replace_durably(temporary: Path, path: Path) -> None:
    """fsync, rename, fsync the folder: after this line the file exists even through a power cut."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def disk_refusal(error: OSError, where: str) -> Refusal:
    """A disk's own error as a sentence."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = (
        "free disk space and run the same command again"
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else "make the folder writable and run the same command again"
    )
    return Refusal(f"{where} could not be written: {reason}", f"{hint}; whatever was published stays")


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
