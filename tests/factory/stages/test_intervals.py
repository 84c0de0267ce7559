"""Intervals of what the lake holds: policies evaluated earlier are compared with those evaluated later."""

from __future__ import annotations

import pytest

from data.config import ModelSettings
from data.intervals import SETTINGS
from factory.config import CorpusSource


@pytest.fixture
def measured(recipe, change, write_rows):
    """The tiny recipe with six held-out documents, measured for these policies; `student` replaces the student."""
    rows = [
        {"text": t, "split": "held_out"}
        for t in (
            "báturin siglir til oynna",
            "the sun shines",
            "kvøldið er kalt",
            "how many people live there?",
            "0 + 1 = 1",
            "æ ø á ð",
        )
    ]
    corpus = {"fo": CorpusSource(path=write_rows(rows, "c.jsonl"))}

    def of(*policies: str, student: str | None = None):
        changed = change(recipe, corpus=corpus, benchmarks={"fit": {"kind": "likelihood"}}, policies=list(policies))
        return change(changed, student=ModelSettings(path=student, dtype="float32")) if student else changed

    return of


FIGURES = "SELECT policy, value, low, high, n FROM leaderboard WHERE source = 'evaluation' ORDER BY policy"


def test_a_policy_evaluated_later_is_compared_with_those_before(measured, make):
    alone = make(measured("student"), "prompts,corpus,evaluate").sql(FIGURES).to_pylist()
    lake = make(measured("teacher"), "evaluate")
    rows = lake.sql(FIGURES).to_pylist()
    assert [row["policy"] for row in rows] == ["student", "teacher"] and rows[0] == alone[0]
    assert all(row["low"] < row["value"] < row["high"] and row["n"] == 6 for row in rows)
    [row] = lake.sql("SELECT * FROM differences WHERE policy = 'teacher'").to_pylist()
    assert (row["against"], row["metric"], row["n"]) == ("student", "bits_per_byte", 6)
    newest = lake.slices("intervals")[-1]
    assert len(newest.parents) == 2 and newest.settings == {"benchmark": "fit", **SETTINGS}


def test_nothing_is_made_again_where_nothing_changed(measured, make, hashes, capsys):
    before = hashes(make(measured("student", "teacher"), "prompts,corpus,evaluate"))
    capsys.readouterr()
    assert hashes(make(measured("teacher"), "evaluate")) == before
    assert "intervals/tiny" in capsys.readouterr().out.splitlines()[-1]


def test_another_model_under_a_policys_name_renews_its_figures_and_differences(measured, make, tiny_model):
    first = make(measured("student", "teacher"), "prompts,corpus,evaluate").sql(FIGURES).to_pylist()
    other = measured("student", student=tiny_model("llama", seed=11))
    second = make(other, "corpus,evaluate").sql(FIGURES).to_pylist()
    assert second[0]["value"] != first[0]["value"] and second[0]["low"] is not None and second[1] == first[1]
    lake = make(measured("student"), "evaluate")
    assert lake.sql(FIGURES).to_pylist() == first, "what was asked for last is what is shown, though it was found"
    assert lake.sql("FROM differences").num_rows == 2


def test_settings_that_are_not_the_same_for_all_are_said(recipe, change, make, capsys):
    def of(policy: str, length: int):
        task = {"max_tokens": length, "metrics": {"chrf": {"use": "similarity", "metric": "chrf"}}}
        return change(recipe, benchmarks={"task": task}, policies=[policy])

    make(of("student", 4), "prompts,evaluate")
    make(of("teacher", 4), "evaluate")
    assert "other settings" not in capsys.readouterr().out
    make(of("teacher", 2), "evaluate")
    assert "other settings of max_tokens: " in capsys.readouterr().out
