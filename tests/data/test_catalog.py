"""The gate: what is no single SELECT over the lake is refused, and the lake's bytes stay."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from data import Lake, Refusal
from data.catalog import mentioned, run


def _hashes(root: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


def _shard(lake: Lake) -> Path:
    return lake.slices("samples", label="demo")[0].files[0]


WRITES = [
    "COPY (SELECT * FROM samples) TO '{out}'",
    "COPY (SELECT * FROM samples) TO '{shard}' (FORMAT parquet)",
    "EXPLAIN ANALYZE COPY (SELECT * FROM samples) TO '{shard}' (FORMAT parquet)",
    "WITH x AS (COPY (SELECT 1) TO '{shard}') SELECT * FROM x",
    "WITH x AS MATERIALIZED (COPY (SELECT 1 FROM samples) TO '{out}' RETURNING *) SELECT * FROM x",
    "ATTACH '{out}' AS other",
    "SET memory_limit = '1TB'",
    "SET enable_external_access = true",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "EXPORT DATABASE '{out}'",
    "CREATE TABLE t AS SELECT 1",
    "DROP VIEW samples",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY (SELECT 1) TO '{out}'",
    "SELECT 1) ; COPY (SELECT 1) TO '{out}'; SELECT * FROM (SELECT 1",
    "EXPLAIN SELECT * FROM samples",
    "",
    "-- nothing",
    "no sql at all",
]
READS = [
    "SELECT * FROM read_csv('{outside}')",
    "SELECT * FROM '{outside}'",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/*')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM read_parquet('{unlisted}')",
    "SELECT * FROM samples, read_parquet('{unlisted}')",
    "SELECT content FROM read_text('{manifest}')",
    "SELECT * FROM secret_frame",
]


@pytest.mark.parametrize("query", WRITES + READS)
def test_writes_and_outside_reads_are_refused_and_change_nothing(
    lake: Lake, tmp_path: Path, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outside = tmp_path / "outside.csv"
    outside.write_text("a,b\n1,2\n")
    secret_frame = pa.table({"a": [1]})  # DuckDB would find the variable by its name
    names = {"out": tmp_path / "out", "shard": _shard(lake), "outside": outside}
    shutil.copy(_shard(lake), unlisted := tmp_path / "unlisted.parquet")
    names |= {"unlisted": unlisted, "manifest": _shard(lake).parent / "_manifest.json"}
    before = _hashes(lake.root)
    with pytest.raises(Refusal) as refused:
        lake.sql(query.format(**names))
    assert str(refused.value).count("\n") == 1
    assert _hashes(lake.root) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outside.csv", "unlisted.parquet"]
    assert secret_frame.num_rows == 1


@pytest.mark.parametrize(
    "query", ["COPY samples TO 'x'", "EXPLAIN ANALYZE COPY samples TO 'x'", "SET threads = 1", "SELECT 1; SELECT 2", ""]
)
def test_another_statement_is_refused_before_anything_runs(lake: Lake, query: str) -> None:
    with pytest.raises(Refusal, match="only one SELECT can be asked here"):
        lake.sql(query)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 AS a",
        "SELECT 1 AS a;",
        "SELECT 1 AS a -- a comment",
        "FROM samples",
        "WITH s AS (FROM samples) SELECT count(*) FROM s",
        "DESCRIBE samples",
        "SHOW TABLES",
        "SUMMARIZE rewards",
        "SELECT * FROM samples JOIN groups USING (group_id) JOIN prompts USING (prompt_id)",
    ],
)
def test_selects_in_every_spelling_are_answered(lake: Lake, query: str) -> None:
    assert lake.sql(query).num_rows > 0


def test_the_order_of_the_query_is_kept(lake: Lake) -> None:
    rows = lake.sql("SELECT range AS r FROM range(300000) ORDER BY r DESC")["r"]
    assert rows[0].as_py() == 299_999 and rows[-1].as_py() == 0


def test_parameters_are_values_and_not_sql(lake: Lake) -> None:
    rows = lake.sql("SELECT count(*) AS n FROM samples WHERE text = $text", text="' OR 1=1 --")
    assert rows.to_pylist() == [{"n": 0}]


def test_unknown_names_are_answered_with_the_nearest(lake: Lake) -> None:
    with pytest.raises(Refusal, match="no table or view named rewardtable: did you mean 'reward_table'"):
        lake.sql("SELECT * FROM rewardtable")
    with pytest.raises(Refusal, match="no column named finish_reson: did you mean 'finish_reason'"):
        lake.sql("SELECT finish_reson FROM samples")
    with pytest.raises(Refusal, match="no column named chrff: did you mean 'chrf'"):
        lake.sql("SELECT r.chrff FROM reward_table r")


def test_only_columns_of_what_is_asked_are_suggested(lake: Lake) -> None:
    with pytest.raises(Refusal, match=r"no column named objective: known: configuration, .*, status, steps"):
        lake.sql("SELECT run, objective FROM runs")
    with pytest.raises(Refusal, match="describe samples"):
        lake.sql("SELECT finish_reson FROM samples")
    with pytest.raises(Refusal, match="no column named chrf: the query names no table"):
        lake.sql("SELECT chrf")
    with pytest.raises(
        Refusal, match=r"no column named seconds: known: [^'\n]*\n"
    ):  # not the name itself, which `costs` has
        lake.sql("WITH costs AS (SELECT seconds FROM samples) SELECT * FROM costs")


def test_a_column_whose_name_is_a_word_of_sql_is_given_its_quotes(lake: Lake) -> None:
    with pytest.raises(Refusal, match="references is a word of SQL too") as refused:
        lake.sql("SELECT p.prompt_id, references FROM prompts p")
    assert refused.value.args[1] == """python -m data sql 'SELECT p.prompt_id, "references" FROM prompts p'"""
    assert lake.sql(refused.value.args[1].split("'")[1]).num_rows == 3
    with pytest.raises(Refusal, match=r"no SQL: .*at or near"):
        lake.sql("SELECT text FROM WHERE")


def test_an_id_as_a_number_is_answered_with_how_to_write_it(lake: Lake) -> None:
    for query in ("SELECT 1 FROM samples WHERE group_id = 123", "SELECT group_id::UBIGINT FROM samples"):
        with pytest.raises(Refusal, match="ids are text of 16 hex digits"):
            lake.sql(query)


def test_a_query_beyond_its_time_is_interrupted(lake: Lake) -> None:
    with pytest.raises(Refusal, match=r"longer than 0\.2 s"):
        run(lake, "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b", seconds=0.2)


def test_a_missing_or_cut_shard_is_named(lake_copy: Lake) -> None:
    shard = _shard(lake_copy)
    whole = shard.read_bytes()
    for view in ("samples", "reward_table"):
        shard.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(Refusal, match=f"shard {shard} is no whole Parquet file"):
            lake_copy.sql(f"SELECT * FROM {view}")
        shard.unlink()
        with pytest.raises(Refusal, match=f"shard {shard} is missing"):
            lake_copy.sql(f"SELECT * FROM {view}")


def test_a_shard_with_a_damaged_page_is_named(lake_copy: Lake) -> None:
    shard = _shard(lake_copy)
    damaged = bytearray(shard.read_bytes())
    damaged[40:400] = bytes(360)
    shard.write_bytes(damaged)
    with pytest.raises(Refusal, match="python -m data"):
        lake_copy.sql("SELECT * FROM samples")


def test_only_the_views_that_the_query_names_are_made() -> None:
    assert mentioned("SELECT * FROM Reward_Table r, metrics") == ["metrics", "reward_table"]
    assert "samples" in mentioned("SHOW TABLES")
