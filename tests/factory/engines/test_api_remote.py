"""The ledger of a lake on object storage: what a machine that is lost takes with it, and that nothing else is asked again."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from data.lake import Lake
from data.refusal import Refusal
from data.verify import verify
from factory.engines.api.ledger import SENT

CONCURRENCY = 4


def there(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, query: str) -> list[dict[str, object]]:
    """The answer of a query by another machine: one with its own folder of copies."""
    with monkeypatch.context() as other:
        other.setenv("GRPO_KD_CACHE", str(tmp_path / "other"))
        return Lake.open(s3).sql(query).to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shard", "prompts", "before", "lost"),
    [
        (1000, 320, 290, SENT + CONCURRENCY),
        (16, 80, 58, 2 * 16 + CONCURRENCY),
    ],  # two shards in the making; published ones took their bills along
)
def test_a_lost_machine_takes_a_bounded_number_of_answers(
    server, s3, write_recipe, start, ended, with_key, tmp_path, s3_server, capsys, shard, prompts, before, lost
):
    rows = [{"messages": f"slow:0.01 hvat eitur nummar {i} ?", "split": "train"} for i in range(prompts)]
    write_recipe("lost", rows, factory={"shard_groups": shard})
    command = ("factory", "recipe=lost", f"lake={s3}", "stages=[prompts,answers]")
    process = start(*command)
    while len(server.asked()) < before:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.kill()
    process.communicate()
    time.sleep(0.3)  # the server finishes what was in flight
    first = set(server.asked())
    assert len(list((tmp_path / "copies").rglob("*.jsonl"))) == 1
    shutil.rmtree(tmp_path / "copies")  # the machine is gone

    told = ended(start(*command))
    again = len(server.asked()) - prompts
    with capsys.disabled():
        print(f"\n{len(first)} answers bought, then the machine lost: {again} asked again (of at most {lost})")
    assert 0 < again <= lost
    assert f"{prompts - (len(first) - again)} answers bought" in told
    lake = Lake.open(s3)
    assert lake.sql("SELECT count(*) AS n, count(DISTINCT key) AS keys FROM ledger").to_pylist() == [
        {"n": prompts, "keys": prompts}
    ]
    sums = "SELECT (SELECT sum(price) FROM ledger) AS ledger, (SELECT sum(money) FROM costs) AS costs"
    [sums_] = lake.sql(sums).to_pylist()
    assert sums_["costs"] == pytest.approx(sums_["ledger"])
    assert verify(lake).faults == [] and with_key(s3_server[1]) == []


def test_an_answer_is_sent_after_seconds_though_none_follows(s3, open_apis, ask, monkeypatch, tmp_path):
    monkeypatch.setattr("factory.engines.api.SECONDS", 0.2)
    apis = open_apis(lake=s3)
    ask(apis, ["plain one"])
    time.sleep(1)
    query = "SELECT (SELECT count(*) FROM ledger) AS answers, (SELECT sum(tokens_in) FROM costs) AS tokens"
    assert there(s3, monkeypatch, tmp_path, query) == [{"answers": 1, "tokens": 2}]
    ask(apis, ["plain two words"])
    time.sleep(1)
    assert there(s3, monkeypatch, tmp_path, query) == [{"answers": 2, "tokens": 5}]
    copies = list((tmp_path / "copies").rglob("ledger/journal-*/*.parquet"))
    assert len(copies) == 1, "copies of older versions are taken away"
    apis.close()
    assert there(s3, monkeypatch, tmp_path, query) == [{"answers": 2, "tokens": 5}]


def test_a_failed_call_sends_what_it_paid_for(s3, open_apis, ask, monkeypatch, tmp_path):
    apis = open_apis(lake=s3)
    with pytest.raises(Refusal, match="status 404"):
        ask(apis, ["plain one", "404 two"])
    apis.close()
    assert there(s3, monkeypatch, tmp_path, "SELECT text FROM ledger") == [{"text": "answer to plain one"}]
    assert not list((tmp_path / "copies").rglob("*.jsonl"))


def test_a_lake_in_a_folder_has_its_lines_and_makes_no_files_of_a_few(open_apis, ask, monkeypatch, tmp_path):
    monkeypatch.setattr("factory.engines.api.ledger.SENT", 2)
    apis = open_apis()
    ask(apis, [f"plain {i}" for i in range(6)])
    assert not list((tmp_path / "lake" / "ledger").rglob("*.parquet"))
