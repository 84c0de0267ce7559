"""A lake, or chosen slices of it, copied to another place: a folder or object storage, both ways.

Reads one lake, writes another: shards under their own names after their bytes were compared with the manifest's sha256, each
manifest after its shards and its parents. What is there is not copied again, so that a copy that was cut goes on. Refuses a
place that holds another slice under the same name, or where a file's name means other bytes; replaces journals only if told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from data.contract import TABLES
from data.lake import Lake
from data.manifest import ShardFile, Slice, read_manifest
from data.refusal import Refusal, nearest
from data.storage import file_sha256

AT_ONCE = 8  # files on their way at a time


@dataclass
class Copied:
    """What a copy moved: slices, files and their bytes; `there`: files that were there already."""

    slices: int = 0
    files: int = 0
    bytes: int = 0
    there: int = 0


def transfer(
    source: Lake,
    target: Lake,
    *,
    labels: Sequence[str] = (),
    slices: Sequence[str] = (),
    replace: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Copied:
    """Copy slices with these labels or `table/name` paths, and their parents; everything, journals too, where neither is given.

    `replace`: journal files (a run's metrics, say) that differ there are replaced; else they are named and left."""
    copied = Copied()
    named = {shard.file: shard.sha256 for name in TABLES for held in target.slices(name) for shard in held.shards}
    for slice_ in chosen(source, labels, slices):
        _slice(slice_, target, named, copied)
        say(f"{slice_.path}: {slice_.rows:,} rows")
    for table in (name for name in TABLES if TABLES[name].journal and not (labels or slices)):
        _journal(source, target, table, replace, copied, say)
    return copied


def chosen(lake: Lake, labels: Sequence[str], paths: Sequence[str]) -> list[Slice]:
    """The slices asked for and everything that they were made from, parents first."""
    every = {slice_.path: slice_ for name in TABLES for slice_ in lake.slices(name)}
    for label in labels:
        if label not in {slice_.label for slice_ in every.values()}:
            raise Refusal(
                f"no slice labelled {label} in {lake.uri}: {nearest(label, {s.label for s in every.values()})}",
                f"python -m data tables --lake {lake.uri}",
            )
    for path in paths:
        if path not in every:
            raise Refusal(
                f"no slice {path} in {lake.uri}: {nearest(path, every)}", f"python -m data tables --lake {lake.uri}"
            )
    asked = [s.path for s in every.values() if s.label in labels or s.path in paths] if labels or paths else list(every)
    found: dict[str, Slice] = {}

    def add(path: str) -> None:
        if path in every and path not in found:
            for parent in every[path].parents:
                add(parent)
            found[path] = every[path]

    for path in asked:
        add(path)
    return list(found.values())


def _slice(slice_: Slice, target: Lake, named: Mapping[str, str], copied: Copied) -> None:
    """One slice. What its files would replace, where `named` says that a manifest there means other bytes, is refused first."""
    if target.has(slice_.path):
        _refuse_other(slice_, target)
    for shard in slice_.shards:
        if named.get(shard.file, shard.sha256) != shard.sha256:
            raise Refusal(
                f"{target.uri}/{shard.file} belongs to a slice there, and is another file than the one to be copied",
                f"python -m data verify --lake {target.uri}, or another place",
            )
    missing = [shard for shard in slice_.shards if not _there(shard, slice_, target)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for shard in pool.map(lambda shard: _copy(shard, slice_, target), missing):
            copied.bytes += slice_.place.size(shard.file)
    copied.files, copied.there = copied.files + len(missing), copied.there + len(slice_.shards) - len(missing)
    text = slice_.place.read_manifest(slice_.path)
    if target.has(slice_.path) or not target.place.write_manifest(slice_.path, text, replace=False):
        _refuse_other(slice_, target)
        return
    copied.slices += 1


def _copy(shard: ShardFile, slice_: Slice, target: Lake) -> ShardFile:
    target.place.take(shard.file, shard.sha256, slice_.place)
    return shard


def _refuse_other(slice_: Slice, target: Lake) -> None:
    table, _, name = slice_.path.partition("/")
    if read_manifest(target.place, table, name).shards != slice_.shards:
        raise Refusal(
            f"{target.uri} holds another slice under the name {slice_.path}: its files differ",
            f"python -m data verify --lake {target.uri}, or another place",
        )


def _there(shard: ShardFile, slice_: Slice, target: Lake) -> bool:
    """Whether the file is there. In a folder its sha256 says so; on object storage, where a file is whole or absent, its size."""
    if not target.place.holds(shard.file):
        return False
    if target.remote is None:
        return file_sha256(target.place.path(shard.file, shard.sha256)) == shard.sha256
    return target.place.size(shard.file) == slice_.place.size(shard.file)


def _journal(source: Lake, target: Lake, table: str, replace: bool, copied: Copied, say: Callable[[str], None]) -> None:
    """A journal's files. One that differs there belongs to a run that went on, here or there."""
    known = {path.stem: file_sha256(path) for path in target.journal(table)}
    for path in source.journal(table):
        if known.get(path.stem) == file_sha256(path):
            copied.there += 1
        elif path.stem in known and not replace:
            say(
                f"{table}/journal/{path.stem}: another version is there and stays; --replace puts this one in its place"
            )
        else:
            target.place.take_journal(table, path)
            copied.files, copied.bytes = copied.files + 1, copied.bytes + path.stat().st_size


def summary(copied: Copied, places: Iterable[str]) -> str:
    """One line about a copy."""
    return (
        f"{' → '.join(places)}: {copied.slices} slices, {copied.files} files, {copied.bytes:,} bytes copied; "
        f"{copied.there} files were there"
    )
