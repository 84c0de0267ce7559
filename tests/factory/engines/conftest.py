"""A real server that fails on purpose, in a process of its own; engines that ask it, and commands over a recipe that names it."""

from __future__ import annotations

import json
import os
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

ROOT = Path(__file__).parents[3]
CANARY = "sk-canary-7f3a9d"  # the key in the environment of every command: it may be found nowhere


@dataclass
class Server:
    """Its address, and what it saw."""

    url: str
    log: Path

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What happened, in order: asked, answered or gone. A line in the writing is not there yet."""
        whole = self.log.read_text(encoding="utf-8").rpartition("\n")[0]
        lines = [json.loads(line) for line in whole.splitlines()]
        return [line for line in lines if line["event"] == kind]

    def asked(self) -> list[str]:
        """The texts that it was asked, in order."""
        return [event["text"] for event in self.events("asked")]


@pytest.fixture
def tokenizer() -> str | None:
    """The tokenizer's file whose tokens the server bills; None: words. A test module may name one."""
    return None


@pytest.fixture
def server(tmp_path: Path, tokenizer: str | None) -> Iterator[Server]:
    """`tests/factory/engines/api_server.py` as a process."""
    port, log = tmp_path / "port", tmp_path / "server.jsonl"
    script = Path(__file__).with_name("api_server.py")
    counting = [] if tokenizer is None else [tokenizer]
    process = subprocess.Popen([sys.executable, str(script), str(port), str(log), *counting])
    began = time.monotonic()
    while not port.exists():
        assert process.poll() is None and time.monotonic() - began < 20
        time.sleep(0.02)
    yield Server(f"http://127.0.0.1:{port.read_text()}/v1", log)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture
def open_apis(server: Server, tmp_path: Path) -> Iterator[Callable[..., Apis]]:
    """`open_apis(budget=…, timeout=…)`: the endpoint `e` of the server over the test's lake or another; closed at the end."""
    opened: list[Apis] = []

    def go(budget: Any = None, recipe: str = "r", lake: str = str(tmp_path / "lake"), **settings: Any) -> Apis:
        fields = {"base_url": server.url, "timeout": 1.0, "prices": {"tiny": Price(1000, 2000)}} | settings
        apis = Apis(Lake.open(lake), recipe, {"e": Endpoint(**fields)}, Limit.read(budget))
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
def chat() -> Callable[..., ChatRequest]:
    """`chat(7, "text")`: a request of that number."""
    return request


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


@pytest.fixture
def write_recipe(server: Server, tmp_path: Path, tiny_model: Callable[..., str]) -> Callable[..., None]:
    """`write_recipe("kill", [{"messages": …}], components=…)`: a recipe with the teacher `tiny` at the endpoint `e`, the server."""
    from omegaconf import OmegaConf

    def write(name: str, rows: list[dict[str, Any]], factory: dict[str, Any] | None = None, **values: Any) -> None:
        prompts = tmp_path / f"{name}.jsonl"
        prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        prices = {"tiny": {"input": 1000, "output": 2000}, "critic": {"input": 500, "output": 1000}}
        endpoint = {"base_url": server.url, "api_key_env": "THE_KEY", "concurrency": 4, "prices": prices}
        recipe = {
            "name": name,
            "runs": str(tmp_path / "runs"),
            "prompts": {"path": str(prompts)},
            "student": {"path": tiny_model("llama")},
            "teacher": {"path": "tiny", "endpoint": "e"},
            "answers": {"max_tokens": 8, "temperature": 1},
            "sampling": {"n": 2, "max_tokens": 4},
            "components": {"chrf": {"use": "similarity", "metric": "chrf", "to": "references"}},
            "reward": "chrf",
            **values,
            "factory": {"shard_groups": 16, "endpoints": {"e": endpoint}, **(factory or {})},
        }
        folder = tmp_path / "conf" / "recipe"
        folder.mkdir(parents=True, exist_ok=True)
        text = OmegaConf.to_yaml(OmegaConf.create(recipe))
        (folder / f"{name}.yaml").write_text(f"# @package _global_\n{text}", encoding="utf-8")

    return write


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """`start("factory", "recipe=kill", …)`: the command as a process, with the key in its environment, in a group of its own."""

    def go(module: str, *words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *words, "--config-dir", str(tmp_path / "conf")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "THE_KEY": CANARY, "OMP_NUM_THREADS": "1", **environment},
            start_new_session=True,
        )

    return go


@pytest.fixture
def ended() -> Callable[..., str]:
    """`ended(process, code=0)`: what it printed, once it ended with that code; the key is never in it."""

    def wait(process: subprocess.Popen[str], code: int = 0) -> str:
        out, err = process.communicate(timeout=240)
        assert process.returncode == code, err
        assert CANARY not in out + err
        return out + err

    return wait


@pytest.fixture
def with_key(server: Server, tmp_path: Path) -> Callable[..., list[Path]]:
    """`with_key(folder, …)`: the files under the test's folder, and under these, that hold the key in any form."""

    def search(*folders: Path) -> list[Path]:
        files = [path for folder in (tmp_path, *folders) for path in folder.rglob("*") if path.is_file()]
        assert files
        return [path for path in files if path != server.log and CANARY.encode() in path.read_bytes()]

    return search
