"""Where a lake lies: a folder here, object storage in remote.py. One set of verbs, so that nothing else asks which it is.

Names of files are relative to the lake (`samples/demo-1234/part-00000.parquet`). A part is whole or not there; a manifest is
written after the parts that it names. Refuses nothing itself but a full or read-only disk."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from data.contract import TABLES, Table
from data.refusal import Refusal
from data.storage import disk_refusal, file_sha256, replace_durably, write_shard

MANIFEST = "_manifest.json"


class Place(Protocol):
    """What a lake needs of the place where it lies. `root` is its folder, or the folder of its local copies."""

    @property
    def root(self) -> Path: ...
    @property
    def uri(self) -> str:
        """As the user names it."""
        ...

    def exists(self) -> bool:
        """Whether anything of a lake is there."""
        ...

    def complete(self, table: str) -> list[str]:
        """Names of the table's slices that have a manifest, as of now."""
        ...

    def read_manifest(self, path: str) -> str:
        """The manifest's text of the slice `table/name`."""
        ...

    def write_manifest(self, path: str, text: str, *, replace: bool) -> bool:
        """Write a manifest; False where another writer's is there already and it was not to be replaced."""
        ...

    def holds(self, file: str) -> bool:
        """Whether a file is there."""
        ...

    def size(self, file: str) -> int:
        """Bytes of a file; 0 where it is not there."""
        ...

    def path(self, file: str, sha256: str) -> Path:
        """Where a shard's bytes are on this machine, or will be once fetched."""
        ...

    def fetch(self, paths: Sequence[Path], *, again: bool = False) -> None:
        """Bring files that `path` or `journal` named to this machine; one that is gone stays missing. `again`: even if here."""
        ...

    def write_part(self, table: Table, rows: pa.Table, stem: str, key: str, where: str) -> tuple[str, str]:
        """Write one shard (storage.write_shard); its file's name and sha256."""
        ...

    def kept(self, stem: str) -> tuple[str, Path] | None:
        """A part that was written under this stem without a manifest: its name, and where it is here."""
        ...

    def take(self, file: str, sha256: str, source: Place) -> None:
        """Copy a shard from another place under the same name. Refuses bytes of another sha256."""
        ...

    def journal(self, table: str) -> list[Path]:
        """Paths of a journal table's files, in the order of their names (the stem is the name); fetched by `fetch`."""
        ...

    def write_journal(self, table: Table, rows: pa.Table, name: str) -> Path:
        """Write or replace one file of a journal table."""
        ...

    def take_journal(self, table: str, path: Path) -> None:
        """Copy a journal's file, which lies here, under its own name."""
        ...


@dataclass(frozen=True)
class Folder:
    """A lake in a folder: rename makes a file, a lock (lake.Publisher) keeps writers of one slice apart."""

    root: Path

    @property
    def uri(self) -> str:
        return str(self.root)

    def exists(self) -> bool:
        return any((self.root / name).is_dir() for name in TABLES)

    def complete(self, table: str) -> list[str]:
        return [path.parent.name for path in (self.root / table).glob(f"*/{MANIFEST}")]

    def read_manifest(self, path: str) -> str:
        return (self.root / path / MANIFEST).read_text(encoding="utf-8")

    def write_manifest(self, path: str, text: str, *, replace: bool) -> bool:
        file = self.root / path / MANIFEST
        if file.exists() and not replace:
            return False
        _write(file, lambda temporary: temporary.write_text(text, encoding="utf-8"), path)
        return True

    def holds(self, file: str) -> bool:
        return (self.root / file).is_file()

    def size(self, file: str) -> int:
        return (self.root / file).stat().st_size if self.holds(file) else 0

    def path(self, file: str, sha256: str) -> Path:
        return self.root / file

    def fetch(self, paths: Sequence[Path], *, again: bool = False) -> None:
        """Everything is here."""

    def write_part(self, table: Table, rows: pa.Table, stem: str, key: str, where: str) -> tuple[str, str]:
        file = f"{stem}.parquet"
        return file, write_shard(table, rows, self.root / file, key, where)

    def kept(self, stem: str) -> tuple[str, Path] | None:
        file = f"{stem}.parquet"
        return (file, self.root / file) if self.holds(file) else None

    def take(self, file: str, sha256: str, source: Place) -> None:
        found = whole(source, file, sha256)
        _write(self.root / file, lambda temporary: shutil.copyfile(found, temporary), file)

    def journal(self, table: str) -> list[Path]:
        return sorted((self.root / table / "journal").glob("*.parquet"))

    def write_journal(self, table: Table, rows: pa.Table, name: str) -> Path:
        path = self.root / table.name / "journal" / f"{name}.parquet"
        write_shard(table, rows, path, name, f"{table.name}/{name}")
        return path

    def take_journal(self, table: str, path: Path) -> None:
        file = self.root / table / "journal" / path.name
        _write(file, lambda temporary: shutil.copyfile(path, temporary), f"{table}/{path.stem}")


def whole(source: Place, file: str, sha256: str) -> Path:
    """Where a shard of `source` is on this machine, its bytes compared with the manifest's sha256."""
    path = source.path(file, sha256)
    source.fetch([path])
    if not path.is_file():
        raise Refusal(f"{source.uri}/{file} is missing", f"python -m data verify --lake {source.uri}")
    if file_sha256(path) != sha256:
        raise Refusal(
            f"{source.uri}/{file} was changed: its sha256 is not the manifest's",
            f"python -m data verify --lake {source.uri}",
        )
    return path


def only_missing(paths: Iterable[Path]) -> list[Path]:
    """Paths at which nothing is, each once."""
    return [path for path in dict.fromkeys(paths) if not path.is_file()]


def _write(path: Path, fill: Callable[[Path], object], where: str) -> None:
    """A whole file under its name, or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fill(temporary)
        replace_durably(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a read-only disk refuses this too
            temporary.unlink(missing_ok=True)
        raise disk_refusal(error, where) from error
