"""A call that ends with a refusal while another shard is asked for: it ends, and what that shard has in flight is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from data.config import ModelSettings
from data.lake import Lake
from data.refusal import Refusal

SHARD = 16


@pytest.fixture
def ask_for(write_recipe: Callable[..., None], start: Callable[..., subprocess.Popen[str]], tmp_path: Any) -> Any:
    """`ask_for(first, second)`: a process that asks for two shards at once, whose messages begin with these words."""

    def go(first: list[str], second: list[str], *command: str, **endpoint: Any) -> subprocess.Popen[str]:
        words = first + ["slow:1"] * (SHARD - len(first)) + second + ["slow:1"] * (SHARD - len(second))
        rows = [{"messages": f"{w} hvat eitur nummar {i} ?", "split": "train"} for i, w in enumerate(words)]
        write_recipe("two", rows, components={}, reward=None)
        overrides = [f"factory.endpoints.e.{name}={value}" for name, value in endpoint.items()]
        module, *more = command or ["factory"]
        own = ["recipe=two", f"lake={tmp_path}/lake", "stages=[prompts,answers]"]
        return start(module, *own, *overrides, *more)

    return go


def kept(tmp_path: Any) -> set[str]:
    return {
        row["text"].removeprefix("answer to ")
        for row in Lake.open(f"{tmp_path}/lake").sql("SELECT text FROM ledger").to_pylist()
    }


@pytest.mark.slow
def test_a_refusal_in_one_shard_keeps_what_the_other_has_in_flight(server, ask_for, ended, tmp_path):
    process = ask_for(["slow:0.3"] * 6 + ["404"], ["slow:0.5", "slow:3"] * 8, concurrency=6)
    assert "status 404" in ended(process, code=2)
    (refused,) = (event["at"] for event in server.events("answered") if event["text"].startswith("404"))
    later = {event["text"] for event in server.events("answered") if event["at"] > refused}
    assert any(text.startswith("slow:3") for text in later)  # else this test tests nothing
    asked = server.events("asked")
    assert kept(tmp_path) == {event["text"] for event in asked if not event["text"].startswith("404")} > later
    assert not server.events("gone")
    assert not [event for event in asked if event["at"] > refused + 0.5]  # not for that shard, not for the other


@pytest.mark.slow
def test_a_refusal_does_not_wait_for_attempts_that_the_other_shard_would_make_later(server, ask_for, ended):
    began = time.monotonic()
    said = ended(ask_for(["slow:0.5"] * (SHARD - 1) + ["404"], ["429:9"] * 4, attempts=9, concurrency=10), code=2)
    assert "status 404" in said
    assert any(event["text"].startswith("429") for event in server.events("asked"))
    assert time.monotonic() - began < 60  # nine attempts take a minute and a half


def test_of_several_failures_the_first_in_time_is_told(server, open_apis, ask):
    apis = open_apis(concurrency=2, attempts=9)
    with pytest.raises(Refusal, match="status 404"):
        ask(apis, ["429:9 a", "slow:0.3 b", "404 c", "plain d"])
    assert "plain d" not in server.asked()


@pytest.mark.slow
@pytest.mark.parametrize("command", [["factory"], ["trainer.rounds", "rounds=2"]])
def test_an_interrupted_call_keeps_what_is_in_flight(server, ask_for, tmp_path, command):
    process = ask_for(["slow:2"] * SHARD, ["slow:2"] * SHARD, *command)
    while len(server.asked()) < 4:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the command hears it
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "error: interrupted; what was made is kept" in err and "Traceback" not in err
    assert all(f"       next: python -m {module} " in err for module in (command[0], "factory"))
    assert len(server.asked()) == len(kept(tmp_path)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("command", [["factory"], ["trainer.rounds", "rounds=2"]])
def test_a_second_interrupt_gives_up_what_is_in_flight(server, ask_for, tmp_path, command):
    process = ask_for(["slow:25"] * SHARD, ["slow:25"] * SHARD, *command, timeout=60)
    while len(server.asked()) < 4:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stderr
    assert any("waiting for answers in flight, which are paid for; Ctrl-C gives" in line for line in process.stderr)
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    err = process.stderr.read()
    assert process.wait() == 130, err
    assert "Traceback" not in err and time.monotonic() - began < 10
    assert len(kept(tmp_path)) == 0


@pytest.mark.slow
def test_an_interrupt_while_a_refusal_waits_leaves_the_refusal(server, ask_for):
    process = ask_for(["slow:0.3"] * 6 + ["404"], ["slow:0.5", "slow:25"] * 8, concurrency=6, timeout=60)
    assert process.stderr
    assert any("waiting for answers in flight" in line for line in process.stderr)
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    err = process.stderr.read()
    assert process.wait() == 2 and "status 404" in err and "Traceback" not in err, err
    assert time.monotonic() - began < 10


def test_a_reader_that_stops_early_hears_nothing_of_a_budget_that_others_wait_for(server, open_apis, chat):
    apis = open_apis(concurrency=4, timeout=10, budget={"tokens": 220})
    answers = apis.engine(ModelSettings(path="tiny", endpoint="e"), "answers").answer(
        chat(i, f"slow:0.3 {i}") for i in range(6)
    )
    next(answers)
    answers.close()
    assert 2 <= len(server.asked()) == len(apis.ledger) < 4  # the others waited for room


def test_the_ledger_is_folded_when_nobody_can_write_it_any_more(server, open_apis, ask, monkeypatch):
    apis = open_apis()
    ask(apis, ["plain a"])
    open_then: list[bool] = []

    async def fails() -> None:
        raise OSError("a connection that cannot be closed")

    monkeypatch.setattr(apis, "_shut", fails)
    fold = apis.ledger.close
    monkeypatch.setattr(apis.ledger, "close", lambda: (open_then.append(not apis.loop.is_closed()), fold()))
    with pytest.raises(OSError, match="connection"):
        apis.close()
    assert open_then == [False]
