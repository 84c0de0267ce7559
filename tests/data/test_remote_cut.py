"""The connection to the storage is cut after k bytes, and the writer is killed at random: no half slice, and a rerun completes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data import Key, Lake, Refusal
from data.contract import TABLES
from data.transfer import transfer
from data.verify import verify

KEY = Key({}, contents=("a", "b", "c"))
MEGABYTES = 24 << 20  # more than one part of a multipart upload


class Cutting:
    """A TCP proxy that closes a connection once `allowed` bytes have passed in all; None lets everything pass."""

    def __init__(self, port: int):
        self.allowed: int | None = None
        self.cuts = 0
        self._port, self._lock = port, threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._port))
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(1 << 16):
                if (passed := self._pass(len(block))) < len(block):
                    target.sendall(block[:passed])
                    break
                target.sendall(block)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _pass(self, size: int) -> int:
        """How many of these bytes may pass."""
        with self._lock:
            if self.allowed is None:
                return size
            passed = min(size, self.allowed)
            self.allowed -= passed
            self.cuts += passed < size
            return passed


@pytest.fixture
def cutting(s3: str, s3_server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cutting]:
    monkeypatch.setattr("data.remote.RETRY", {"max_retries": 1})
    proxy = Cutting(int(s3_server[0].rpartition(":")[2]))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield proxy
    proxy.allowed = None


def _rows(index: int, size: int = 2000) -> pa.Table:
    schema = TABLES["prompts"].schema
    text = np.random.default_rng(index).bytes(size // 2).hex()
    columns = {"prompt_id": [index], "messages": [[{"role": "user", "content": text}]], "split": ["train"]}
    return pa.table({name: pa.array(values, schema.field(name).type) for name, values in columns.items()})


def _write(lake: Lake, size: int = 2000) -> None:
    with lake.publish("prompts", KEY, label="cut") as publisher:
        for shard in publisher.pending():
            publisher.write(shard, _rows(shard.index, size))
        publisher.finish()


def _whole_or_absent(server: tuple[str, Path], uri: str, whole: dict[str, bytes]) -> None:
    """Every object that the server shows is one of a run that nobody cut."""
    root = server[1] / uri.removeprefix("s3://")
    for path in (p for p in root.rglob("*") if p.is_file() and p.suffix == ".parquet"):
        assert path.read_bytes() == whole[path.name], path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    lake = Lake.open(tmp_path_factory.mktemp("whole"))
    _write(lake)
    slice_ = lake.slices("prompts")[0]
    pairs = zip(slice_.shards, slice_.files, strict=True)
    return {f"{f.stem}.{shard.sha256[:16]}.parquet": f.read_bytes() for shard, f in pairs}


@pytest.mark.slow
def test_a_cut_connection_leaves_no_half_slice_and_the_rerun_completes(
    cutting: Cutting, s3: str, s3_server: tuple[str, Path], whole: dict[str, bytes]
) -> None:
    for allowed in (0, 500, 2500, 5000, 7000, 9000, 12000):
        cutting.allowed, uri = allowed, f"{s3}/{allowed}"
        with pytest.raises(Refusal, match=uri):
            _write(Lake.open(uri))
        cutting.allowed = None
        _whole_or_absent(s3_server, uri, whole)
        assert Lake.open(uri).slices("prompts") == []
        _write(Lake.open(uri))
        assert verify(Lake.open(uri)).faults == [] and len(Lake.open(uri).slices("prompts")) == 1
    assert cutting.cuts >= 7


@pytest.mark.slow
def test_a_cut_multipart_upload_is_not_there(cutting: Cutting, s3: str, s3_server: tuple[str, Path]) -> None:
    cutting.allowed = MEGABYTES
    with pytest.raises(Refusal, match=s3):
        _write(Lake.open(s3), 2 * MEGABYTES)
    assert not list((s3_server[1] / s3.removeprefix("s3://")).rglob("*.parquet"))
    cutting.allowed = None
    _write(Lake.open(s3), 2 * MEGABYTES)
    assert verify(Lake.open(s3)).faults == []


def test_a_cut_download_leaves_no_half_copy(
    cutting: Cutting, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(Lake.open(s3), 1 << 20)
    monkeypatch.setenv("GRPO_KD_CACHE", str(tmp_path / "elsewhere"))
    there = Lake.open(s3)
    slice_ = there.slices("prompts")[0]
    cutting.allowed = 700_000
    with pytest.raises(Refusal, match=s3):
        there.read(slice_)
    assert not [p for p in there.root.rglob("*") if p.name.endswith((".tmp", ".draft"))]
    cutting.allowed = None
    assert there.read(slice_).num_rows == 3


def test_a_cut_push_goes_on_where_it_was(cutting: Cutting, s3: str, tmp_path: Path) -> None:
    local = Lake.open(tmp_path / "local")
    _write(local, 400_000)
    cutting.allowed = 500_000
    with pytest.raises(Refusal, match=s3):
        transfer(local, Lake.open(s3))
    cutting.allowed = None
    assert Lake.open(s3).slices("prompts") == []
    transfer(local, Lake.open(s3))
    assert verify(Lake.open(s3)).faults == []
    assert transfer(local, Lake.open(s3)).files == 0


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from test_remote_cut import _write
from data import Lake
print("ready", flush=True)
_write(Lake.open(sys.argv[1]))
"""


@pytest.mark.parametrize("seed", range(6))
def test_sigkill_at_a_random_moment(seed: int, s3: str, s3_server: tuple[str, Path], whole: dict[str, bytes]) -> None:
    command = [sys.executable, "-c", WRITER, s3, str(Path(__file__).parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert process.stdout and process.stdout.readline() == b"ready\n"
    time.sleep(random.Random(seed).random() * 1.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _whole_or_absent(s3_server, s3, whole)
    lake = Lake.open(s3)
    before = len(lake.slices("prompts"))
    assert verify(lake).faults == []
    _write(Lake.open(s3))
    made = Lake.open(s3).slices("prompts")
    assert len(made) == 1 and before in (0, 1) and verify(Lake.open(s3)).faults == []
    assert {Path(s.file).name for s in made[0].shards} == set(whole), "the same bytes as without a kill"
