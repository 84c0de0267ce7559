"""DuckDB's own command line opens what is in a lake: the files as they lie, and the file that `export` writes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data import Lake
from data.__main__ import main

DUCKDB = shutil.which("duckdb", path=Path(sys.executable).parent) or shutil.which("duckdb")
pytestmark = pytest.mark.skipif(DUCKDB is None, reason="DuckDB's command line is not installed: pip install duckdb-cli")


def asked(*words: str) -> list[dict[str, Any]]:
    done = subprocess.run([str(DUCKDB), "-json", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_export_opens_and_holds_tables_and_views(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / "lake.duckdb"), "--lake", str(lake.root)])
    assert ended.value.code in (0, None)
    query = "SELECT pool, group_id, sample_index, n_tokens FROM reward_table ORDER BY ALL"
    rows = asked("-readonly", str(tmp_path / "lake.duckdb"), "-c", query)
    assert rows and rows == lake.sql(query).to_pylist()


def test_the_files_open_where_they_lie(lake: Lake) -> None:
    query = "SELECT count(*) AS n, sum(len(token_ids))::INT AS tokens FROM '{}/*/*.parquet'"
    [row] = asked("-c", query.format(lake.root / "samples"))
    [ours] = lake.sql("SELECT count(*) AS n, sum(n_tokens)::INT AS tokens FROM samples").to_pylist()
    assert (row["n"], row["tokens"]) == (ours["n"], ours["tokens"]) and row["n"] > 0
