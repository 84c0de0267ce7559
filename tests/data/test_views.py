"""Views against numbers counted by hand on the small lake."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from data import Key, Lake, Refusal
from data.contract import TABLES
from data.keys import hex_id
from data.manifest import ShardFile, Slice, write_manifest
from data.relations import asked_type, hex_sql
from data.show import as_csv
from data.storage import write_shard
from data.views import VIEWS

Publish = Callable[..., Slice]


def test_every_table_has_a_view_with_the_contracts_columns_and_types(lake: Lake, empty_lake: Lake) -> None:
    for name, table in TABLES.items():
        for one in (lake, empty_lake):
            rows = one.sql(f"SELECT * FROM {name} LIMIT 0")
            assert rows.column_names == [*(c.name for c in table.columns), "slice", "label"]
            described = one.sql(f"DESCRIBE {name}").to_pydict()
            types = dict(zip(described["column_name"], described["column_type"], strict=True))
            for column in table.columns:
                assert types[column.name].replace('"', "") == asked_type(column.type).replace('"', "").replace(
                    "TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"
                )


def test_every_joined_view_has_the_columns_it_promises(lake: Lake) -> None:
    for name, view in VIEWS.items():
        promised = [c.name for c in view.columns]
        assert lake.sql(f"SELECT * FROM {name}").column_names[: len(promised)] == promised


def test_reward_table_has_a_row_a_sample_and_a_column_a_component(lake: Lake) -> None:
    rows = lake.sql("SELECT * FROM reward_table WHERE pool = 'demo' ORDER BY text").to_pylist()
    assert len(rows) == 8
    first = rows[0]
    assert first["group_id"] in lake.sql("SELECT group_id FROM groups")["group_id"].to_pylist()
    assert (first["prompt"], first["text"], first["chrf"], first["length"]) == (
        "Hvussu eitur staðurin?", "svar 0.0 ð", 0.1, 1.0,
    )  # fmt: skip
    assert rows[3]["chrf"] is None and rows[3]["length"] == 4.0


def test_a_view_joins_a_table_by_slice_and_keys_and_no_other_pools_rows(lake_copy: Lake, publish: Publish) -> None:
    (old,) = lake_copy.slices("samples", label="demo")
    groups = lake_copy.slice(old.parent("groups"))
    again = [lake_copy.read_shard(old, i).to_pydict() for i in range(len(old.shards))]
    publish(lake_copy, "samples", again, label="again", parents=(groups,))
    joined = "SELECT r.text AS seen, s.text FROM reward_table r JOIN samples s USING ({keys}) WHERE r.pool = 'demo'"
    rows = lake_copy.sql(joined.format(keys="slice, group_id, sample_index")).to_pylist()
    assert len(rows) == 8 and all(row["seen"] == row["text"] for row in rows)
    assert lake_copy.sql(joined.format(keys="group_id, sample_index")).num_rows == 16, (
        "both labels' rows: the page warns of it"
    )


def test_an_id_copied_from_any_output_can_be_asked_for(lake: Lake, empty_lake: Lake) -> None:
    for view, column in (("samples", "group_id"), ("reward_table", "prompt_id"), ("groups", "prompt_id")):
        copied = as_csv(lake.sql(f"SELECT {column} FROM {view} LIMIT 1")).split()[1]
        assert len(copied) == 16
        assert lake.sql(f"SELECT 1 FROM {view} WHERE {column} = $id", id=copied).num_rows > 0
    shown = empty_lake.sql(f"SELECT {hex_sql('x::UBIGINT')} AS id FROM (VALUES (0), (255), ({2**64 - 1})) t(x)")
    assert shown["id"].to_pylist() == [hex_id(0), hex_id(255), hex_id(2**64 - 1)]


def test_a_pool_without_a_component_shows_null_for_it(lake: Lake) -> None:
    rows = lake.sql("SELECT count(*) n, count(length) l, count(chrf) c FROM reward_table WHERE pool = 'round1'")
    assert rows.to_pylist() == [{"n": 8, "l": 0, "c": 7}]


def test_group_table_has_population_statistics(lake: Lake) -> None:
    rows = lake.sql("SELECT * FROM group_table WHERE pool = 'demo' ORDER BY n DESC").to_pylist()
    assert [r["n"] for r in rows] == [4, 3, 1]
    assert rows[0]["chrf_mean"] == pytest.approx(0.3) and rows[0]["chrf_std"] == pytest.approx(0.02**0.5)
    assert [r["chrf_zero_variance"] for r in rows] == [False, True, True]
    assert (rows[1]["length_min"], rows[1]["length_max"]) == (1.0, 5.0)


def test_best_of_n_takes_the_lowest_index_among_equals(lake: Lake) -> None:
    rows = lake.sql("SELECT component, sample_index, value, text FROM best_of_n WHERE pool='demo' ORDER BY ALL")
    assert [tuple(r.values()) for r in rows.to_pylist()] == [
        ("chrf", 0, 0.2, "svar 1.0 ð"), ("chrf", 0, 0.9, "svar 2.0 ð"), ("chrf", 1, 0.4, "svar 0.1 ð"),
        ("length", 0, 2.0, "svar 2.0 ð"), ("length", 0, 5.0, "svar 1.0 ð"), ("length", 3, 4.0, "svar 0.3 ð"),
    ]  # fmt: skip


def test_leaderboard_is_the_newest_evaluation_and_each_runs_last_probe(lake: Lake) -> None:
    columns = "policy, benchmark, metric, value, n, source, step, recipe"
    rows = lake.sql(f"SELECT {columns} FROM leaderboard ORDER BY policy, benchmark, metric").to_pylist()
    assert [tuple(r.values()) for r in rows] == [
        ("r1", "probe", "exact_match", 0.5, None, "probe", 10, "demo"),
        ("r1", "probe", "language", 0.75, None, "probe", 10, "demo"),
        ("r1", "quiz", "exact", 0.25, 4, "evaluation", None, "demo"),
        ("r2", "probe", "exact_match", 0.125, None, "probe", 3, None),
        ("r2", "quiz", "exact", 0.75, 4, "evaluation", None, "demo"),
        ("student", "demo", "exact_match", pytest.approx(2 / 3), 3, "evaluation", None, "demo"),
        ("student", "demo", "f1", 0.5, 1, "evaluation", None, "demo"),
        ("student", "fit", "bits_per_byte", 1.0, 2, "evaluation", None, "other"),
    ]


def test_run_curves_know_the_recipe_of_finished_runs(lake: Lake) -> None:
    rows = lake.sql("SELECT run, recipe, status, count(*) AS n FROM run_curves GROUP BY ALL ORDER BY run").to_pylist()
    assert [tuple(r.values()) for r in rows] == [("r1", "demo", "finished", 5), ("r2", None, None, 1)]


def test_cost_table_sums_and_leaves_unknown_tokens_unknown(lake: Lake) -> None:
    rows = lake.sql("SELECT * FROM cost_table ORDER BY stage DESC").to_pylist()
    assert rows[0] == {
        "stage": "samples", "recipe": "demo", "calls": 2, "items": 16, "tokens_in": 150, "tokens_out": 50,
        "seconds": 5.0, "tokens_per_second": 40.0, "money": None,
    }  # fmt: skip
    assert rows[1]["tokens_per_second"] is None and rows[1]["tokens_in"] is None


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_without_data_is_refused_with_the_command_that_makes_it(empty_lake: Lake, view: str) -> None:
    with pytest.raises(Refusal) as refused:
        empty_lake.sql(f"SELECT * FROM {view}")
    assert "yet" in refused.value.args[0] and refused.value.args[1].startswith("python -m ")


def test_an_appended_slice_counts_the_files_it_shares_once(lake_copy: Lake) -> None:
    samples = lake_copy.slices("samples", label="demo")[0]
    extra = lake_copy.slices("samples", label="round1")[0].shards[1]
    grown = Slice(samples.root, "samples", "demo-grown", "demo", (*samples.shards, extra), created="9", parents=())
    write_manifest(grown)
    rows = lake_copy.sql("SELECT slice, count(*) n FROM samples WHERE label = 'demo' GROUP BY slice").to_pylist()
    assert rows == [{"slice": "demo-grown", "n": 9}]


def test_the_same_shards_under_another_label_show_under_both(lake_copy: Lake) -> None:
    samples = lake_copy.slices("samples", label="demo")[0]
    write_manifest(Slice(samples.root, "samples", "twin", "twin", samples.shards, created="9"))
    rows = lake_copy.sql("SELECT label, count(*) n FROM samples GROUP BY label ORDER BY label").to_pylist()
    assert [tuple(r.values()) for r in rows] == [("demo", 8), ("round1", 8), ("twin", 8)]


def test_reward_table_shows_only_rewards_of_the_newest_samples(lake_copy: Lake) -> None:
    samples = lake_copy.slices("samples", label="demo")[0]
    write_manifest(
        Slice(samples.root, "samples", "demo-new", "demo", samples.shards[:1], created="9", parents=samples.parents)
    )
    rows = lake_copy.sql("SELECT count(*) n, count(chrf) c FROM reward_table WHERE pool = 'demo'").to_pylist()
    assert rows == [{"n": 7, "c": 0}]


def test_a_component_named_like_a_column_is_refused(lake_copy: Lake) -> None:
    rewards = lake_copy.slices("rewards", label="length")[0]
    write_manifest(
        Slice(rewards.root, "rewards", "text-1", "text", rewards.shards, created="9", parents=rewards.parents)
    )
    with pytest.raises(Refusal, match="component label text"):
        lake_copy.sql("SELECT * FROM reward_table")


def test_a_lake_of_a_thousand_slices_opens_in_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # a thousand manifests in a second, not in nine
    lake = Lake.open(tmp_path)
    for i in range(1000):
        rows = pa.table({"group_id": [i], "sample_index": [0], "value": [float(i)], "valid": [True]})
        file = tmp_path / "rewards" / f"s{i}" / "part-00000.parquet"
        sha = write_shard(TABLES["rewards"], rows, file, f"k{i}", "x") if i % 10 == 0 else "0"
        shard = ShardFile(0, f"k{i}", f"rewards/s{i // 10 * 10}/part-00000.parquet", 1, sha)
        write_manifest(
            Slice(tmp_path, "rewards", f"s{i}", f"c{i}", (shard,), created=f"{i:04d}", parents=("samples/p",))
        )
    lake.sql("SELECT 1 FROM runs")
    start = time.process_time()
    assert lake.sql("SELECT count(*) AS n FROM rewards").to_pylist() == [{"n": 1000}]
    assert time.process_time() - start < 1.0


def test_a_policy_measured_again_under_its_name_replaces_its_older_evaluation(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    for model, value in (("m0", 0.0), ("m1", 1.0)):
        row = {"policy": "run", "model_id": model, "benchmark": "b", "item": "i", "metrics": [("exact", value)]}
        key = Key({"policy": "run", "benchmark": "b"}, models={"policy": model}, contents=(model,))
        with lake.publish("evaluations", key, label="demo") as publisher:
            publisher.write(publisher.pending()[0], pa.Table.from_pylist([row], schema=TABLES["evaluations"].schema))
            publisher.finish()
    assert lake.sql("SELECT model_id, metrics['exact'] AS exact FROM evaluations").to_pylist() == [
        {"model_id": "m1", "exact": 1.0}
    ]
    assert lake.sql("SELECT value FROM leaderboard").to_pylist() == [{"value": 1.0}]


def test_recipes_that_share_the_names_of_policy_and_benchmark_stand_side_by_side(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    for recipe, value in (("one", 0.0), ("two", 1.0)):
        row = {
            "policy": "student",
            "model_id": "m",
            "benchmark": "held_out",
            "item": "i",
            "metrics": [("exact", value)],
        }
        key = Key({"policy": "student", "benchmark": "held_out"}, models={"policy": "m"}, contents=(recipe,))
        with lake.publish("evaluations", key, label=recipe) as publisher:
            publisher.write(publisher.pending()[0], pa.Table.from_pylist([row], schema=TABLES["evaluations"].schema))
            publisher.finish()
    rows = lake.sql("SELECT recipe, value FROM leaderboard ORDER BY recipe").to_pylist()
    assert rows == [{"recipe": "one", "value": 0.0}, {"recipe": "two", "value": 1.0}]
