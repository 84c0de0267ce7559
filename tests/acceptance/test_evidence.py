"""The measurements of docs/evidence.md ask the commands for what conf/ has: arms, names of runs, a teacher that is wrong.

The measurements themselves are run by hand; here each of their kinds of command trains a few steps, and their sums are told apart
from mistakes by small cases."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench" / "evidence"))

import arms
import pays
import stale

SHORT = ("steps=2", "probe.every=null")


@pytest.fixture(scope="module")
def mine(demo, tmp_path_factory):
    """The demo's lake, to train from."""
    return demo.copied(tmp_path_factory.mktemp("evidence"))


def test_every_arm_trains_under_the_name_that_the_measurement_looks_for(mine) -> None:
    choice, corpus = arms.Choice("0.001", "null"), "0"
    kinds = {"replay": ["grpo", "raft"], "hybrid": ["topr"]}
    for kind in (*arms.COPYING, *kinds):
        words = [f"arm={kind}", "optimiser.lr=0.001", "losses.pt=0", *SHORT]
        words += [f"objective={','.join(kinds[kind])}", "losses.aggregation=null"] if kind in kinds else []
        mine.trainer("-m", "recipe=evidence", *words)
    asked = [arms.Arm(kind, name) for kind in kinds for name in kinds[kind]] + [arms.Arm(k) for k in arms.COPYING]
    found = {row["run"] for row in mine.sql("SELECT run FROM runs WHERE recipe = 'evidence'")}
    assert found == {arms.run_name(arm, choice, corpus) for arm in asked}


def test_an_arm_copies_and_replays_what_its_name_says(mine) -> None:
    losses = {}
    for arm in ("bc_raw", "bc_best", "bc_unfiltered", "replay", "hybrid"):
        mine.trainer("recipe=evidence", f"arm={arm}", *SHORT, f"run=says-{arm}")
        losses[arm] = {name for line in mine.metrics(f"says-{arm}") for name in line if name.startswith("loss/")}
    [told] = mine.sql("SELECT configuration AS c FROM runs WHERE run = 'says-bc_unfiltered'")
    assert "loss/bc" not in losses["replay"] and all("loss/bc" in losses[arm] for arm in losses if arm != "replay")
    assert json.loads(told["c"])["where"] is None


def test_a_teacher_that_is_wrong_now_and_then(mine) -> None:
    told = mine.sql("SELECT count(DISTINCT prompt_id) AS n FROM answers WHERE label = 'demo'")[0]["n"]
    path = mine.folder / "wrong.jsonl"
    rows = [{"prompt": r["prompt"], "text": r["text"]} for r in mine.sql(pays.ANSWERS)]
    pays.mistaken(rows, 3, path)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    changed = sum(line["answer"] != row["text"] for line, row in zip(lines, rows, strict=True))
    assert told == len(lines) and 0.2 < changed / told < 0.4
    told_to_both = f"factory.imports.told.path={path}"
    mine.factory("recipe=evidence_wrong", "stages=[import,samples,scores,rewards]", told_to_both)
    mine.trainer("recipe=evidence_wrong", "arm=bc_best", *SHORT, "run=wrong", told_to_both)
    [row] = mine.sql("SELECT slices FROM runs WHERE run = 'wrong'")
    assert "answers/evidence_wrong" in row["slices"]


def test_quality_that_turned_and_a_verdict_in_time() -> None:
    rising = [{"replay": 1.0}, {"replay": 0.0}, {"replay": 1.0}]
    assert stale.stopped(rising) == 1 and stale.stopped(rising[:1]) is None
    assert stale.turned([0.5, 0.46]) is None and stale.turned([0.5, 0.44, 0.6]) == 1
