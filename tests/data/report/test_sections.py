"""What each section says, by hand on the small lake and on the hostile one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data import Lake, Refusal
from data.inspection import inspect
from data.report import ablations, evaluation, lineage, paid, pool, samples, training
from data.report.parts import Cell, Section, Table, number
from data.report.source import LENGTH, Source


@pytest.fixture
def source(lake: Lake, tmp_path: Path) -> Source:
    return Source(lake, tmp_path / "runs", "demo")


def parts(section: Section | str, kind: str) -> list[Any]:
    assert isinstance(section, Section), section
    return [part for part in section.parts if part.kind == kind]


def by_name(table: Table) -> list[dict[str, Any]]:
    return [
        dict(zip(table.names, (cell.value if isinstance(cell, Cell) else cell for cell in row), strict=True))
        for row in table.rows
    ]


def test_costs_are_summed_and_what_no_stage_booked_is_not_there(source: Source) -> None:
    section = paid.section(source)
    (figures,) = parts(section, "figures")
    assert dict(figures.rows) == {"tokens read": 150, "tokens written or scored": 50, "seconds in the factory": 6.0}
    bought, costs = parts(section, "table")
    assert {row["stage"]: row.get("tokens in") for row in by_name(costs)} == {"samples": 150, "rewards": None}
    assert {(row["policy"], row["quiz · exact"]) for row in by_name(bought)} >= {
        ("r1", 0.25),
        ("r2", 0.75),
        ("student", None),
    }


def test_figures_come_with_the_leaderboards_intervals_and_pairs_with_their_difference(source: Source) -> None:
    tables = {table.title: by_name(table) for table in parts(evaluation.section(source), "table")}
    board = source.lake.sql(
        "SELECT policy, value, low, high FROM leaderboard WHERE benchmark = 'quiz' ORDER BY value DESC"
    ).to_pylist()
    assert [{k: row[k] for k in board[0]} for row in tables["quiz: exact"]] == board and board[0]["low"] < board[0][
        "high"
    ]
    (pair,) = tables["Differences in quiz: exact (1)"]
    assert (pair["policy"], pair["minus"], pair["difference"], pair["n"]) == ("r1", "r2", -0.5, 4)
    assert tables["fit: bits_per_byte"][0]["value"] == 1.0
    assert {
        (row["run"] if "run" in row else row["policy"], row["value"])
        for row in tables["Probes during training, the last of each run"]
    } >= {("r1", 0.5)}


def test_the_best_policy_stands_first_also_where_less_is_better(empty_lake: Lake, publish: Any, tmp_path: Path) -> None:
    for policy, value in (("middle", 0.5), ("small", 0.25), ("large", 1.0)):
        shared = {"policy": [policy], "model_id": [policy], "benchmark": ["b"], "item": ["0"]}
        metrics = [("exact", value), ("bits", value), ("bytes", 1.0), ("repetition", value)]
        publish(empty_lake, "evaluations", [shared | {"metrics": [metrics]}], label="r", content=policy)
    tables = {table.title: table for table in parts(evaluation.section(Source(empty_lake, tmp_path)), "table")}
    order = {name: [row["policy"] for row in by_name(table)] for name, table in tables.items()}
    assert order["b: exact"] == ["large", "middle", "small"]
    assert order["b: bits_per_byte"] == order["b: repetition"] == ["small", "middle", "large"]
    assert "Lower is better" in tables["b: repetition"].note and not tables["b: exact"].note


@pytest.mark.parametrize("expression", ["chrf + length", "-1*length"])
def test_what_inspect_shows_is_there(lake: Lake, tmp_path: Path, expression: str) -> None:
    source = Source(lake, tmp_path, "demo", expression)
    found = inspect(lake, expression, pool="demo")
    section = pool.section(source)
    tables = {table.title: table for table in parts(section, "table")}
    shown = tables["Components, and the expression"]
    assert [
        dict(zip(found.components.column_names, row, strict=True)) for row in shown.rows
    ] == found.components.to_pylist()
    assert [row[0] for row in tables["Best samples"].rows] == found.best["group_id"].to_pylist()
    assert [row[-1] for row in tables["Worst samples"].rows] == found.worst["text"].to_pylist()
    assert [list(row) for row in tables["Correlation over samples"].rows] == [
        list(row.values()) for row in found.correlation.to_pylist()
    ]
    assert found.sql in [code.text for code in parts(section, "code")]
    (figures,) = parts(section, "figures")
    assert {k: v for k, v in figures.rows if k in found.figures} == {
        k: v for k, v in found.figures.items() if k in dict(figures.rows)
    }


def test_the_reward_is_the_newest_runs_on_this_pool_or_what_the_pool_has(
    source: Source, hostile: Source, lake_copy: Lake, tmp_path: Path
) -> None:
    assert source.expression[0] == "chrf" and "first component" in source.expression[1]
    assert hostile.expression[1] == "the reward of run second"
    for label in ("chrf", "length"):
        for found in lake_copy.slices("rewards", label=label):
            (lake_copy.root / found.path / "_manifest.json").unlink()
    assert Source(lake_copy, tmp_path).expression[0] == LENGTH
    with pytest.raises(Refusal, match="did you mean 'demo'"):
        _ = Source(source.lake, tmp_path, "dmo").judged
    with pytest.raises(Refusal, match="chfr"):
        _ = Source(source.lake, tmp_path, "demo", "chfr").judged


def test_best_and_worst_samples_stand_first_and_shades_follow_the_advantage(source: Source) -> None:
    (shown,) = parts(samples.section(source), "samples")
    assert [row.tag for row in shown.rows[:3]] == ["best 1", "worst 1", "best 2"]
    assert shown.rows[0].figures[1] == ("chrf", 0.4) and shown.rows[1].figures[1] == (
        "chrf",
        0.1,
    )  # 0.9 has no advantage
    found = inspect(source.lake, "chrf", pool="demo", rows=samples.ENDS)
    for name, rows in (("best", found.best), ("worst", found.worst)):
        keys = [f"{row['group_id']}/{row['sample_index']}" for row in rows.to_pylist()]
        assert {row.key for row in shown.rows if row.tag.startswith(name)} <= set(keys)
    assert shown.rows[1].classes == "n4 u" and "".join(piece.text for piece in shown.rows[1].pieces) == "svar 0.0 ð"
    assert shown.by_surprise is None and len(shown.rows) == 7  # the eighth has no value


def test_tokens_are_coloured_by_their_advantage_and_by_the_teachers_surprise(hostile: Source) -> None:
    (shown,) = parts(samples.section(hostile), "samples")
    assert shown.by_surprise == "teacher"
    row = next(row for row in shown.rows if "ólavsøka" in "".join(piece.text for piece in row.pieces))
    assert len(row.pieces) > 20 and row.pieces[-1].text == "∎"
    letter = next(i for i, piece in enumerate(row.pieces) if piece.text == "ó")
    first = sum(len(piece.text.encode()) for piece in row.pieces[:letter])
    nats = 0.1 * (first % 60) + 0.1 * ((first + 1) % 60)  # a letter of two bytes is two tokens
    assert row.pieces[letter].title.endswith(f", {nats:.2f} nats")
    advantage = dict(row.figures)["advantage"]
    own = {piece.title.split(",")[0] for piece in row.pieces}
    assert len(own) == 1 and own != {f"advantage {advantage:.3g}"}  # alike in this sample, and off its group's mean


def test_without_the_tokenizer_a_sample_is_coloured_whole(hostile: Source, tmp_path: Path) -> None:
    (shown,) = parts(samples.section(Source(hostile.lake, tmp_path)), "samples")
    assert "coloured whole" in shown.note and {len(row.pieces) for row in shown.rows} == {1}
    assert {row.classes.split()[1] for row in shown.rows} > {"s3"}


def test_drift_is_the_mean_of_the_last_steps_with_the_words_of_the_verdict(hostile: Source) -> None:
    section = training.section(hostile)
    drift = by_name(parts(section, "table")[-1])
    assert [(row["run"], round(row["token ess"], 6)) for row in drift] == [("first", 0.9), ("second", 0.4)]
    assert drift[0]["verdict"].startswith("replay on") and "token ESS/n is below 0.5" in drift[1]["verdict"]
    curves = [chart for part in parts(section, "drawings") for chart in part.charts]
    assert len(curves) == 6 and curves[-2][0] == "<script>window.ran = 1</script>"
    assert all(drawing.count("<polyline") == 2 for _, drawing in curves)


def test_runs_stand_side_by_side_by_what_differs(hostile: Source) -> None:
    (table,) = parts(ablations.section(hostile), "table")
    assert [(row["run"], row["optimiser.lr"]) for row in by_name(table)] == [("first", 0.1), ("second", 0.2)]
    assert list(table.names) == ["run", "optimiser.lr", "<script>window.ran = 1</script> · exact"]


def test_an_average_makes_no_setting_differ_and_stands_apart(empty_lake: Lake, tmp_path: Path) -> None:
    def trained(seed: int, reward: str) -> dict[str, Any]:
        trainer = {"batch": {"size": 4}, "steps": 20, "losses": {"kl": 0.1 * seed}, "objective": "grpo"}
        return {"aside": seed, "trainer": trainer, "seed": seed, "reward": reward}

    average = {"kind": "slerp", "a": "run:one", "b": "run:two", "models": [], "weights": [], "t": 0.5, "run": "between"}
    made = {"average": average | {"lake": "l", "runs": "r", "start": None}, "policy": "student"}
    configurations = {"one": trained(1, "chrf"), "two": trained(2, "length"), "between": made}
    for day, (name, configuration) in enumerate(configurations.items()):
        row = {
            "run": name, "recipe": "demo", "status": "finished", "configuration": json.dumps(configuration),
            "configuration_hash": name, "slices": "[]", "created_at": datetime(2026, 1, 1 + day, tzinfo=UTC),
        }  # fmt: skip
        empty_lake.append("runs", pa.Table.from_pylist([row]), name)
    side, apart = parts(ablations.section(Source(empty_lake, tmp_path)), "table")
    assert list(side.names) == ["run", "reward", "losses.kl", "seed", "aside"]  # what matters stands first
    assert [row[:2] for row in side.rows] == [["one", "chrf"], ["two", "length"]]
    assert by_name(apart) == [{"run": "between", "kind": "slerp", "a": "run:one", "b": "run:two", "t": 0.5}]
    runs = Source(empty_lake, tmp_path).runs
    assert [run.averaged for run in runs] == [(), (), ("run:one", "run:two")]


def test_lineage_names_parents_before_what_was_made_of_them(hostile: Source) -> None:
    section = lineage.section(hostile)
    rows = by_name(parts(section, "table")[0])
    assert [row["slice"].split("/")[0] for row in rows] == ["prompts", "groups", "samples"]
    (drawing,) = parts(section, "drawings")
    assert drawing.charts[0][1].count('class="edge"') == 3  # prompts → samples → two runs


def test_an_average_comes_from_its_models_and_two_slices_of_a_label_are_told_apart(
    lake_copy: Lake, publish: Any, tmp_path: Path
) -> None:
    def drawn() -> str:
        (drawing,) = parts(lineage.section(Source(lake_copy, tmp_path)), "drawings")
        return str(drawing.charts[0][1])

    before = drawn().count('class="edge"')
    prompts = {"prompt_id": [1], "messages": [[{"role": "user", "content": "x"}]], "split": ["train"]}
    made = [publish(lake_copy, "prompts", [prompts], label="twice", content=name) for name in ("a", "b")]
    settings = {"a": {"trainer": {}}, "b": {"trainer": {}}, "c": {"average": {"a": "run:a", "b": "run:b"}}}
    for day, (name, configuration) in enumerate(settings.items()):
        row = {
            "run": name, "recipe": "r", "status": "finished", "configuration": json.dumps(configuration),
            "configuration_hash": name, "slices": json.dumps([s.path for s in made]),
            "created_at": datetime(2027, 1, 1 + day, tzinfo=UTC),
        }  # fmt: skip
        lake_copy.append("runs", pa.Table.from_pylist([row]), name)
    tables = parts(lineage.section(Source(lake_copy, tmp_path)), "table")
    assert tables[0].title == "Run c, averaged from run:a, run:b"
    assert all(f"<title>prompts {slice_.path.split('/')[1]}</title>" in drawn() for slice_ in made)
    assert drawn().count('class="edge"') == before + 4 + 2  # both prompts to both runs, both runs to their average


def test_a_run_that_still_trains_is_read_from_its_folder(lake: Lake, tmp_path: Path) -> None:
    (samples_slice,) = [s for s in lake.slices("samples") if s.label == "demo"]
    for name, path in (("living", samples_slice.path), ("foreign", "samples/other-000000000000")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"status": "running", "slices": [path], "configuration": {}}))
        (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 3.5}\n{"step": 2, "loss": 2.5}\n{"step": 3, "lo')
    source = Source(lake, tmp_path)
    assert source.curves["loss"]["living"] == [(1, 3.5), (2, 2.5)] and "foreign" not in source.curves["loss"]
    assert [run.status for run in source.runs] == ["finished", "running"]


def test_null_is_never_zero() -> None:
    assert number(None) == "" and number(0) == "0" and number(float("nan")) == "none"
