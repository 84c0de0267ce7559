"""EuroEval as a command: what it is told, and what its results become. The real one needs a hub; a small executable stands in."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from data.refusal import Refusal
from factory.benchmarks.euroeval import RESULTS, Settings, rows_of, words


def line(dataset="foqa", f1=(41.5, 43.5), em=(20.0, 30.0)):
    """A line as `eee_utils.benchmark_result_to_eee_dict` makes it (commit f37841c8d538)."""
    raw = [{"f1": a, "em": b, "failed_instances": []} for a, b in zip(f1, em, strict=True)]

    def told(name, values, radius):
        score = sum(values) / len(values)
        return {
            "evaluation_name": name,
            "source_data": {"dataset_name": dataset, "source_type": "hf_dataset"},
            "metric_config": {"lower_is_better": False, "score_type": "continuous", "min_score": 0, "max_score": 100},
            "score_details": {
                "score": score,
                "details": {"num_failed_instances": "0.0"},
                "uncertainty": {
                    "confidence_interval": {
                        "lower": score - radius, "upper": score + radius, "confidence_level": 0.95, "method": "bootstrap",
                    },
                    "num_samples": len(values),
                },
            },
        }  # fmt: skip

    return {
        "schema_version": "0.2.1",
        "evaluation_id": f"{dataset}/m/1",
        "model_info": {"name": "m", "id": "m", "additional_details": {"generative": "true", "generative_type": "base"}},
        "eval_library": {
            "name": "euroeval",
            "version": "18.0.0",
            "additional_details": {
                "dataset": dataset, "languages": '["fo"]', "task": "reading-comprehension", "few_shot": "true",
                "validation_split": "false", "raw_results": json.dumps(raw),
            },
        },
        "evaluation_results": [told("test_f1", f1, 1.96), told("test_em", em, 9.8)],
    }  # fmt: skip


def test_a_line_is_a_row_an_iteration_with_the_totals_as_their_mean():
    first, second = rows_of(line())
    assert (first.item, first.iteration, second.iteration) == ("foqa", 0, 1)
    assert first.metrics == pytest.approx(
        {"foqa.f1": 41.5, "foqa.em": 20, "foqa.f1_radius": 1.96, "foqa.em_radius": 9.8}
    )
    assert second.metrics["foqa.f1"] == pytest.approx(43.5)


def test_scores_between_0_and_1_are_put_on_the_totals_scale():
    plain = {
        "dataset": "scala-fo",
        "results": {
            "raw": [{"test_mcc": 0.25, "test_macro_f1": 0.5}, {"test_mcc": -0.05, "test_macro_f1": 0.7}],
            "total": {"test_mcc": 10.0, "test_mcc_se": 29.4, "test_macro_f1": 60.0, "num_failed_instances": 3.0},
        },
    }
    first, second = rows_of(plain)
    assert first.metrics == pytest.approx({"scala-fo.mcc": 25, "scala-fo.macro_f1": 50, "scala-fo.mcc_radius": 29.4})
    assert second.metrics["scala-fo.mcc"] == pytest.approx(-5)


def test_a_line_without_iterations_is_one_row():
    (row,) = rows_of({"dataset": "d", "results": {"total": {"test_mcc": 10.0}}})
    assert row.iteration is None and row.metrics == {"d.mcc": 10.0}


def test_the_command_line():
    settings = Settings(datasets=("foqa", "fone"), generative_type="base", cache="/c", arguments=("--verbose",))
    assert words("/bin/euroeval", settings, Path("/m"), trust=True) == [
        "/bin/euroeval", "--model", "/m", "--language", "fo", "--dataset", "foqa", "--dataset", "fone", "--evaluate-test-split",
        "--num-iterations", "10", "--generative-type", "base", "--trust-remote-code", "--cache-dir", "/c", "--verbose",
    ]  # fmt: skip


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """`stand_in(lines, code=0)`: an executable `euroeval` on the PATH that writes these results and what it was told."""

    def put(lines, code=0):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (tmp_path / "results").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
        script = folder / "euroeval"
        script.write_text(
            f"#!{sys.executable}\nimport pathlib, shutil, sys\n"
            f"with open({str(tmp_path / 'told')!r}, 'a') as told:\n    print(*sys.argv[1:], file=told)\n"
            f"shutil.copy({str(tmp_path / 'results')!r}, {RESULTS!r}) if {bool(lines)} else None\nsys.exit({code})\n",
            encoding="utf-8",
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return tmp_path / "told"

    return put


def evaluated(recipe, change, **values):
    return change(recipe, benchmarks={"board": {"kind": "euroeval", **values}})


def test_the_finished_checkpoint_is_measured_by_the_command_once(recipe, change, make, stand_in, capsys):
    told = stand_in([line(), line("multi-wiki-qa-fo", (50.0, 60.0), (10.0, 10.0))])
    lake = make(evaluated(recipe, change, iterations=2), "evaluate")
    (slice_,) = lake.slices("evaluations")
    rows = lake.read(slice_).to_pylist()
    assert [(r["item"], r["iteration"]) for r in rows] == [(d, i) for d in ("foqa", "multi-wiki-qa-fo") for i in (0, 1)]
    assert {r["policy"] for r in rows} == {"student"} and dict(rows[2]["metrics"])["multi-wiki-qa-fo.f1"] == 50
    board = lake.sql("SELECT metric, value FROM leaderboard WHERE benchmark = 'board'").to_pylist()
    assert {r["metric"]: r["value"] for r in board}["foqa.f1"] == pytest.approx(42.5)
    assert told.read_text().startswith(
        f"--model {Path(recipe.student.path).absolute()} --language fo --evaluate-test-split"
    )
    make(evaluated(recipe, change, iterations=2, cache="elsewhere"), "evaluate")
    assert len(told.read_text().splitlines()) == 1  # found


def test_a_command_that_is_not_there_is_refused_before_any_work(recipe, change, make, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(Refusal, match="no command euroeval on the PATH") as refused:
        make(evaluated(recipe, change), "prompts,evaluate")
    assert "pip install 'euroeval[generative]'" in refused.value.args[1]


@pytest.mark.parametrize(("lines", "code", "says"), [([line()], 3, "ended with code 3"), ([], 0, "left no result")])
def test_a_command_that_fails_leaves_nothing(recipe, change, make, stand_in, lines, code, says):
    from data.lake import Lake

    stand_in(lines, code)
    with pytest.raises(Refusal, match=says):
        make(evaluated(recipe, change), "evaluate")
    assert not Lake.open(recipe.lake).slices("evaluations")
