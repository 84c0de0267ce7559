"""The ledger and the budget: paid once, on disk before it is seen, never beyond the limit; and no key in any of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from data.config import ModelSettings
from data.lake import Lake
from data.refusal import Refusal
from data.verify import verify
from factory.engines import ChatRequest, TokenSampling
from factory.engines.api.ledger import Ledger, ledger_key

CANARY = "sk-canary-7f3a9d"


def row(key: str, **values):
    shared = {"model": "tiny", "served_by": "tiny", "stage": "answers", "recipe": "r", "finish_reason": "stop"}
    counts = {"prompt_tokens": 3, "answer_tokens": 2, "price": 0.5, "token_ids": None, "logprobs": None}
    return {"key": key, "text": f"text {key}", **shared, **counts, **values}


def test_an_answer_in_the_ledger_is_never_asked_again(server, open_apis, ask):
    texts = [f"plain {i}" for i in range(5)]
    first = open_apis()
    bought = ask(first, texts, draws=2, temperature=1.0)
    first.close()
    second = open_apis()
    assert ask(second, texts, draws=2, temperature=1.0) == bought
    assert len(server.asked()) == 10 and (second.bought, second.found) == (0, 10)


def test_the_server_that_answered_is_not_in_the_key(open_apis, ask):
    first = open_apis()
    ask(first, ["plain"])
    first.close()
    assert ask(open_apis(base_url="http://127.0.0.1:9/v1"), ["plain"])[0, 0].text == "answer to plain"


def test_what_changes_an_answer_is_in_the_key():
    def key(model="m", extra=None, text="t", seed=1, candidate=0, **sampling):
        drawn = TokenSampling(**({"temperature": 1.0} | sampling))
        return ledger_key(
            model, extra or {}, ChatRequest(9, [{"role": "user", "content": text}], [seed] * 2, drawn), candidate
        )

    others = [
        key(model="n"),
        key(extra={"reasoning_effort": "low"}),
        key(text="u"),
        key(seed=2),
        key(candidate=1),
        key(temperature=0.5),
        key(top_p=0.5),
        key(top_k=3),
        key(max_tokens=3),
        key(repetition_penalty=1.1),
        key(temperature=0.0),
    ]
    assert len({key(), *others}) == len(others) + 1
    assert key() == key()
    assert key(temperature=0.0, seed=1) == key(
        temperature=0.0, seed=2
    )  # a greedy answer is paid for once for all seeds


def test_lines_of_a_killed_process_are_folded_and_a_torn_last_one_is_dropped(tmp_path):
    lake = Lake.open(tmp_path)
    ledger = Ledger(lake)
    for key in ("a", "b"):
        ledger.write(row(key))
    path = next((tmp_path / "ledger").glob("*.jsonl"))
    ledger._lock.release()  # as the system does for a process that was killed
    with path.open("ab") as file:
        file.write(path.read_bytes()[:40])
    again = Ledger(lake)
    assert again.get("a")["text"] == "text a" and again.get("b") is not None and len(again) == 2
    assert again.spent("r") == (1.0, 10)
    again.close()
    assert not list((tmp_path / "ledger").glob("*.jsonl"))
    assert lake.sql("SELECT count(*) AS n, sum(price) AS money FROM ledger").to_pylist() == [{"n": 2, "money": 1.0}]
    assert verify(lake).faults == []


def test_a_line_torn_elsewhere_is_refused(tmp_path):
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "x.jsonl").write_text('{"key": "a\n' + json.dumps(row("b")) + "\n")
    with pytest.raises(Refusal, match="line 1 is no JSON"):
        Ledger(Lake.open(tmp_path))


def test_a_fold_that_was_killed_between_its_files_books_nothing_twice(tmp_path):
    lake = Lake.open(tmp_path)
    ledger = Ledger(lake)
    ledger.write(row("a"))
    path = next((tmp_path / "ledger").glob("*.jsonl"))
    lines = path.read_bytes()
    ledger.close()
    path.write_bytes(lines)  # as if the kill had come before the lines were taken away
    Ledger(lake).close()
    assert lake.sql("SELECT sum(money) AS money, count(*) AS n FROM costs").to_pylist() == [{"money": 0.5, "n": 1}]
    assert lake.sql("SELECT count(*) AS n FROM ledger").to_pylist() == [{"n": 1}]


def test_full_files_are_folded_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr("factory.engines.api.ledger.FOLD", 3)
    ledger = Ledger(Lake.open(tmp_path))
    for i in range(7):
        ledger.write(row(str(i)))
    assert len(list((tmp_path / "ledger" / "journal").glob("*.parquet"))) == 2 and len(ledger) == 7
    assert [ledger.get(str(i))["text"] for i in range(7)] == [f"text {i}" for i in range(7)]
    ledger.close()


def test_one_process_at_a_time_writes(tmp_path):
    ledger = Ledger(Lake.open(tmp_path))
    code = (
        "import sys; from data.lake import Lake; from factory.engines.api.ledger import Ledger\n"
        "from data.refusal import Refusal\n"
        "try: Ledger(Lake.open(sys.argv[1]))\n"
        "except Refusal as refusal: print(refusal.args[0])"
    )
    out = subprocess.check_output([sys.executable, "-c", code, str(tmp_path)], text=True)
    assert "another process asks an API" in out
    ledger.close()


def test_costs_hold_the_bill_by_recipe_stage_and_model(tmp_path):
    lake = Lake.open(tmp_path)
    ledger = Ledger(lake)
    ledger.write(row("a"))
    ledger.write(row("b", price=None, prompt_tokens=None, answer_tokens=None))
    ledger.write(row("c", stage="judge", price=None, prompt_tokens=7, answer_tokens=None))
    ledger.close()
    found = lake.sql(
        "SELECT stage, model, tokens_in, tokens_out, money, items, device FROM costs ORDER BY stage"
    ).to_pylist()
    shared = {"model": "tiny", "items": None, "device": "api"}
    assert found == [
        {"stage": "answers", "tokens_in": 3, "tokens_out": 2, "money": 0.5, **shared},
        {"stage": "judge", "tokens_in": 7, "tokens_out": None, "money": None, **shared},  # null, not zero
    ]


# Sixty answers of (2·1000 + 4·2000)/1e6 = .01 USD, each of which might cost up to .096 as far as one can know before.
@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_budget_in_money_is_never_exceeded_and_a_larger_one_goes_on(server, open_apis, ask, concurrency):
    texts = [f"plain {i}" for i in range(60)]
    first = open_apis(budget=0.3, concurrency=concurrency)
    with pytest.raises(Refusal, match="budget ends here") as caught:
        ask(first, texts)
    spent, _ = first.ledger.spent("r")
    first.close()
    assert 0.1 < spent <= 0.3 and "goes on" in caught.value.args[1]
    asked = len(server.asked())
    same = open_apis(budget=0.3)
    with pytest.raises(Refusal, match="budget ends here"):
        ask(same, texts)
    same.close()
    assert len(server.asked()) == asked  # the budget counts what was spent before
    larger = open_apis(budget=3)
    assert len(ask(larger, texts)) == 60 and len(server.asked()) == 60


def test_the_budget_in_tokens_is_never_exceeded(server, open_apis, ask):
    apis = open_apis(budget={"tokens": 300})
    with pytest.raises(Refusal, match="300 tokens"):
        ask(apis, [f"plain {i}" for i in range(60)])
    _, tokens = apis.ledger.spent("r")
    assert 200 < tokens <= 300 and len(server.asked()) == tokens // 6


@pytest.mark.parametrize("budget", [{"money": 3.5 * 0.098}, {"tokens": 3.5 * 90}])
def test_what_is_in_flight_counts_against_the_budget_as_its_worst_case(server, open_apis, ask, budget):
    """Each is billed as the worst: 10 bytes, 8 for the message, 64 for the template, 8 for the answer."""
    apis = open_apis(budget=budget, concurrency=6, timeout=10)
    with pytest.raises(Refusal, match="budget ends here"):
        ask(apis, [f"dear xy {i}{i}" for i in range(10)])
    assert apis.ledger.spent("r") == (pytest.approx(3 * 0.098), 3 * 90)
    assert len(server.asked()) == 3


def test_another_recipes_spending_is_not_counted(server, open_apis, ask):
    first = open_apis()
    ask(first, [f"plain {i}" for i in range(40)])
    first.close()
    assert len(ask(open_apis(budget=0.3, recipe="other"), ["plain new"])) == 1


def test_an_attempt_in_vain_counts_against_the_budget(open_apis, ask):
    apis = open_apis(budget=1)
    ask(apis, ["cut:2 lost"])
    spent, _ = apis.ledger.spent("r")
    worst = ((10 + 8 + 64) * 1000 + 8 * 2000) / 1e6  # bytes, the message, the template; the longest answer
    assert apis.budget.money == pytest.approx(spent + 2 * worst)


def test_a_reader_that_stops_early_loses_nothing_that_was_paid(server, open_apis):
    apis = open_apis(concurrency=4, timeout=10)
    drawn = TokenSampling(temperature=0.0, max_tokens=8)
    texts = ["plain first", *(f"slow:0.5 {i}" for i in range(8))]
    requests = [ChatRequest(i, [{"role": "user", "content": text}], [i], drawn) for i, text in enumerate(texts)]
    answers = apis.engine(ModelSettings(path="tiny", endpoint="e"), "answers").answer(requests)
    assert next(answers).text == "answer to plain first"
    answers.close()
    asked = len(server.asked())
    assert len(apis.ledger) == asked and 1 < asked < len(texts)


def test_the_key_is_in_no_file_log_or_table(server, open_apis, ask, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("THE_KEY", f" {CANARY}\n")
    apis = open_apis(api_key_env="THE_KEY")
    found = ask(apis, ["echo it", "plain"])
    assert found[0, 0].text == "your key is Bearer ***"  # so the server did get it
    with pytest.raises(Refusal) as caught:
        ask(apis, ["401 it"])
    assert "Bearer ***" in str(caught.value)
    apis.close()
    told = "".join(capfd.readouterr()) + repr(caught.value) + repr(vars(apis.endpoints["e"]))
    assert CANARY not in told
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != server.log]
    assert len(files) > 2 and not [path for path in files if CANARY.encode() in path.read_bytes()]
    tables = (
        apis.ledger.lake.sql("SELECT * FROM ledger").to_pylist(),
        apis.ledger.lake.sql("SELECT * FROM costs").to_pylist(),
    )
    assert CANARY not in repr(tables) and len(tables[0]) == 2


def test_a_variable_that_is_not_set_is_named(open_apis, ask, monkeypatch):
    monkeypatch.delenv("THE_KEY", raising=False)
    with pytest.raises(Refusal, match="THE_KEY is not set") as caught:
        ask(open_apis(api_key_env="THE_KEY"), ["plain"])
    assert caught.value.args[1].startswith("export THE_KEY=")


def test_a_key_of_another_service_never_leaves(server, open_apis, ask, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    assert CANARY not in ask(open_apis(), ["echo it"])[0, 0].text
