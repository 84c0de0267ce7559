"""What a driver asks of its workers and what they say: small records, pickled between processes, never written to disk."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from factory.costs import Tally


@dataclass(frozen=True)
class Order:
    """One shard to compute, named by where the driver stands: stage, slice, shard."""

    stage: str
    slice: str
    """`table/name` of the slice in the making."""
    index: int
    parents: tuple[str, ...] = ()
    """Slices that a worker must see before it begins."""


@dataclass(frozen=True)
class Counted:
    """So many more items of a shard are done."""

    items: int


@dataclass(frozen=True)
class Rows:
    """The shard is done: its rows as an Arrow IPC stream, and what it took."""

    ipc: bytes
    tally: Tally

    @classmethod
    def of(cls, table: pa.Table, tally: Tally) -> Rows:
        """The message that carries a table."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return cls(sink.getvalue().to_pybytes(), tally)

    @property
    def table(self) -> pa.Table:
        """The rows."""
        return pa.ipc.open_stream(self.ipc).read_all()


@dataclass(frozen=True)
class Failed:
    """The shard cannot be computed: the two parts of a refusal, or the text of any other error."""

    refusal: tuple[str, str] | None
    text: str


Message = Counted | Rows | Failed


class Lost(Exception):
    """A worker is gone, and with it the shard that it was computing. Says how it ended."""


class NoRoom(Exception):
    """A worker cannot be started now; the others go on. Says what is missing."""
