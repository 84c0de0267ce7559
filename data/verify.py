"""Whether the lake is what its manifests say, and what no manifest names.

`verify` reads every manifest and every file, or, `fast`, only what needs no file's whole content; it writes nothing and stops at no
fault. `garbage` and `collect` find and remove shards of slices that were never finished and temporary files; a slice that is being
written (its lock is held) is left alone."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract import TABLES, Table
from data.lake import Lake
from data.manifest import FILE, ShardFile, Slice, read_manifest, read_slices
from data.refusal import Refusal
from data.relations import journal_files
from data.remote import Bucket
from data.storage import file_sha256, read_shard


@dataclass
class Verification:
    """Counts of what was looked at, and every fault as a sentence."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    lost: int = 0
    """How many of them a copy of the lake puts right: files that are gone or not the manifest's, parents that are gone."""
    journals: int = 0
    """How many of these are files of journals."""
    broken: int = 0
    """How many faults are manifests that say nothing."""

    def next_step(self, lake: Lake) -> str:
        """What puts the faults right."""
        again = "remove the damaged files, then run the factory's stages of those slices again"
        if not self.lost:
            return again
        if isinstance(lake.remote, Bucket):  # there a copy compares sizes, and would leave what was changed
            return f"remove the changed files, then python -m data push {lake.uri} --lake GOOD_COPY; or {again}"
        # pulled with --replace, a damaged file of a journal would take along the runs that went on since the copy
        unread = ["the slices whose manifest is none"] * bool(self.broken) + ["the journals' damaged files"] * bool(
            self.journals
        )
        first = f"remove {' and '.join(unread)}, then " if unread else ""
        copy = f"python -m data pull GOOD_COPY --lake {lake.uri}"
        rest = len(self.faults) - self.lost - self.broken
        return f"{first}{copy}" + (f" puts {self.lost} right" if rest else "") + f"; without a copy {again}"


def verify(lake: Lake, *, fast: bool = False) -> Verification:
    """Check every slice: its files' existence, sha256, rows, key and columns; its parents; its keys against its parent's.

    `fast`: without sha256 and keys, the rest from the files' last bytes; on object storage of files their existence alone."""
    result = Verification()
    seen: dict[str, tuple[str, str | None]] = {}
    slices: dict[str, Slice] = {}
    damaged: set[str] = set()
    for name, table in TABLES.items():
        for slice_ in _slices(lake, name, result):
            slices[slice_.path] = slice_
            result.counts["slices"] += 1
            result.counts["rows"] += slice_.rows
            for shard in slice_.shards:
                if fault := _shard_fault(lake, table, shard, seen, result, fast):
                    damaged.add(shard.file)
                    result.faults.append(f"{slice_.path}: {fault}")
        for path in journal_files(lake, name) if table.journal else ():
            result.counts["journal files"] += 1
            if fault := _parquet_fault(table, path, path.stem):
                result.faults.append(f"{name}/journal/{path.name} {fault}")
                result.lost, result.journals = result.lost + 1, result.journals + 1
    for slice_ in slices.values():
        gone = [f"its parent {path} is gone" for path in slice_.parents if path not in slices]
        result.lost += len(gone)
        faults = [*gone, *_parent_faults(slice_, slices, damaged, fast=fast)]
        result.faults += [f"{slice_.path}: {fault}" for fault in faults]
    return result


def _slices(lake: Lake, table: str, result: Verification) -> Iterator[Slice]:
    for name in sorted(lake.place.complete(table)):
        try:
            yield read_manifest(lake.place, table, name)
        except Refusal as error:
            result.faults.append(str(error.args[0]))
            result.broken += 1


def _shard_fault(
    lake: Lake,
    table: Table,
    shard: ShardFile,
    seen: dict[str, tuple[str, str | None]],
    result: Verification,
    fast: bool,
) -> str | None:
    """What is wrong with one shard. A file that several slices name is read once, and read anew: a local copy proves nothing.

    `fast`: as far as its last bytes say, without sha256, and nothing is fetched."""
    if not lake.place.holds(shard.file):
        result.lost += 1
        return f"{shard.file} is missing"
    if shard.file not in seen:
        result.counts["files"] += 1
        result.counts["bytes"] += lake.place.size(shard.file)
        path = lake.place.path(shard.file, shard.sha256)
        try:
            if not fast:
                lake.place.fetch([path], again=True)
        except Refusal as error:
            result.lost += 1
            return str(error.args[0])
        here = not fast or lake.remote is None
        fault = _parquet_fault(table, path, shard.key, shard.rows) if here else None
        seen[shard.file] = ("" if fast else file_sha256(path), fault)
    sha256, fault = seen[shard.file]
    if not fast and sha256 != shard.sha256:
        result.lost += 1
        return f"{shard.file} was changed: its sha256 is not the manifest's"
    return f"{shard.file} {fault}" if fault else None


def _parquet_fault(table: Table, path: Path, key: str, rows: int | None = None) -> str | None:
    try:
        with pq.ParquetFile(path) as file:
            metadata, found, schema = file.schema_arrow.metadata or {}, file.metadata.num_rows, file.schema_arrow
    except (pa.ArrowInvalid, OSError) as error:
        return f"is no Parquet file: {str(error).splitlines()[0]}"
    if rows is not None and found != rows:
        return f"holds {found} rows, the manifest says {rows}"
    if metadata.get(b"grpo_kd.key") != key.encode() or metadata.get(b"grpo_kd.table") != table.name.encode():
        return "is a shard of another slice"
    wrong = [c.name for c in table.columns if c.required and c.name not in schema.names]
    wrong += [f.name for f in schema if f.name not in table.schema.names or f.type != table.schema.field(f.name).type]
    return f"has other columns than the contract: {', '.join(wrong)}" if wrong else None


def _parent_faults(slice_: Slice, slices: dict[str, Slice], damaged: set[str], *, fast: bool) -> Iterator[str]:
    """Keys that are not those of a first parent in another table, shard by shard.

    Damaged files are passed over; `fast`: keys are not compared."""
    parent = slices.get(slice_.parents[0]) if slice_.parents else None
    # answers made of answers (translated, several teachers together) have rows of their own
    if parent is None or slice_.table == parent.table or TABLES[slice_.table].keys != TABLES[parent.table].keys:
        return
    if len(parent.shards) != len(slice_.shards):
        yield f"has {len(slice_.shards)} shards, its parent {parent.path} has {len(parent.shards)}"
        return
    keys = list(TABLES[slice_.table].keys)
    for own, theirs in () if fast else zip(slice_.shards, parent.shards, strict=True):
        if {own.file, theirs.file} & damaged:
            continue
        ours = read_shard(slice_.file(own.index), own.key, keys)
        if not ours.equals(read_shard(parent.file(theirs.index), theirs.key, keys)):
            yield f"shard {own.index} holds other rows than its parent {parent.path}"


def unfinished(lake: Lake) -> list[tuple[str, bool]]:
    """(table/name, whether it is being written) of slices in a folder that have no manifest; of object storage nothing is known.

    A folder whose every part a manifest names is no slice: another one, whose content is the same, was copied without it."""
    if isinstance(lake.remote, Bucket):
        return []
    derived = [name for name, table in TABLES.items() if not table.journal]
    folders = [path for name in derived for path in sorted((lake.root / name).glob("*")) if path.is_dir()]
    without = [path for path in folders if path.name != "journal" and not (path / FILE).is_file()]
    named = {
        shard.file
        for name in {p.parent.name for p in without}
        for s in _slices(lake, name, Verification())
        for shard in s.shards
    }
    without = [path for path in without if not _borrowed(lake, path, named)]
    return [(f"{p.parent.name}/{p.name}", _being_written(lake, p.parent.name, p.name)) for p in without]


def _borrowed(lake: Lake, folder: Path, named: set[str]) -> bool:
    parts = [path.relative_to(lake.root).as_posix() for path in folder.glob("*.parquet")]
    return bool(parts) and named.issuperset(parts)


def garbage(lake: Lake, *, hours: float = 24) -> list[Path]:
    """Files that no manifest names: shards of slices never finished, temporary files. Refuses a broken manifest.

    Paths as in the lake. `hours`: where no lock tells, on object storage and in journals, what was written to since then is left
    alone."""
    names = {shard.file for name in TABLES for s in read_slices(lake.place, name) for shard in s.shards}
    if isinstance(lake.remote, Bucket):
        return [lake.root / file for file in lake.remote.unnamed(names, hours)]
    named, found = {lake.root / file for file in names}, []
    for name in TABLES:
        for folder in sorted(path for path in (lake.root / name).glob("*") if path.is_dir()):
            if _being_written(lake, name, folder.name):
                continue
            since = time.time() - hours * 3600 if folder.name == "journal" else math.inf
            found += sorted(path for path in folder.glob(".*.tmp") if path.stat().st_mtime <= since)
            if folder.name != "journal":
                found += sorted(path for path in folder.glob("part-*.parquet") if path not in named)
    return found


def _being_written(lake: Lake, table: str, name: str) -> bool:
    path = lake.root / table / f".{name}.lock"
    if not path.exists():
        return False
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    lock.release()
    return False


def _shards(lake: Lake, folder: Path) -> tuple[ShardFile, ...]:
    return read_manifest(lake.place, folder.parent.name, folder.name).shards if (folder / FILE).is_file() else ()


def collect(lake: Lake, files: list[Path]) -> int:
    """Remove files, and folders that this leaves empty; returns the bytes freed.

    Each folder under its slice's lock: a slice that was taken up or finished since `garbage` looked keeps its files."""
    if isinstance(lake.remote, Bucket):
        return lake.remote.remove([path.relative_to(lake.root).as_posix() for path in files])
    freed = 0
    for folder in sorted({path.parent for path in files}):
        try:
            with filelock.FileLock(folder.parent / f".{folder.name}.lock", timeout=0):
                kept = {lake.root / s.file for s in _shards(lake, folder)}
                for path in (p for p in files if p.parent == folder and p not in kept and p.exists()):
                    freed += path.stat().st_size
                    path.unlink()
        except filelock.Timeout:
            continue
    for folder in sorted({path.parent for path in files}):
        if folder.name != "journal" and not any(folder.iterdir()):
            folder.rmdir()
    return freed
