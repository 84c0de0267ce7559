"""The factory with a teacher behind an endpoint: killed ten times, stopped by its budget, and what it leaves in the lake."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.lake import Lake
from data.verify import verify

pytestmark = pytest.mark.slow
KILLS, PROMPTS, CONCURRENCY = 10, 90, 4


@pytest.fixture
def ask(
    write_recipe: Callable[..., None], start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> Callable[..., Any]:
    """`ask("lake", "budget=1")`: a process that asks for prompts and answers."""
    words = ["slow:0.05"] * PROMPTS
    words[5], words[11], words[23] = "refuse", "429:1", "filter"
    write_recipe(
        "kill",
        [
            {"messages": f"{w} hvat eitur nummar {i} ?", "references": [f"{i}"], "split": "train"}
            for i, w in enumerate(words)
        ],
    )

    def go(lake: str, *overrides: str, stages: str = "prompts,answers") -> subprocess.Popen[str]:
        return start("factory", "recipe=kill", f"lake={tmp_path / lake}", f"stages=[{stages}]", *overrides)

    return go


def kept(lake: Path) -> set[str]:
    """Keys in the ledger: of its tables, and of the whole lines that a killed process left."""
    found = set()
    for path in (lake / "ledger").glob("journal/*.parquet"):
        found |= set(pq.read_table(path, columns=["key"]).column(0).to_pylist())
    for path in (lake / "ledger").glob("*.jsonl"):
        found |= {json.loads(line)["key"] for line in path.read_text().split("\n")[:-1]}
    return found


def answer_files(lake: Path) -> dict[str, str]:
    files = [*lake.glob("answers/*/part-*.parquet"), *lake.glob("answer_tokens/*/part-*.parquet")]
    return {str(f.relative_to(lake)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def killed(process: subprocess.Popen[str], server, more: int, delay: float) -> None:
    """SIGKILL, a moment after the server saw so many more requests."""
    wanted = len(server.asked()) + more
    while len(server.asked()) < wanted:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(0.3)  # the server finishes what was in flight


def test_ten_kills_ask_no_answer_again_that_was_kept(server, ask, ended, tmp_path, capsys):
    drawn, lake = random.Random(7), tmp_path / "lake"
    begun, kept_then = [0], [set()]
    for _ in range(KILLS):
        killed(ask("lake"), server, drawn.randint(1, 10), drawn.uniform(0, 0.12))
        begun.append(len(server.events("asked")))
        kept_then.append(kept(lake))
    ended(ask("lake"))
    asked = [event["text"] for event in server.events("asked")]
    text_of = {row["key"]: row["asked"] for row in ledger_rows(lake)}
    calls = [asked[a:b] for a, b in zip(begun, [*begun[1:], len(asked)], strict=True)]
    again, repeated = 0, []
    for number in range(1, KILLS + 1):
        known = {text_of[key] for key in kept_then[number]}
        later = {text for call in calls[number:] for text in call}
        again += len(known & later)
        repeated.append(len((set(calls[number - 1]) - known) & later))
    with capsys.disabled():
        print(
            f"\n{KILLS} kills: {again} kept answers asked again; repeated per kill {repeated} of at most {CONCURRENCY}"
        )
    assert again == 0
    assert max(repeated) <= CONCURRENCY and sum(repeated) > 0
    assert len(text_of) == PROMPTS and len(kept_then[-1]) > 20
    undisturbed = tmp_path / "undisturbed"
    ended(ask("undisturbed"))
    assert answer_files(lake) == answer_files(undisturbed) and answer_files(lake)
    assert verify(Lake.open(lake)).faults == []
    check_bill(lake)


def ledger_rows(lake: Path) -> list[dict[str, str]]:
    """Each answer's key and the prompt that it answers: the server repeats it, and refused ones are told apart by their reason."""
    rows = Lake.open(lake).sql("SELECT key, text, finish_reason FROM ledger").to_pylist()
    prompts = Lake.open(lake).sql("SELECT messages[-1].content AS asked FROM prompts").to_pylist()
    by_reason = {"refusal": "refuse", "content_filter": "filter"}
    word = {p["asked"].split()[0]: p["asked"] for p in prompts}
    return [
        {"key": r["key"], "asked": (r["text"] or "").removeprefix("answer to ") or word[by_reason[r["finish_reason"]]]}
        for r in rows
    ]


def check_bill(lake: Path) -> None:
    """Every answer is booked once, in the ledger, in `costs` and in `answers`, however often the process died."""
    sums = (
        Lake.open(lake)
        .sql(
            "SELECT (SELECT sum(price) FROM ledger) AS ledger, (SELECT sum(money) FROM costs) AS costs, "
            "(SELECT sum(price) FROM answers) AS answers, (SELECT sum(tokens_in + tokens_out) FROM costs) AS tokens, "
            "(SELECT sum(tokens_billed) FROM answers) AS billed"
        )
        .to_pylist()[0]
    )
    assert sums["costs"] == pytest.approx(sums["ledger"]) == pytest.approx(sums["answers"])
    assert sums["tokens"] == sums["billed"] > 0


def test_the_budget_stops_the_command_and_a_larger_one_goes_on(server, ask, ended, tmp_path):
    stopped = ended(ask("lake", "budget=0.9"), code=2)
    assert "error: the budget ends here, $0.9" in stopped and "next: the same command with budget=" in stopped
    first, lake = len(server.events("asked")), Lake.open(tmp_path / "lake")
    assert 5 < first < PROMPTS
    assert lake.sql("SELECT sum(price) AS money FROM ledger").to_pylist()[0]["money"] <= 0.9
    assert verify(lake).faults == []
    told = ended(ask("lake", "budget=90"))
    assert f"{PROMPTS + 1 - first} answers bought" in told or f"{PROMPTS - first} answers bought" in told
    check_bill(tmp_path / "lake")


def test_refusals_are_no_answers_all_the_way_and_the_key_is_nowhere(ask, ended, with_key, tmp_path):
    told = ended(ask("lake", stages="prompts,answers,samples,scores,rewards,selections"))
    assert f"no answer for 2 of {PROMPTS} (1 " in told and "scores: tiny answers behind an endpoint" in told
    lake = Lake.open(tmp_path / "lake")
    rows = lake.sql(
        "SELECT a.text, a.finish_reason, len(t.token_ids) AS tokens, r.value, r.valid, r.detail FROM answers a "
        "JOIN answer_tokens t USING (prompt_id, candidate) JOIN answer_rewards r USING (prompt_id, candidate) "
        "WHERE a.text IS NULL ORDER BY a.finish_reason"
    ).to_pylist()
    shared = {"text": None, "tokens": 0, "value": None, "valid": False}
    assert rows == [{**shared, "finish_reason": r, "detail": f"no answer ({r})"} for r in ("content_filter", "refusal")]
    chosen = lake.sql("SELECT count(*) AS n FROM selections WHERE source = 'answer' AND score IS NULL AND chosen")
    assert chosen.to_pylist() == [{"n": 0}]
    model = lake.sql("SELECT name, weights, tokenizer FROM models WHERE name = 'tiny'").to_pylist()
    assert model == [{"name": "tiny", "weights": None, "tokenizer": None}]
    assert with_key() == []
