"""Rows of a source: a file (.jsonl, .json, .parquet, .csv) or a data set of the hub.

Files are read as they are, so that a wrong line is named by its number; hub data sets come through the library `datasets`. Rows
are read anew each time they are gone through, and few are held at once; a .json list and a .csv table are held whole. Refuses a
missing file, a broken line, an empty source and a column that is not there."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from data.refusal import Refusal, nearest

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
BATCH = 1024  # rows of a table that are objects of Python at once


class Source(Protocol):
    """The fields that every source in a recipe has."""

    @property
    def path(self) -> str: ...
    @property
    def config(self) -> str | None: ...
    @property
    def split(self) -> str: ...


def is_file(path: str) -> bool:
    """Whether a path names a file rather than a hub data set."""
    return Path(path).suffix in SUFFIXES


class Rows:
    """A source's rows in order, as dicts. `what` names the recipe's key in refusals; `limit`: only the first so many."""

    def __init__(self, source: Source, what: str, limit: int | None = None):
        if not source.path:
            raise Refusal(f"{what}: the path is empty", f"{what}.path=FILE")
        if is_file(source.path) and source.split != "train":
            raise Refusal(f"{what}: {source.path} is a file and has no split {source.split!r}", f"{what}.split=train")
        self.source, self.what, self.limit = source, what, limit

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return itertools.islice(self._rows, self.limit)

    @cached_property
    def _rows(self) -> Iterable[dict[str, Any]]:
        path = self.source.path
        return _file_rows(path, self.what) if is_file(path) else _hub_rows(self.source, self.what)

    @cached_property
    def names(self) -> list[str]:
        """The columns, in order of their first appearance. Objects of JSON need not be alike, so all of them are read."""
        alike = Path(self.source.path).suffix not in (".json", ".jsonl")
        found: dict[str, None] = {}
        some = False
        for row in itertools.islice(self, 1 if alike else None):
            some = True
            found |= dict.fromkeys(row)
        if not some:
            raise Refusal(f"{self.what}: {self.source.path} has no rows", f"{self.what}.path=FILE")
        return list(found)


def _file_rows(path: str, what: str) -> Iterable[dict[str, Any]]:
    file = Path(path)
    if not file.is_file():
        siblings = [p.name for p in file.parent.glob(f"*{file.suffix}") if p.is_file()] if file.parent.is_dir() else []
        hint = f": {nearest(file.name, siblings)}" if siblings else ""
        raise Refusal(f"{what}: there is no file {path}{hint}", f"{what}.path=FILE")
    if file.suffix == ".json":
        return _json_list(file)
    return _Lines(file) if file.suffix == ".jsonl" else _Batches(file)


@dataclass(frozen=True)
class _Lines:
    """The rows of a .jsonl file."""

    file: Path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self.file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _row(line, f"{self.file} line {number}")


def _json_list(file: Path) -> list[dict[str, Any]]:
    try:
        rows = _parsed(file.read_bytes())
    except ValueError as error:
        raise Refusal(f"{file} is no JSON: {error}", "correct the file") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Refusal(f"{file} is no list of objects", "write one object a row, or use .jsonl")
    return rows


def _parsed(content: bytes) -> Any:
    """JSON in UTF-8. An escaped half of a surrogate pair is no character, and no Parquet file can hold it."""
    values = json.loads(content.decode("utf-8"))
    if b"\\ud" in content.lower():
        json.dumps(values, ensure_ascii=False).encode("utf-8")
    return values


def _row(content: bytes, where: str) -> dict[str, Any]:
    try:
        row = _parsed(content)
    except ValueError as error:
        raise Refusal(f"{where} is no JSON: {error}", "correct that line") from error
    if not isinstance(row, dict):
        raise Refusal(f"{where} is no JSON object", "correct that line")
    return row


@dataclass(frozen=True)
class _Batches:
    """The rows of a .parquet or .csv file."""

    file: Path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        import pyarrow as pa

        try:
            for batch in self._batches():
                yield from batch.to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise Refusal(f"{self.file} cannot be read: {str(error).splitlines()[0]}", "give another file") from error

    def _batches(self) -> Iterator[Any]:
        import pyarrow.csv
        import pyarrow.parquet

        if self.file.suffix == ".csv":
            yield from pyarrow.csv.read_csv(self.file).to_batches(BATCH)
            return
        with pyarrow.parquet.ParquetFile(self.file) as file:
            yield from file.iter_batches(BATCH)


def _hub_rows(source: Source, what: str) -> Iterable[dict[str, Any]]:
    import datasets

    try:
        return datasets.load_dataset(source.path, source.config, split=source.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise Refusal(
            f"{what}: no data set {source.path} (split {source.split}): {str(error).strip().splitlines()[0]}",
            f"{what}.path=FILE.jsonl, or a hub id that can be had",
        ) from error


def mapped(there: Sequence[str], columns: Mapping[str, str], known: Sequence[str], what: str) -> dict[str, str]:
    """Our column → the source's, for the columns that are there. Refuses names that neither side knows."""
    for ours, theirs in columns.items():
        if ours not in known:
            raise Refusal(
                f"{what}.columns: {ours!r} is no column of ours; {nearest(ours, known)}", "correct the recipe"
            )
        if theirs not in there:
            raise Refusal(
                f"{what}.columns: the source has no column {theirs!r}; {nearest(theirs, there)}", "correct the recipe"
            )
    return {name: name for name in known if name in there} | dict(columns)


def messages_of(value: Any, where: str, system: str | None = None) -> list[dict[str, str]]:
    """A conversation from a text (one user message) or a list of messages. Refuses what is neither, or empty."""
    from data.keys import nfc

    chat = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(chat, list) or not chat or not all(isinstance(m, Mapping) for m in chat):
        raise Refusal(f"{where} is neither a text nor a list of messages", "map `messages` to another column")
    for message in chat:
        if not isinstance(message.get("content"), str) or not isinstance(message.get("role"), str):
            raise Refusal(f"{where} holds a message without role and content", "correct that row")
    if not "".join(m["content"] for m in chat).strip():
        raise Refusal(f"{where} is an empty prompt", "remove that row")
    first = [{"role": "system", "content": system}] if system else []
    return [{"role": m["role"], "content": nfc(m["content"])} for m in (*first, *chat)]
