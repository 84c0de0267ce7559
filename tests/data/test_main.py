"""`python -m data`: every command on a lake, every refusal in two lines with exit code 2."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from data import Lake, readme
from data.__main__ import SCRIPT, app, main
from data.contract import TABLES
from data.export import export
from data.manifest import write_manifest
from data.overview import labels, overview
from data.views import VIEWS


def _ran(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    out, err = capfd.readouterr()
    assert ended.value.code in (0, None), err
    return out


def _refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    err = capfd.readouterr().err
    assert ended.value.code == 2 and len(err.strip().splitlines()) <= 4, err
    assert "Traceback" not in err
    return err


QUERY = "SELECT group_id, value, text FROM rewards JOIN samples USING (group_id, sample_index) ORDER BY ALL LIMIT 30"


def test_sql_in_every_format_says_the_same(lake: Lake, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = ["--lake", str(lake.root)]
    rows = lake.sql(QUERY).to_pylist()
    as_json = json.loads(_ran(capfd, "sql", QUERY, "--format", "json", *where))
    assert [r["group_id"] for r in as_json] == [r["group_id"] for r in rows] and len(rows[0]["group_id"]) == 16
    assert [r["value"] for r in as_json] == [r["value"] for r in rows] and None in [r["value"] for r in rows]
    as_csv = list(csv.DictReader(io.StringIO(_ran(capfd, "sql", QUERY, "--format", "csv", *where))))
    assert [r["value"] for r in as_csv] == ["" if r["value"] is None else str(r["value"]) for r in rows]
    assert [r["group_id"] for r in as_csv] == [r["group_id"] for r in as_json]
    _ran(capfd, "sql", QUERY, "--format", "parquet", "--out", str(tmp_path / "x.parquet"), *where)
    assert pq.read_table(tmp_path / "x.parquet").to_pylist() == rows
    table = _ran(capfd, "sql", QUERY, *where)
    assert all(r["group_id"] in table and r["text"] in table for r in as_json)


def test_parquet_goes_to_a_pipe_as_bytes(lake: Lake) -> None:
    command = [sys.executable, "-m", "data", "sql", QUERY, "--format", "parquet", "--lake", str(lake.root)]
    out = subprocess.run(command, capture_output=True, check=True, cwd=Path(readme.PATH).parents[1]).stdout
    assert pq.read_table(io.BytesIO(out)).num_rows == 30 or pq.read_table(io.BytesIO(out)).equals(lake.sql(QUERY))


def test_parquet_is_not_written_to_a_terminal(lake: Lake) -> None:
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "data", "sql", "SELECT 1", "--format", "parquet", "--lake", str(lake.root)]
    ran = subprocess.run(command, stdout=end, stderr=subprocess.PIPE, cwd=Path(readme.PATH).parents[1], check=False)
    os.set_blocking(terminal, False)
    os.close(end)
    assert ran.returncode == 2 and b"--out FILE" in ran.stderr
    with pytest.raises(OSError, match=r"Input/output error"):  # nothing is there, and nobody will write
        os.read(terminal, 1)
    os.close(terminal)


def test_lists_maps_and_times_survive_json(lake: Lake, capfd: pytest.CaptureFixture[str]) -> None:
    where = ["--lake", str(lake.root), "--format", "json"]
    item = json.loads(
        _ran(capfd, "sql", "SELECT metrics, gold FROM evaluations WHERE benchmark = 'fit' ORDER BY item", *where)
    )
    assert item[0] == {"metrics": {"bits": 30.0, "bytes": 10.0}, "gold": ["x"]}
    assert json.loads(_ran(capfd, "sql", "SELECT created_at FROM runs", *where))[0]["created_at"].startswith(
        "2026-01-01T"
    )
    odd = "SELECT 'nan'::DOUBLE AS a, 18446744073709551615::UBIGINT AS b, 'a\nb' AS c"
    assert json.loads(_ran(capfd, "sql", odd, *where)) == [{"a": None, "b": 2**64 - 1, "c": "a\nb"}]
    sums = "SELECT sum(v) AS whole, 0.5 AS half FROM (VALUES (1), (2)) t(v)"
    assert json.loads(_ran(capfd, "sql", sums, *where)) == [{"whole": 3, "half": 0.5}]


def test_tables_lists_every_table_and_view(lake: Lake, empty_lake: Lake, capfd: pytest.CaptureFixture[str]) -> None:
    out = _ran(capfd, "tables", "--lake", str(lake.root))
    assert all(name in out for name in (*TABLES, *VIEWS))
    held, views = overview(lake)
    rewards = next(r for r in held.to_pylist() if r["table"] == "rewards")
    assert (rewards["rows"], rewards["slices"]) == (24, 3)
    assert {v["data"] for v in views.to_pylist()} == {"yes"}
    assert {v["data"] for v in overview(empty_lake)[1].to_pylist()} == {"not yet"}


def test_rows_of_tables_are_those_that_sql_counts(lake_copy: Lake) -> None:
    (samples,) = lake_copy.slices("samples", label="demo")
    write_manifest(replace(samples, name=samples.name.replace("demo", "again"), label="again"))
    held = {row["table"]: row for row in overview(lake_copy)[0].to_pylist()}
    assert held["samples"]["rows"] == 24 and held["samples"]["bytes"] == sum(
        path.stat().st_size for path in lake_copy.root.glob("samples/*/*.parquet")
    )
    for name, row in held.items():
        assert lake_copy.sql(f"SELECT count(*) AS n FROM {name}").to_pylist() == [{"n": row["rows"]}], name


def test_tables_lists_the_labels_pools_first(lake: Lake, capfd: pytest.CaptureFixture[str]) -> None:
    out = _ran(capfd, "tables", "--lake", str(lake.root)).partition("labels; those with samples are pools")[2]
    assert [line.split()[0] for line in out.splitlines()[4:] if line.strip()] == [
        "demo", "round1", "chrf", "length", "other", "prompts", "teacher",
    ]  # fmt: skip
    rows = {row["label"]: row for row in labels(lake).to_pylist()}
    assert rows["demo"]["samples"] == 8 and rows["demo"]["tables"].startswith("groups, samples, evaluations")
    assert rows["chrf"] == {"label": "chrf", "samples": None, "slices": 3, "tables": "rewards, answer_rewards"}


@pytest.mark.parametrize("name", [*TABLES, *VIEWS])
def test_describe_shows_every_column(lake: Lake, capfd: pytest.CaptureFixture[str], name: str) -> None:
    out = _ran(capfd, "describe", name, "--lake", str(lake.root))
    shown = set(lake.sql(f"SELECT * FROM {name} LIMIT 0").column_names)
    assert name == "group_table" or shown == {line.split()[0] for line in out.splitlines()[4:] if line.strip()}


def test_inspect_verify_and_gc_run(lake_copy: Lake, capfd: pytest.CaptureFixture[str]) -> None:
    where = ["--lake", str(lake_copy.root)]
    out = _ran(capfd, "inspect", "zscore_group(chrf)", "--against", "length", "--pool", "demo", "--rows", "2", *where)
    assert "best samples" in out and "stddev_pop" in out
    assert "no faults" in _ran(capfd, "verify", *where)
    left = lake_copy.root / "rewards" / "killed" / "part-00000.parquet"
    left.parent.mkdir()
    left.write_bytes(b"12345")
    assert "1 files, 5 bytes would be removed" in _ran(capfd, "gc", "--dry-run", *where)
    assert left.exists()
    assert "1 files, 5 bytes removed" in _ran(capfd, "gc", *where) and not left.exists()


def test_export_copies_every_table_and_view_with_its_lists(lake: Lake, tmp_path: Path) -> None:
    target = tmp_path / "lake.duckdb"
    rows = export(lake, target)
    con = duckdb.connect(str(target), read_only=True)
    for name in (*TABLES, *VIEWS):
        assert con.sql(f"SELECT count(*) FROM {name}").fetchall() == [(rows[name],)]
    order = "ORDER BY group_id, sample_index, slice"
    ours = lake.sql(f"SELECT * FROM samples {order}")
    assert con.sql(f"SELECT * FROM samples {order}").to_arrow_table().to_pylist() == ours.to_pylist()
    con.close()
    assert [p.name for p in tmp_path.iterdir()] == ["lake.duckdb"]


def test_an_export_of_a_young_lake_leaves_out_what_has_no_data(lake_copy: Lake, tmp_path: Path) -> None:
    for path in (lake_copy.root / "samples").glob("*/_manifest.json"):
        path.unlink()
    rows = export(lake_copy, tmp_path / "x.duckdb")
    assert rows["samples"] == 0 and rows["reward_table"] is None and rows["best_of_n"] is None


REFUSALS = [
    (["sql", "SELECT * FROM rewrd_table"], "did you mean 'reward_table'"),
    (["sql", "DROP TABLE samples"], "only one SELECT"),
    (["sql", "SELECT 1", "--format", "jsn"], "did you mean 'json'"),
    (["sql", "SELECT 1", "--out", "/nowhere/x"], "cannot be written"),
    (["describe", "sampels"], "did you mean 'samples'"),
    (["inspect", "chrff"], "did you mean 'chrf'"),
    (["inspect", "finish_reason"], "a text, not a number"),
    (["inspect", "chrf", "--against", "count(*)"], "which no expression may"),
    (["verify", "--lake", "/nowhere"], "no lake at /nowhere"),
    (["export", "{lake}/x.duckdb"], "inside the lake"),
    (["export", "{lake}/../nofolder/x.duckdb"], "no folder"),
    (["nothing"], "No such command"),
    (["sql", "SELECT 1", "--fromat", "json"], "No such option"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSALS)
def test_mistakes_get_two_lines_and_exit_two(
    lake: Lake, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [a.format(lake=lake.root) for a in arguments]
    where = [] if "--lake" in given or given[0] == "nothing" else ["--lake", str(lake.root)]
    assert message in _refused(capfd, *given, *where)


def test_a_damaged_lake_fails_verification_with_the_first_faults(
    lake_copy: Lake, capfd: pytest.CaptureFixture[str]
) -> None:
    lake_copy.slices("samples")[0].files[0].unlink()
    assert "is missing" in _refused(capfd, "verify", "--lake", str(lake_copy.root))


def test_every_fault_is_a_line_and_the_first_stands_in_the_refusal(
    lake_copy: Lake, capfd: pytest.CaptureFixture[str]
) -> None:
    gone = [path for table in ("samples", "rewards") for s in lake_copy.slices(table) for path in s.files]
    for path in gone:
        path.unlink()
    with pytest.raises(SystemExit):
        main(["verify", "--lake", str(lake_copy.root)])
    out, err = capfd.readouterr()
    assert len(gone) > 5 and all(f"{path.relative_to(lake_copy.root)} is missing" in out for path in gone)
    assert f"{len(gone)} faults" in err and "pull GOOD_COPY" in err and len(err.splitlines()) == 2


def test_a_push_says_in_one_line_what_it_did(lake: Lake, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    to = str(tmp_path / "copy")
    (line,) = _ran(capfd, "push", to, "--lake", str(lake.root)).splitlines()
    assert f"{lake.root} → {to}: 17 slices, 34 files, " in line and "there" not in line
    (line,) = _ran(capfd, "pull", str(lake.root), "--lake", to).splitlines()
    assert line.endswith(": 0 slices, 0 files, 0 bytes copied; there before: 17 slices, 34 files")


def test_an_existing_export_is_kept_unless_told_otherwise(
    lake: Lake, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / "x.duckdb"
    target.write_text("mine")
    assert "exists" in _refused(capfd, "export", str(target), "--lake", str(lake.root))
    assert target.read_text() == "mine"
    _ran(capfd, "export", str(target), "--replace", "--lake", str(lake.root))
    assert duckdb.connect(str(target), read_only=True).execute("SELECT count(*) FROM samples").fetchone() == (16,)


def test_debug_shows_the_traceback_wherever_it_stands() -> None:
    for command in (["--debug", "verify", "--lake", "/nowhere"], ["verify", "--lake", "/nowhere", "--debug"]):
        with pytest.raises(Exception, match="no lake"):
            main(command)


HEAVY = {"torch", "transformers", "duckdb", "polars", "datasets", "sqlglot", "pyarrow", "numpy"}
ROOT = Path(readme.PATH).parents[1]


def test_help_is_light_and_begins_with_examples_of_commands_that_exist() -> None:
    """A tenth of a second, since it loads none of these."""
    ran = "import sys, data.__main__ as m\ntry: m.main(['--help'])\nexcept SystemExit: "
    code = f"{ran}print(sorted({HEAVY!r} & set(sys.modules)))"
    *shown, loaded = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).splitlines()
    assert loaded == "[]"
    examples = [line.split()[3] for line in shown if line.startswith("    python -m data ")]
    assert len(examples) >= 4 and set(examples) <= {c.callback.__name__ for c in app.registered_commands if c.callback}
    assert shown.index("  Examples:") < shown.index("Options:")


def test_the_package_gives_its_names_late_and_no_others() -> None:
    import data

    assert {getattr(data, name).__name__ for name in data.__all__} == set(data.__all__)
    with pytest.raises(ImportError, match="Lakes"):
        from data import Lakes  # type: ignore[attr-defined]  # noqa: F401


def test_a_shell_completes_the_commands_own_script(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"][SCRIPT] == "data.__main__:main"
    assert f"{SCRIPT} --install-completion" in _refused(capfd, "--install-completion")
    monkeypatch.setattr(sys, "argv", [f"/anywhere/bin/{SCRIPT}"])
    monkeypatch.setenv(
        "_GRPO_KD_DATA_COMPLETE", "source_bash"
    )  # not --show-completion: the shell of a CI may be a plain sh
    assert f"complete -o default -F _grpo_kd_data_completion {SCRIPT}" in _ran(capfd)
    monkeypatch.setenv("_GRPO_KD_DATA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"{SCRIPT} de")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert _ran(capfd).split() == ["describe"]


def test_every_command_has_a_help_line(capfd: pytest.CaptureFixture[str]) -> None:
    out = _ran(capfd, "--help")
    for command in app.registered_commands:
        assert command.callback is not None and command.callback.__name__ in out and command.callback.__doc__


def test_the_readme_is_current() -> None:
    assert readme.PATH.read_text(encoding="utf-8") == readme.render(), "run: python -m data.readme"


def test_the_readme_names_every_column() -> None:
    text = readme.PATH.read_text(encoding="utf-8")
    for table in (*TABLES.values(), *VIEWS.values()):
        assert f"### {table.name}\n" in text
        assert all(f"| `{column.name}` |" in text for column in table.columns)
