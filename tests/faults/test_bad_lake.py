"""Damage to the lake, views without data, SQL that leaves the lake: each as a row with what its sentence must say.

`refuses` (conftest.py) asserts the rest for each row: exit code 2, at most three lines on stderr, a next step that can be typed,
no half-written file, whatever was published unchanged, and a lake that verifies (or names the file that the row damaged)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Broken = Callable[[Any], object]


def rows(*found: tuple[Any, ...]) -> pytest.MarkDecorator:
    """Parametrise over rows (name, how it is broken or None, command line, what it says…)."""
    cases = [pytest.param(broken, line, says, id=name) for name, broken, line, *says in found]
    return pytest.mark.parametrize(("broken", "line", "says"), cases)


BC, PT = "losses.rl=0 losses.pt=0 replay.bc=teacher", "losses.rl=0 losses.bc=0"
SELECTIONS = "factory 'stages=[selections]' 'reward=-1*chrf'"


def shard(name: str, change: Callable[[Path], object]) -> Broken:
    return lambda place: change(place.shard(name))


def pages(path: Path) -> None:
    """Zeros in place of everything but the footer."""
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    path.write_bytes(content[:4] + bytes(len(content) - 4 - footer) + content[-footer:])


def foreign(path: Path) -> None:
    """A whole shard, of another slice."""
    other = next(p for p in sorted(path.parents[2].glob("*/*/part-00001.parquet")) if p.parents[1] != path.parents[1])
    path.write_bytes(other.read_bytes())


DAMAGE: dict[str, Callable[[Path], object]] = {
    "footer": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no Parquet\n" * 50, encoding="utf-8"),
    "sibling": lambda path: path.write_bytes(path.with_name("part-00001.parquet").read_bytes()),
    "foreign": foreign,
    "pages": pages,
    "gone": lambda path: path.unlink(),
}
READERS = {
    "prompts": ["trainer probe.every=1", "data sql 'FROM prompts'"],
    "groups": ["trainer", "data inspect chrf"],
    "samples": ["trainer", "factory 'stages=[rewards]' 'components.new={use: length}'", "data sql 'FROM samples'"],
    "scores:tiny-teacher": ["factory 'stages=[rewards]' 'components.new={use: teacher_loglik, form: sum}'"],
    "rewards:chrf": [
        "trainer",
        "data inspect chrf",
        "data sql 'FROM reward_table'",
        "data export x.duckdb",
        SELECTIONS,
    ],
    "answers": ["factory 'stages=[rewards]' 'components.new={use: similarity, metric: bleu}'"],
    "answer_tokens": [f"trainer {BC}"],
    "corpus": [f"trainer {PT}", "data sql 'FROM corpus'"],
}
NAMELESS = "TProtocolException"  # DuckDB does not say in which file it met a damaged page
BY_KEY = ("scores:tiny-teacher", "answer_tokens")  # a slice found by its key is none where a file of it is gone


EVERY = ("samples", "rewards:chrf")  # the tables that all kinds of damage are tried on
CASES = [
    (table, line, damage)
    for table, found in READERS.items()
    for line in found
    for damage in (DAMAGE if table in EVERY else ("half", "foreign", "pages", "gone"))
]


@pytest.mark.parametrize(("table", "line", "damage"), CASES)
def test_a_truncated_or_foreign_shard(refuses, place, table, line, damage):
    path = place.shard(table)
    DAMAGE[damage](path)
    said = refuses(line, damaged=path.name)
    if damage == "gone" and table in BY_KEY:
        assert "'stages=[" in said
    else:
        assert f"{path.parent.name}/{path.name}" in said or (damage == "pages" and NAMELESS in said), said


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b"PAR1", lambda b: b""])
def test_a_shard_that_a_killed_factory_left_behind_is_not_trusted(refuses, place, damage):
    path = place.shard("samples")
    for table in ("scores", "rewards", "selections"):
        shutil.rmtree(place.root / "lake" / table)
    place.manifest("samples").unlink()
    path.write_bytes(damage(path.read_bytes()))
    refuses("factory 'stages=[samples]'", f"{path} is no Parquet file", f"rm {path}")


@pytest.mark.parametrize(
    "content", [lambda t: t[:200], lambda t: "", lambda t: "[]", lambda t: t.replace('"contract": ', '"contract": 9')]
)
@pytest.mark.parametrize(
    "line",
    ["trainer", "factory", "data sql 'FROM reward_table'", "data inspect chrf", "data export x.duckdb", "data verify"],
)
def test_a_manifest_that_is_none(refuses, place, line, content):
    path = place.manifest("samples")
    path.write_text(content(path.read_text(encoding="utf-8")), encoding="utf-8")
    refuses(line, path.parent.name, damaged=path.parent.name)


@rows(
    ("runs", "runs/journal/one", "data sql 'FROM runs'", "no whole Parquet file"),
    ("leaderboard", "runs/journal/one", "data sql 'FROM leaderboard'", "no whole Parquet file"),
    ("curves", "metrics/journal/one", "data sql 'FROM run_curves'", "no whole Parquet file"),
    ("export", "costs/journal/training-one", "data export x.duckdb", "training-one.parquet"),
    ("the next round", "runs/journal/one", "factory policy=run:one 'stages=[samples]'", "cannot be read"),
    ("a run of that name", "runs/journal/one", "trainer run=one runs=other", "cannot be read"),
)
def test_a_journal_file_that_was_cut(refuses, place, broken, line, says):
    path = place.root / "lake" / f"{broken}.parquet"
    path.write_bytes(b"PAR1")
    refuses(line, *says, path.name, damaged=path.name)


def young(place: Any, *gone: str) -> None:
    """A lake in which these tables are not made yet."""
    for table in gone or ("groups", "samples", "scores", "rewards", "selections", "runs", "metrics", "costs"):
        shutil.rmtree(place.root / "lake" / table)


@rows(
    ("rewards", young, "data sql 'FROM reward_table'", "no pool yet", "factory recipe="),
    ("groups", young, "data sql 'FROM group_table'", "no pool yet"),
    ("leaderboard", young, "data sql 'FROM leaderboard'", "leaderboard has no data yet", "stages=[evaluate]"),
    ("curves", young, "data sql 'FROM run_curves'", "run_curves has no data yet", "python -m trainer"),
    ("costs", young, "data sql 'FROM cost_table'", "cost_table has no data yet"),
    ("inspect", young, "data inspect chrf", "no pool yet"),
    ("components", lambda p: young(p, "rewards", "selections"), "data sql 'FROM best_of_n'", "no pool has a component"),
    ("pool, trainer", young, "trainer", "no pool tiny", "'stages=[prompts,samples,scores,rewards]'"),
    ("pool, factory", young, "factory 'stages=[rewards]'", "no pool tiny", "'stages=[prompts,samples,scores,rewards]'"),
    ("other sampling", None, "trainer sampling.temperature=0.5", "no pool tiny under these sampling settings"),
    ("scores", lambda p: young(p, "scores", "rewards", "selections"), "factory 'stages=[rewards]'", "has no scores by"),
    ("answers", lambda p: young(p, "answer_tokens", "selections"), f"trainer {BC}", "'stages=[answers]'"),
    (
        "answers to compare with",
        lambda p: young(p, "answers", "answer_tokens", "answer_rewards", "selections"),
        "factory 'stages=[rewards]' components.chrf.to=answers",
        "compares with the teacher's answers",
    ),
    ("corpus", lambda p: young(p, "corpus"), f"trainer {PT}", "no corpus plain"),
    ("prompts", None, "factory 'stages=[samples]' prompts.path=corpus.jsonl", "no prompts of corpus.jsonl"),
)
def test_a_table_or_view_that_has_no_data_yet(refuses, place, broken, line, says):
    if broken:
        broken(place)
    refuses(line, *says)


@pytest.mark.parametrize("lake", ["nowhere", "prompts.jsonl", "prompts.jsonl/lake"])
@pytest.mark.parametrize(
    "line", ["sql 'SELECT 1'", "tables", "inspect chrf", "report", "verify", "export x.duckdb", "gc"]
)
def test_a_lake_that_is_nowhere_or_a_file(refuses, line, lake):
    refuses(f"data {line} --lake {lake}", f"no lake at {lake}")


@rows(
    ("file, factory", None, "factory lake=prompts.jsonl", "prompts.jsonl is a file"),
    ("file, trainer", None, "trainer lake=prompts.jsonl", "prompts.jsonl is a file"),
    ("below a file", None, "factory lake=prompts.jsonl/lake", "could not be written: Not a directory"),
    ("nowhere, trainer", None, "trainer lake=nowhere", "no prompts of prompts.jsonl", "lake=nowhere"),
    ("URL, factory", None, "factory lake=gs://bucket/lake", "gs://bucket/lake is no address of a lake"),
    ("URL, trainer", None, "trainer lake=gs://bucket/lake", "gs://bucket/lake is no address of a lake"),
    ("URL, data", None, "data tables --lake gs://bucket/lake", "gs://bucket/lake is no address of a lake"),
)
def test_a_lake_that_no_command_can_use(refuses, place, broken, line, says):
    refuses(line, *says)


SQL = [
    "COPY (FROM samples) TO 'out'",
    "COPY (SELECT 1) TO '{shard}' (FORMAT parquet)",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{shard}'",
    "WITH x AS (COPY (SELECT 1) TO '{shard}') SELECT * FROM x",
    "ATTACH 'out' AS other",
    "SET enable_external_access = true",
    "INSTALL httpfs",
    "EXPORT DATABASE 'out'",
    "CREATE TABLE t AS SELECT 1",
    "DROP VIEW samples",
    "SELECT 1; COPY (SELECT 1) TO 'out'",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM 'prompts.jsonl'",
    "SELECT * FROM read_csv('prompts.jsonl')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM read_text('{manifest}')",
    "SELECT * FROM read_parquet('{root}/../*/lake/*/*/*.parquet')",
    "",
]


@pytest.mark.parametrize("query", SQL)
def test_sql_that_writes_or_reads_outside_the_lake(refuses, place, query):
    names = {"shard": place.shard("samples"), "manifest": place.manifest("samples"), "root": place.root}
    before = sorted(path.name for path in place.root.iterdir())
    refuses(f'data sql "{query.format(**names)}"')
    assert sorted(path.name for path in place.root.iterdir()) == before


@rows(
    ("export into the lake", None, "data export lake/x.duckdb", "lies inside the lake"),
    ("export into no folder", None, "data export nowhere/x.duckdb", "no folder", "nowhere"),
    ("export over a file", lambda p: p.write("x.duckdb", "mine"), "data export x.duckdb", "exists", "--replace"),
    ("export over a folder", lambda p: (p.root / "x.duckdb").mkdir(), "data export x.duckdb --replace", "directory"),
    ("answer into no folder", None, "data sql 'SELECT 1' --out nowhere/x", "nowhere/x cannot be written"),
    ("answer over a folder", None, "data sql 'SELECT 1' --out lake", "lake cannot be written"),
    ("report into no folder", None, "data report --out nowhere/x.html", "nowhere/x.html cannot be written"),
    ("report over a folder", None, "data report --out lake", "lake cannot be written"),
)
def test_a_file_that_cannot_be_written(refuses, place, broken, line, says):
    if broken:
        broken(place)
    refuses(line, *says)
