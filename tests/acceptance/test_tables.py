"""The demo's lake through `python -m data`: every format says the same, every copy is whole, nothing else is read or written."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path
from typing import Any

import pytest

FIVE = "SELECT * FROM reward_table LIMIT 5"
UNJUDGED = {"win_rates", "rater_agreement"}  # nobody judges the demo's answers


def without_data(lake: Any) -> set[str]:
    """Views that the demo's lake has nothing for; `differences` until one of its tests evaluates."""
    from data.refusal import Refusal
    from data.views import VIEWS

    found = set()
    for name in VIEWS:
        try:
            lake.sql(f"SELECT 1 FROM {name} LIMIT 0")
        except Refusal as refusal:
            assert "has no data yet" in str(refusal)
            found.add(name)
    assert UNJUDGED <= found <= UNJUDGED | {"differences"}
    return found


def test_every_format_shows_the_same_five_rows(demo: Any, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    query = "SELECT * FROM reward_table ORDER BY group_id, sample_index LIMIT 5"
    as_json = demo.sql(query)
    assert len(demo.sql(FIVE)) == len(as_json) == 5 and set(demo.sql(FIVE)[0]) == set(as_json[0])
    assert {"pool", "prompt", "text", "agreement", "language", "teacher_loglik"} <= set(as_json[0])
    piped = demo.ran("data", "sql", query, "--format", "parquet", "--lake", str(demo.lake))
    assert pq.read_table(io.BytesIO(piped)).to_pylist() == as_json
    demo.data("sql", query, "--format", "parquet", "--out", str(tmp_path / "five.parquet"))
    assert (tmp_path / "five.parquet").read_bytes() == piped
    as_csv = list(csv.DictReader(io.StringIO(demo.data("sql", query, "--format", "csv"))))
    assert as_csv == [{k: "" if v is None else str(v) for k, v in row.items()} for row in as_json]
    head, _, *body = [line for line in demo.data("sql", query).splitlines() if line.strip()]
    assert head.split() == list(as_json[0]) and len(body) == 5
    for line, row in zip(body, as_json, strict=True):
        assert row["text"] in line and row["group_id"] in line and f"{row['teacher_loglik']:.6g}" in line


def test_every_table_and_view_is_listed_and_described(demo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from data.__main__ import main
    from data.contract import TABLES
    from data.lake import Lake
    from data.views import VIEWS

    assert set(TABLES) | set(VIEWS) <= set(demo.data("tables").split())
    empty = without_data(Lake.open(demo.lake))
    for name in (*TABLES, *VIEWS):
        with pytest.raises(SystemExit) as ended:
            main(["describe", name, "--lake", str(demo.lake)])
        described = capsys.readouterr().out
        assert not ended.value.code and name in described
        if name in empty:
            continue
        columns = set(Lake.open(demo.lake).sql(f"SELECT * FROM {name} LIMIT 0").column_names)
        shown = {line.split()[0] for line in described.splitlines() if line.strip()}
        missing = {
            column for column in columns - shown if not column.startswith(("agreement_", "language_", "teacher_"))
        }
        assert not missing, f"describe {name} does not show {sorted(missing)}"
    assert demo.data("describe", name) == described


def test_inspect_shows_what_the_reward_does(demo: Any) -> None:
    text = demo.data("inspect", "agreement + 0.5*language", "--against", "-1*agreement")
    cells = {words[0]: words[1:] for words in (line.split() for line in text.splitlines()) if len(words) == 8}
    for name in ("agreement", "language", "teacher_loglik"):
        figures = f"min({name}), avg({name}), max({name}), stddev_pop({name})"
        (row,) = demo.sql(f"SELECT {figures}, 0, 0 FROM reward_table")
        assert cells[name][:6] == [f"{value:.6g}" for value in row.values()]
    (best,) = demo.sql("SELECT max(agreement + 0.5*language) AS r FROM reward_table").pop().values()
    assert f" {best:g} " in text.partition("best samples")[2].partition("worst samples")[0]
    (turned,) = demo.sql("SELECT count(*) AS n FROM group_table WHERE agreement_min < agreement_max").pop().values()
    assert turned and f"groups whose order the other expression reverses: {turned}" in text


def test_the_lake_verifies_and_holds_no_garbage(demo: Any) -> None:
    before = demo.hashes()
    assert demo.data("verify").splitlines()[-1] == "no faults"
    assert demo.data("gc", "--dry-run").strip() == "0 files, 0 bytes would be removed"
    assert demo.hashes() == before


def test_verify_notices_one_changed_byte(mine: Any) -> None:
    shard = next(mine.lake.glob("samples/*/part-00000.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    done = mine.called("data", "verify", "--lake", str(mine.lake))
    assert done.returncode == 2 and b"samples/" in done.stderr and len(done.stderr.splitlines()) <= 3


def test_export_holds_the_same_tables(demo: Any, tmp_path: Path) -> None:
    import duckdb

    from data.contract import TABLES
    from data.lake import Lake
    from data.views import VIEWS

    lake = Lake.open(demo.lake)
    said = dict(line.split(": ") for line in demo.data("export", str(tmp_path / "lake.duckdb")).splitlines())
    assert set(said) == {*TABLES, *VIEWS}
    assert {said.pop(name) for name in without_data(lake)} == {"no data yet"}
    with duckdb.connect(str(tmp_path / "lake.duckdb"), read_only=True) as con:
        for name, rows in said.items():
            ((count,),) = con.sql(f"SELECT count(*) FROM {name}").fetchall()
            ((ours,),) = (row.values() for row in lake.sql(f"SELECT count(*) AS n FROM {name}").to_pylist())
            assert rows == f"{count} rows" and ours == count
        ((first,),) = con.sql("SELECT md5(string_agg(text ORDER BY group_id, sample_index)) FROM samples").fetchall()
    same = lake.sql("SELECT md5(string_agg(text ORDER BY group_id, sample_index)) AS all FROM samples")
    assert same.to_pylist() == [{"all": first}]


WRITES = [
    "COPY (SELECT * FROM samples) TO '{new}'",
    "COPY (SELECT * FROM samples) TO '{shard}' (FORMAT parquet)",
    "EXPLAIN ANALYZE COPY (SELECT * FROM samples) TO '{shard}' (FORMAT parquet)",
    "WITH x AS (COPY (SELECT * FROM samples) TO '{shard}' (FORMAT parquet)) SELECT * FROM x",
    "WITH x AS MATERIALIZED (COPY (SELECT 1 FROM samples) TO '{new}' RETURNING *) SELECT * FROM x",
    "ATTACH '{new}' AS other",
    "SET memory_limit = '1GB'",
    "INSTALL httpfs",
    "SELECT 1; SELECT 2",
]
READS = ["read_csv('{csv}')", "'{csv}'", "read_parquet('{parquet}')", "'{parquet}'", "read_text('{csv}')"]


@pytest.mark.parametrize("query", [*WRITES, *(f"SELECT * FROM {source}" for source in READS)])
def test_sql_that_writes_or_reads_elsewhere_is_refused(demo: Any, tmp_path: Path, query: str) -> None:
    import duckdb

    files = {name: tmp_path / f"outside.{name}" for name in ("csv", "parquet")}
    files["csv"].write_text("secret\n4711\n", encoding="utf-8")
    duckdb.sql("SELECT 4711 AS secret").write_parquet(str(files["parquet"]))
    outside = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files.values()}
    shard = next(demo.lake.glob("samples/*/part-00000.parquet"))
    before = demo.hashes()
    asked = query.format(**files, shard=shard, new=tmp_path / "new.parquet")
    if query.startswith("SELECT *"):
        assert "4711" in str(duckdb.sql(asked).fetchall()), "without the gate this query would answer"
    done = demo.called("data", "sql", asked, "--lake", str(demo.lake), "--format", "json")
    assert done.returncode == 2 and done.stdout == b"" and b"4711" not in done.stderr
    assert 1 <= len(done.stderr.splitlines()) <= 3, done.stderr.decode()
    assert demo.hashes() == before
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()} == outside
