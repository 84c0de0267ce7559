"""A lake on object storage: `s3://bucket/prefix`, read through a folder of local copies.

Writes parts under names that hold their own sha256, so that two writers never overwrite each other, and a manifest by conditional
put: the first writer's stands. An S3 put is atomic and a multipart upload shows nothing until it is complete: a kill or a cut
connection leaves a whole part, which a rerun finds by its name, or none. Copies lie in $GRPO_KD_CACHE (else the user's cache
folder) and are compared with their sha256 as they arrive; the folder may be removed whenever nothing runs, unless a call of an API
was killed: the last seconds' lines of its ledger lie there until the next call.
Endpoint, region and credentials come from the AWS_* variables of the environment and are written nowhere."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa

from data.contract import TABLES, Table
from data.places import MANIFEST, Place, only_missing, whole
from data.refusal import Refusal, is_address
from data.storage import COPIES_OF, disk_refusal, replace_durably, write_shard

SCHEME = "s3://"
BLOCK = 32 << 20  # bytes a request of a download: a cut connection repeats one block, not a shard of gigabytes
PART = 16 << 20  # bytes a part of a multipart upload: S3 allows 10,000 parts
REQUESTS = 8  # at a time
TAG = 16  # hex digits of a file's sha256 in its name
TAGGED = re.compile(rf"\.([0-9a-f]{{{TAG}}})\.parquet$")
RETRY = {"max_retries": 5, "retry_timeout": timedelta(seconds=120)}
CLIENT = {
    "connect_timeout": timedelta(seconds=10),
    "timeout": timedelta(seconds=300),
}  # the latter of one block or part


class Changed(Refusal):
    """An object's bytes are not those of its sha256."""


@dataclass(frozen=True)
class Bucket:
    """A place (places.Place) on object storage. `root`: the folder of local copies. Open it with `Bucket.open`."""

    uri: str
    root: Path
    store: Any = field(compare=False, repr=False)
    _listed: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict, compare=False, repr=False)
    _named: dict[Path, tuple[str, str | None]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def open(cls, uri: str) -> Bucket:
        """The lake at `s3://bucket/prefix`. Refuses other schemes, and credentials in the address."""
        from obstore.store import S3Store

        found = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]+)((?:/[^/?#@]+)*)/?", uri)
        if not found:
            raise Refusal(f"{uri} is no address of a lake", "lake=s3://BUCKET/PREFIX, or lake=FOLDER")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        if endpoint and not is_address(endpoint):  # the library would panic
            raise Refusal(
                f"{uri}: AWS_ENDPOINT_URL is {endpoint!r}, no http address", "export AWS_ENDPOINT_URL=https://HOST"
            )
        plain = {"allow_http": True} if endpoint.startswith("http://") else {}
        options: Any = {**CLIENT, **plain}
        retry: Any = RETRY
        uri = uri.rstrip("/")
        with _border(uri):
            store = S3Store(
                found[1],
                prefix=found[2].strip("/") or None,
                client_options=options,
                retry_config=retry,
                disable_bulk_delete=True,  # not every storage that speaks S3 knows it
            )
        return cls(uri, _copies(uri, endpoint), store)

    def exists(self) -> bool:
        import obstore

        with _border(self.uri, found=False):
            page = obstore.list_with_delimiter(self.store)
        return any(str(prefix).rstrip("/").rpartition("/")[2] in TABLES for prefix in page["common_prefixes"])

    def complete(self, table: str) -> list[str]:
        """One listing of the table, which `holds`, `size` and `kept` answer from until the next."""
        import obstore

        with _border(self.uri, found=False):
            pages = obstore.list(self.store, prefix=f"{table}/")
            self._listed[table] = {meta["path"]: meta for page in pages for meta in page}
        found = [name for name in self._listed[table] if name.endswith(f"/{MANIFEST}")]
        self.fetch([self._manifest(name) for name in found])
        return [name.split("/")[1] for name in found]

    def read_manifest(self, path: str) -> str:
        name = f"{path}/{MANIFEST}"
        self.fetch([self._manifest(name)])
        return self._manifest(name).read_text(encoding="utf-8")

    def write_manifest(self, path: str, text: str, *, replace: bool) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with _border(self.uri, found=False):
            try:
                obstore.put(self.store, f"{path}/{MANIFEST}", text.encode(), mode="overwrite" if replace else "create")
            except AlreadyExistsError:
                return False
            finally:
                self._relist(path.split("/")[0])
        return True

    def holds(self, file: str) -> bool:
        return file in self._list(file.split("/")[0])

    def size(self, file: str) -> int:
        return int(self._list(file.split("/")[0]).get(file, {"size": 0})["size"])

    def path(self, file: str, sha256: str) -> Path:
        """A copy's name holds its sha256: the same name on the storage, other bytes, is another copy."""
        tagged = file if TAGGED.search(file) else f"{file.removesuffix('.parquet')}.{sha256[:TAG]}.parquet"
        self._named[self.root / tagged] = (file, sha256)
        return self.root / tagged

    def fetch(self, paths: Sequence[Path], *, again: bool = False) -> None:
        """Downloads, several at a time; other processes of this machine wait and find the copies."""
        if not (wanted := list(paths) if again else only_missing(paths)):
            return
        self._open_copies()
        with filelock.FileLock(self.root / ".fetch.lock"), ThreadPoolExecutor(REQUESTS) as pool:
            for _ in pool.map(self._download, wanted if again else only_missing(wanted)):
                pass

    def write_part(self, table: Table, rows: pa.Table, stem: str, key: str, where: str) -> tuple[str, str]:
        self._open_copies()
        draft = self.root / f"{stem}.{os.getpid()}.draft"
        sha256 = write_shard(table, rows, draft, key, where)
        file = f"{stem}.{sha256[:TAG]}.parquet"
        draft.replace(self.path(file, sha256))
        self._put(file, self.path(file, sha256))
        return file, sha256

    def kept(self, stem: str) -> tuple[str, Path] | None:
        table = self._list(stem.split("/")[0])
        for file in sorted(name for name in table if name.startswith(f"{stem}.")):
            if tag := TAGGED.search(file):
                path = self.path(file, tag[1])
                with contextlib.suppress(Changed):  # a storage that is no S3 may keep half a body: it is written again
                    self.fetch([path])
                    return file, path
        return None

    def take(self, file: str, sha256: str, source: Place) -> None:
        self._put(file, whole(source, file, sha256))

    def journal(self, table: str) -> list[Path]:
        """A journal's file may be replaced: its copy lies in a folder named by its version."""
        self._relist(table)
        names = sorted(name for name in self._list(table) if re.fullmatch(r"[^/]+/journal/[^/]+\.parquet", name))
        paths = [self.root / table / f"journal-{self._version(name)}" / name.rpartition("/")[2] for name in names]
        self._named.update({path: (name, None) for path, name in zip(paths, names, strict=True)})
        return paths

    def write_journal(self, table: Table, rows: pa.Table, name: str) -> Path:
        self._open_copies()
        draft = self.root / table.name / f".{name}.{os.getpid()}.{threading.get_ident()}.draft"
        write_shard(table, rows, draft, name, f"{table.name}/{name}")
        self._put(f"{table.name}/journal/{name}.parquet", draft)
        draft.unlink()
        made = [path for path in self.journal(table.name) if path.stem == name]
        self.fetch(made)
        return made[0]

    def take_journal(self, table: str, path: Path) -> None:
        self._put(f"{table}/journal/{path.name}", path)

    def unnamed(self, named: set[str], hours: float) -> list[str]:
        """Parts that no manifest names, of folders in which nothing was written for so many hours: a writer may be at work."""
        before, found = datetime.now(UTC) - timedelta(hours=hours), []
        for table in (name for name, contract in TABLES.items() if not contract.journal):
            self._relist(table)
            young = {n.rpartition("/")[0] for n, meta in self._list(table).items() if meta["last_modified"] > before}
            found += [n for n in self._list(table) if n.endswith(".parquet") and n not in named]
            found = [name for name in found if name.rpartition("/")[0] not in young]
        return sorted(found)

    def remove(self, files: Sequence[str]) -> int:
        """Delete objects; returns the bytes freed."""
        import obstore

        freed = sum(self.size(file) for file in files)
        with _border(self.uri):
            obstore.delete(self.store, list(files))
        for file in files:
            self._list(file.split("/")[0]).pop(file, None)
        return freed

    def _list(self, table: str) -> dict[str, Mapping[str, Any]]:
        if table not in self._listed:
            self.complete(table)
        return self._listed[table]

    def _relist(self, table: str) -> None:
        self._listed.pop(table, None)

    def _version(self, name: str) -> str:
        meta = self._list(name.split("/")[0])[name]
        mark = f"{meta['e_tag']} {meta['last_modified'].isoformat()} {meta['size']}"
        return hashlib.sha256(mark.encode()).hexdigest()[:TAG]

    def _manifest(self, name: str) -> Path:
        """A manifest may be renewed: its copy is named by its version."""
        path = self.root / name.rpartition("/")[0] / f"_manifest.{self._version(name)}.json"
        self._named[path] = (name, None)
        return path

    def _put(self, file: str, path: Path) -> None:
        import obstore

        with _border(self.uri, found=False):
            put = obstore.put(self.store, file, path, chunk_size=PART)
        now = {"size": path.stat().st_size, "e_tag": put["e_tag"], "last_modified": datetime.now(UTC)}
        self._list(file.split("/")[0])[file] = now

    def _download(self, path: Path) -> None:
        """One file under a temporary name, then under its own; an object that is gone leaves nothing."""
        file, sha256 = self._named[path]
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _border(self.uri), temporary.open("wb") as out:
                found = hashlib.sha256()
                for block in self._blocks(file, whole_at_once=sha256 is None):
                    found.update(block)
                    out.write(block)
            if sha256 and not found.hexdigest().startswith(sha256):
                raise Changed(
                    f"{self.uri}/{file} was changed: its sha256 is not the manifest's",
                    f"python -m data verify --lake {self.uri}",
                )
            replace_durably(temporary, path)
        except FileNotFoundError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_refusal(error, str(path)) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _blocks(self, file: str, *, whole_at_once: bool) -> Iterator[Any]:
        """An object's bytes. What may be replaced meanwhile is read by one request: two would mix two versions."""
        import obstore

        if whole_at_once:
            yield obstore.get(self.store, file).bytes()
            return
        size = obstore.head(self.store, file)["size"]
        for start in range(0, size, BLOCK):
            yield obstore.get_range(self.store, file, start=start, end=min(start + BLOCK, size))

    def _open_copies(self) -> None:
        """The folder of copies says whose they are: messages about a copy name the lake."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / COPIES_OF).write_text(self.uri, encoding="utf-8")
        except OSError as error:
            raise disk_refusal(error, str(self.root)) from error


def _copies(uri: str, endpoint: str) -> Path:
    """The folder of local copies of a lake: one for each address and endpoint."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grpo-kd"
    top = Path(os.environ.get("GRPO_KD_CACHE") or cache).absolute()
    mark = hashlib.sha256(f"{endpoint} {uri}".encode()).hexdigest()[:12]
    return top / "lakes" / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', uri.removeprefix(SCHEME))}-{mark}"


@contextlib.contextmanager
def _border(uri: str, *, found: bool = True) -> Iterator[None]:
    """The storage's own errors as a sentence, here and nowhere else.

    `found`: what is asked for may be missing, and the caller knows what that means; else a missing bucket is an error too."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        if found and isinstance(error, FileNotFoundError):
            raise
        reason = re.sub(r"\s+", " ", str(error).split("Debug source")[0]).strip()
        raise Refusal(
            f"{uri}: {reason[:300]}",
            "check AWS_ENDPOINT_URL, AWS_REGION and the credentials in the environment, then run the same command again",
        ) from error
