"""A real server that fails on purpose, in a process of its own, and engines that ask it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data.config import ModelSettings
from data.lake import Lake
from factory.endpoints import Endpoint, Limit, Price
from factory.engines import ChatRequest, TokenSampling
from factory.engines.api import Apis


@dataclass
class Server:
    """Its address, and what it saw."""

    url: str
    log: Path

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What happened, in order: asked, answered or gone."""
        lines = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line["event"] == kind]

    def asked(self) -> list[str]:
        """The texts that it was asked, in order."""
        return [event["text"] for event in self.events("asked")]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """`tests/factory/engines/api_server.py` as a process."""
    port, log = tmp_path / "port", tmp_path / "server.jsonl"
    script = Path(__file__).with_name("api_server.py")
    process = subprocess.Popen([sys.executable, str(script), str(port), str(log)])
    began = time.monotonic()
    while not port.exists():
        assert process.poll() is None and time.monotonic() - began < 20
        time.sleep(0.02)
    yield Server(f"http://127.0.0.1:{port.read_text()}/v1", log)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture
def open_apis(server: Server, tmp_path: Path) -> Iterator[Callable[..., Apis]]:
    """`open_apis(budget=…, timeout=…)`: the endpoint `e` of the server over the test's lake; closed by the test or at its end."""
    opened: list[Apis] = []

    def go(budget: Any = None, recipe: str = "r", **settings: Any) -> Apis:
        fields = {"base_url": server.url, "timeout": 1.0, "prices": {"tiny": Price(1000, 2000)}} | settings
        apis = Apis(Lake.open(tmp_path / "lake"), recipe, {"e": Endpoint(**fields)}, Limit.read(budget))
        opened.append(apis)
        return apis

    yield go
    for apis in opened:
        if not apis.loop.is_closed():
            apis.close()


def request(number: int, text: str, draws: int = 1, **sampling: Any) -> ChatRequest:
    """A conversation of one message; greedy unless told otherwise."""
    drawn = TokenSampling(**({"temperature": 0.0, "max_tokens": 8} | sampling))
    return ChatRequest(number, [{"role": "user", "content": text}], [1000 + number + i for i in range(draws)], drawn)


@pytest.fixture
def ask() -> Callable[..., dict[tuple[int, int], Any]]:
    """`ask(apis, ["text", …])`: (request, candidate) → Answer."""

    def go(
        apis: Apis, texts: list[str], model: str = "tiny", draws: int = 1, **sampling: Any
    ) -> dict[tuple[int, int], Any]:
        engine = apis.engine(ModelSettings(path=model, endpoint="e"), "answers")
        found = engine.answer(request(i, text, draws, **sampling) for i, text in enumerate(texts))
        return {(answer.request_id, answer.candidate): answer for answer in found}

    return go
