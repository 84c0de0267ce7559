"""Every answer that was paid for, so that it is never paid for twice: the journal table `ledger`.

An answer is a line of `ledger/CALL.jsonl`, on disk (fsync) before anybody sees it. Full files, and at the end the last one, become
`ledger/journal/CALL.parquet`, and their sums rows of `costs`. A process that was killed leaves its lines; the next one folds them,
without the last where it is torn. Where the lake is on object storage the lines lie on this machine, so they are sent there as well
while the file grows: a machine that is lost takes at most SENT answers, and none that is older than SECONDS. Reads and writes
these; refuses a second writer."""

from __future__ import annotations

import json
import os
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract import COSTS, LEDGER
from data.keys import digest
from data.lake import Lake
from data.refusal import Refusal
from data.relations import journal_files
from data.storage import disk_refusal
from factory.engines import ChatRequest

FOLD = 4096  # answers in a file of lines before it becomes Parquet: what a start after a kill reads at most
SENT = 128  # answers on this machine alone, at most, where the lake is elsewhere; beside those in flight
SECONDS = 10.0  # and for how long; each time the whole file is sent again, under the same name
KEPT = 16  # row groups kept in memory: a rerun asks in about the order of the first call
DRAWN = ("temperature", "top_p", "top_k", "max_tokens", "repetition_penalty")


def ledger_key(model: str, extra: Mapping[str, Any], request: ChatRequest, candidate: int) -> str:
    """What an answer is found by: model, conversation, sampling, and which of several draws it is. The server is not in it.

    A greedy answer does not depend on its seed, so a recipe with another seed finds it."""
    messages = [[m["role"], m["content"]] for m in request.messages]
    sampling = {name: getattr(request.sampling, name) for name in DRAWN}
    seed = None if request.sampling.greedy else request.seeds[candidate]
    return digest([model, dict(extra), messages, sampling, candidate, seed])


class Ledger:
    """The table with its index by key. One process at a time writes it; all methods are called from one thread."""

    def __init__(self, lake: Lake):
        self.lake, self.folder = lake, lake.root / "ledger"
        self._lock = filelock.FileLock(self.folder / ".lock", thread_local=False)
        self._lines: dict[str, dict[str, Any]] = {}
        self._file: TextIO | None = None
        self._path: Path | None = None
        self._unsent = 0
        self._sent: Path | None = None
        self._groups: OrderedDict[tuple[Path, int], list[dict[str, Any]]] = OrderedDict()
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._sums: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
        self._snapshots: dict[str, str] = {}
        self._acquire()
        try:
            for path in sorted(self.folder.glob("*.jsonl")):
                _fold(lake, path, list(_whole_lines(path)))
            for path in journal_files(lake, LEDGER.name):
                self._index(path)
        except (
            BaseException
        ):  # whatever it is, an interrupt too: nobody has this object, so nobody else could let the lock go
            self._lock.release()
            raise

    def _acquire(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=10)
        except filelock.Timeout as error:
            raise Refusal(
                f"another process asks an API for the lake {self.lake.root}, and one at a time may spend its budget",
                "wait for it, then run the same command",
            ) from error
        except OSError as error:
            raise disk_refusal(error, LEDGER.name) from error

    def _index(self, path: Path) -> None:
        columns = ["key", "model", "served_by", "recipe", "price", "prompt_tokens", "answer_tokens"]
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                for i, row in enumerate(file.read_row_group(number, columns=columns).to_pylist()):
                    self._places[row["key"]] = (path, number, i)
                    self._count(row)

    def _count(self, row: Mapping[str, Any]) -> None:
        money, tokens = self._sums[row["recipe"]]
        billed = (row["prompt_tokens"] or 0) + (row["answer_tokens"] or 0)
        self._sums[row["recipe"]] = (money + (row["price"] or 0.0), tokens + billed)
        if row["served_by"] is not None:
            self._snapshots.setdefault(row["model"], row["served_by"])

    def __len__(self) -> int:
        return len(self._places) + len(self._lines)

    def spent(self, recipe: str) -> tuple[float, int]:
        """USD and tokens of all answers that a recipe has paid for; what no server counted is not in it."""
        return self._sums[recipe]

    def snapshot(self, model: str) -> str | None:
        """The name under which a model answered first; None where it has not yet."""
        return self._snapshots.get(model)

    def names(self, model: str) -> list[str]:
        """The model, and the names it was asked under before somebody named this snapshot."""
        return [model, *(asked for asked, served in self._snapshots.items() if served == model != asked)]

    def get(self, key: str) -> dict[str, Any] | None:
        """The row of an answer, or None where it was never paid for."""
        if key in self._lines:
            return self._lines[key]
        if key not in self._places:
            return None
        path, number, i = self._places[key]
        if (path, number) not in self._groups:
            with pq.ParquetFile(path) as file:
                self._groups[path, number] = file.read_row_group(number).to_pylist()
            if len(self._groups) > KEPT:
                self._groups.popitem(last=False)
        self._groups.move_to_end((path, number))
        return self._groups[path, number][i]

    def write(self, row: dict[str, Any]) -> None:
        """Put one answer on disk."""
        row["created_at"] = datetime.now(UTC).isoformat()
        if self._file is None:
            self._open()
        assert self._file is not None
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise disk_refusal(error, f"{LEDGER.name} {self._path}") from error
        self._lines[row["key"]] = row
        self._count(row)
        self._unsent += 1
        if len(self._lines) >= FOLD:
            self.fold()
        elif self._unsent >= SENT:
            self.send()

    def send(self) -> None:
        """Where the lake is elsewhere: have there what was written since. Called by `write`, every SECONDS, before a shard."""
        if self.lake.remote is None or self._path is None or not self._unsent:
            return
        before, self._sent = self._sent, _append(self.lake, self._path.stem, list(self._lines.values()))
        self._unsent = 0
        if before is not None:
            before.unlink(missing_ok=True)  # the copy of an older version, which nobody asks for any more

    def _open(self) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S-%f")
        self._path = self.folder / f"{stamp}-{os.getpid()}.jsonl"
        try:
            self._file = self._path.open("x", encoding="utf-8")
            folder = os.open(self.folder, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except OSError as error:
            raise disk_refusal(error, f"{LEDGER.name} {self._path}") from error

    def fold(self) -> None:
        """Make the lines written so far Parquet, and book them in `costs`."""
        if self._file is None or self._path is None:
            return
        self._file.close()
        self._index_folded(_fold(self.lake, self._path, list(self._lines.values())))
        self._file, self._lines, self._unsent, self._sent = None, {}, 0, None

    def _index_folded(self, path: Path) -> None:
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                for i, key in enumerate(file.read_row_group(number, columns=["key"]).column(0).to_pylist()):
                    self._places[key] = (path, number, i)

    def close(self) -> None:
        """Fold, and let another process write."""
        try:
            self.fold()
        finally:
            self._lock.release()


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a killed process. The last is torn where the kill came while it was written: nobody has seen that answer."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines):
        try:
            if line:
                yield json.loads(line)
        except ValueError as error:
            if number < len(lines) - 1:
                raise Refusal(
                    f"{path} line {number + 1} is no JSON, and it is not the last",
                    "copy the lake's folder ledger again",
                ) from error


def _fold(lake: Lake, path: Path, rows: list[dict[str, Any]]) -> Path:
    """Lines to Parquet, then away with them. Names follow from the file's, so that a kill in between does no harm."""
    made = _append(lake, path.stem, rows)
    path.unlink()
    return made


def _append(lake: Lake, call: str, rows: list[dict[str, Any]]) -> Path:
    """A call's lines so far, and what they cost, in place of what stood under its name."""
    typed = [{**row, "created_at": datetime.fromisoformat(row["created_at"])} for row in rows]
    if rows:
        lake.append(COSTS.name, pa.Table.from_pylist(_costs(call, typed), schema=COSTS.schema), f"ledger-{call}")
    return lake.append(LEDGER.name, pa.Table.from_pylist(typed, schema=LEDGER.schema), call)


def _costs(call: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per recipe, stage and model: tokens and money. Items and seconds stand in the stage's own row."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["recipe"], row["stage"], row["model"]].append(row)
    return [
        {
            "stage": stage,
            "recipe": recipe,
            "produced": f"ledger/{call}",
            "model": model,
            "tokens_in": _sum(own, "prompt_tokens"),
            "tokens_out": _sum(own, "answer_tokens"),
            "seconds": 0.0,
            "device": "api",
            "money": _sum(own, "price"),
            "created_at": own[-1]["created_at"],
        }
        for (recipe, stage, model), own in found.items()
    ]


def _sum(rows: list[dict[str, Any]], column: str) -> Any:
    """The sum of what is known; null where nothing is."""
    known = [row[column] for row in rows if row[column] is not None]
    return sum(known) if known else None
