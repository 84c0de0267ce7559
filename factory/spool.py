"""Records put aside by shard while a source is read, so that whatever its order no more than one shard is held in memory.

Writes one file without a name in the given folder; it is gone when the spool is closed or the process ends. Memory: 12 bytes a
record."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from data.storage import disk_refusal


class Spool:
    """Add all records, then read the shards, as often as need be. A context manager."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._shards, self._starts = array("I"), array("Q", [0])

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        if "_file" in self.__dict__:
            self._file.close()

    def add(self, shard: int, record: Any) -> None:
        """Put a record that JSON can hold behind the others of its shard. Raises Refusal where the disk is full."""
        content = json.dumps(record).encode()
        try:
            self._file.write(content)
        except OSError as error:
            raise disk_refusal(error, f"a temporary file in {self.folder}") from error
        self._shards.append(shard)
        self._starts.append(self._starts[-1] + len(content))

    def read(self, shard: int) -> Iterator[Any]:
        """The shard's records, in the order in which they were added."""
        order, shards = self._order
        for number in order[slice(*np.searchsorted(shards, [shard, shard + 1]))].tolist():
            self._file.seek(self._starts[number])
            yield json.loads(self._file.read(self._starts[number + 1] - self._starts[number]))

    @cached_property
    def _file(self) -> IO[bytes]:
        """Made with the first record: what is refused before leaves no folder behind."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return tempfile.TemporaryFile(dir=self.folder)
        except OSError as error:
            raise disk_refusal(error, f"a temporary file in {self.folder}") from error

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the records by shard, and the shard of each."""
        shards = np.array(self._shards)
        order = np.argsort(shards, kind="stable")
        return order, shards[order]
