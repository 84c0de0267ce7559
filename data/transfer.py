"""A lake, or a part of it (part.py), copied to another place: a folder or object storage, both ways.

Reads one lake, writes another: shards under their own names after their bytes were compared with the manifest's sha256, each
manifest after its shards and its parents. What is there is not copied again, so that a copy that was cut goes on. Refuses a
place that holds another slice under the same name, or where a file's name means other bytes; replaces journals only if told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from data.contract import TABLES
from data.lake import Lake
from data.manifest import ShardFile, Slice, read_manifest
from data.part import part_of
from data.progress import progress
from data.refusal import Refusal
from data.storage import file_sha256

AT_ONCE = 8  # files on their way at a time


@dataclass
class Copied:
    """What a copy moved, of the slices and journal files that were chosen; `there` counts what was there before it began.

    Files are parts and journal files, each once, however many slices name it; manifests are not counted."""

    slices: int = 0
    slices_there: int = 0
    files: int = 0
    there: int = 0
    kept: int = 0
    """Journal files that differ there and stay."""
    bytes: int = 0


def transfer(
    source: Lake,
    target: Lake,
    *,
    labels: Sequence[str] = (),
    slices: Sequence[str] = (),
    replace: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Copied:
    """Copy the part of these labels and `table/name` paths (part.py); the whole lake where neither is given.

    `replace`: journal files (a run's metrics, say) that differ there are replaced; else they are named and left."""
    copied = Copied()
    part = part_of(source, labels, slices)
    named = {shard.file: shard.sha256 for name in TABLES for held in target.slices(name) for shard in held.shards}
    with progress(f"copying to {target.uri}", part.files, "files") as advance:
        copy = _Copy(target, replace, copied, named, say, advance)
        for slice_ in part.slices:
            copy.slice(slice_)
        for table, paths in part.journals.items():
            copy.journal(table, paths)
    return copied


@dataclass
class _Copy:
    """One copy on its way: `named` are the files that a manifest there means, or that this copy has been through, by sha256."""

    target: Lake
    replace: bool
    copied: Copied
    named: dict[str, str]
    say: Callable[[str], None]
    advance: Callable[[int], None]
    done: set[str] = field(default_factory=set)

    def slice(self, slice_: Slice) -> None:
        """One slice. What its files would replace, where a manifest there means other bytes, is refused first."""
        target, copied = self.target, self.copied
        if target.has(slice_.path):
            _refuse_other(slice_, target)
        for shard in slice_.shards:
            if self.named.get(shard.file, shard.sha256) != shard.sha256:
                raise Refusal(
                    f"{target.uri}/{shard.file} belongs to a slice there, and is another file than the one to be copied",
                    f"python -m data verify --lake {target.uri}, or another place",
                )
        new = [shard for shard in slice_.shards if shard.file not in self.done]
        missing = [shard for shard in new if not _there(shard, slice_, target)]
        self.advance(len(new) - len(missing))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for shard in pool.map(lambda shard: _copy(shard, slice_, target), missing):
                copied.bytes += slice_.place.size(shard.file)
                self.advance(1)
        copied.files, copied.there = copied.files + len(missing), copied.there + len(new) - len(missing)
        self.done |= {shard.file for shard in new}
        self.named.update({shard.file: shard.sha256 for shard in new})
        text = slice_.place.read_manifest(slice_.path)
        if target.has(slice_.path) or not target.place.write_manifest(slice_.path, text, replace=False):
            _refuse_other(slice_, target)
            copied.slices_there += 1
            return
        copied.slices += 1

    def journal(self, table: str, paths: Sequence[Path]) -> None:
        """A journal's files. One that differs there belongs to a run that went on, here or there."""
        known = {path.stem: file_sha256(path) for path in self.target.journal(table)}
        for path in paths:
            if known.get(path.stem) == file_sha256(path):
                self.copied.there += 1
            elif path.stem in known and not self.replace:
                self.copied.kept += 1
                self.say(
                    f"{table}/journal/{path.stem}: another version is there and stays; --replace puts this one in its place"
                )
            else:
                self.target.place.take_journal(table, path)
                self.copied.files, self.copied.bytes = self.copied.files + 1, self.copied.bytes + path.stat().st_size
            self.advance(1)


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


def summary(copied: Copied, places: Iterable[str]) -> str:
    """One line about a copy."""
    before = f"; there before: {copied.slices_there:,} slices, {copied.there:,} files" if copied.there else ""
    kept = f"; {copied.kept:,} journal files differ there and stay" if copied.kept else ""
    return f"{' → '.join(places)}: {copied.slices:,} slices, {copied.files:,} files, {copied.bytes:,} bytes copied{before}{kept}"
