"""The measurements of docs/evidence.md ask the commands for what conf/ has: arms, names of runs, a teacher that is wrong.

The measurements themselves are run by hand; here each of their kinds of command trains a few steps, and their sums are told apart
from mistakes by small cases."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench" / "evidence"))

import arms
import language
import page
import pair
import pair_files
import pays
import plot
import rounds
import seeds
import stale
import worlds

ROOT = Path(__file__).parents[2]
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


def test_what_a_probe_keeps_is_told_beside_the_verdict_and_the_best() -> None:
    points = [{"exact": exact, "replay": replay} for exact, replay in ((0.1, 1.0), (0.2, 0.0), (0.6, 1.0))]
    worlds_of = [dict.fromkeys(stale.ARMS, points)] * 3
    ended = [dict.fromkeys(stale.ARMS, stale.Ended(n, 0.4, n - 48, 0.5)) for n in (64, 128, 512)]
    [line] = [line for line in stale.probe_table(worlds_of, ended).splitlines() if line.startswith("| `topr` |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:3] == ["2 of 3", "128 (64 … 512)"] and cells[4] == "80 (16 … 464)"
    assert [cell.strip("*")[:6].strip() for cell in cells[3:4] + cells[5:]] == ["0.400", "0.500", "+0.300", "-0.100"]


def test_a_probe_that_stands_still_ends_a_run_of_the_staleness_part(mine) -> None:
    words = [word.replace("every=16", "every=1").replace("probe/exact", "probe/truncated") for word in stale.PROBED]
    mine.trainer("recipe=evidence", "arm=replay", *words, "probe.max_tokens=1", "steps=9", "run=stale-topr-probe")
    [told] = mine.sql("SELECT status, steps FROM runs WHERE run = 'stale-topr-probe'")
    assert told == {"status": "stopped", "steps": 1 + stale.PATIENCE}
    assert [path.name for path in (mine.runs / "stale-topr-probe").glob("checkpoint-*")] == ["checkpoint-1"]


def test_a_measurement_asks_drift_of_runs_in_the_folder_of_a_world(mine, tmp_path) -> None:
    (tmp_path / "data").mkdir()
    for name, place in {"data/lake": mine.lake, "data/demo": ROOT / "data" / "demo", "runs": mine.runs}.items():
        (tmp_path / name).symlink_to(place)
    told = json.loads(worlds.World(1, tmp_path).run(str(stale.HERE), "--drift", "demo-hybrid"))
    assert told.keys() == {"demo-hybrid"} and told["demo-hybrid"].keys() == {*stale.SHOWN, "replay"}
    assert 0 < told["demo-hybrid"]["token_ess"] <= 1 and told["demo-hybrid"]["replay"] in (0, 1)


def test_the_language_part_trains_every_cell_under_its_name_and_the_guard_holds(mine) -> None:
    """A bound that no language reaches: every step after the first probe learns the corpus alone."""
    cell = language.Cell("hybrid_right", "none", "0.1", guard="corpus")
    above = [word.replace(f"below: {language.BOUND}", "below: 1.5") for word in cell.words]
    name = cell.run.replace("pt0.1", "pt${trainer.losses.pt}")
    mine.trainer("-m", "recipe=evidence", *above, "probe.every=1", "steps=3", "losses.pt=0.1", f"run={name}")
    assert [line["weight/rl"] for line in mine.metrics(cell.run) if "weight/rl" in line] == [1, 0, 0]
    assert len({cell.run for cell in language.cells()}) == len(language.cells())


def test_a_run_of_another_choice_is_never_taken_for_this_ones(tmp_path) -> None:
    world, arm = worlds.World(1, tmp_path), arms.Arm("replay", "topr")
    assert not arms.done(world, "replaying", arm, arms.Choice("0.004", "null"))
    (tmp_path / "runs" / "replaying").mkdir(parents=True)
    trained = {"optimiser": {"lr": 0.004}, "objective": "topr", "losses": {"aggregation": None}}
    record = {"status": "finished", "configuration": {"trainer": trained}}
    (tmp_path / "runs" / "replaying" / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert arms.done(world, "replaying", arm, arms.Choice("0.004", "null"))
    for other in (arms.Choice("0.002", "null"), arms.Choice("0.004", "token")):
        with pytest.raises(RuntimeError, match="another choice"):
            arms.done(world, "replaying", arm, other)


def test_the_cost_table_has_a_line_for_every_round_and_for_the_online_loop() -> None:
    paid = {"exact": 0.5, **dict.fromkeys(rounds.PAID_FOR, 1000.0)}
    world = dict.fromkeys(rounds.lines(), paid)
    rows = rounds.rows([world, world])
    assert len(rows) == 4 * 3 + 3 * 2 + 3 and {len(row) for row in rows} == {len(rounds.HEAD)}
    assert [row[3] for row in rows if row[0] == "hybrid, `topr`: round 1"] == [""]
    alone = {row[0] for row in rows if row[4] == ""}
    assert alone == {row[0] for row in rows if "rate held" in row[0] or "10 updates" in row[0] or "TRL" in row[0]}
    assert rows[-1][:2] == ["online GRPO (TRL), a run of 450", "450"]


def test_the_examples_in_the_measurements_hold() -> None:
    for module in (seeds, stale, rounds):
        found = doctest.testmod(module)
        assert found.attempted and not found.failed


def test_each_place_of_the_page_is_filled_alone_and_every_command_on_it_is_one(tmp_path, monkeypatch) -> None:
    written = page.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(page, "PAGE", tmp_path / "evidence.md")
    for name in re.findall(r"<!-- (\w+) -->", written):
        page.PAGE.write_text(written, encoding="utf-8")
        page.put(name, "a table")
        new = page.PAGE.read_text(encoding="utf-8")
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        assert new == f"{written.split(begin)[0]}{begin}\n\na table\n\n{end}{written.split(end)[1]}"
    with pytest.raises(ValueError, match="no place called nothing"):
        page.put("nothing", "a table")
    scripts = re.findall(r"python (tests/bench/evidence/\w+\.py)(?: --seeds [\d,]+)? --write", written)
    assert len(set(scripts)) == 6
    for script in set(scripts):
        told = subprocess.run(
            [sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True
        ).stdout
        assert "--seeds" in told and "--write" in told


def test_a_figure_drawn_again_is_the_same_bytes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(plot, "FOLDER", tmp_path)
    rows = {"a": seeds.interval([0.1, 0.2, 0.4]), "`b`": seeds.interval([-0.3, 0.2])}
    lines = {"updates": {"a": [(1, rows["a"]), (2, rows["`b`"])], "b": [(1, rows["`b`"])]}}
    drawn = []
    for _ in range(2):
        files = (
            plot.dots("dots", rows, "exact match", zero=True),
            plot.curves("curves", lines, "exact", {"a": 2}, base=2),
        )
        drawn.append([path.read_bytes() for path in files])
    assert drawn[0] == drawn[1] and all(b"<svg" in one for one in drawn[0])


def test_a_form_is_held_out_of_some_countries_and_never_both_asked_and_learned() -> None:
    rows = pair_files.questions(3)
    away = [row["messages"] for row in rows if row["split"] == "held_out"]
    learned = {row["messages"] for row in rows if row["split"] == "train"}
    assert len(away) == pair_files.HELD_OUT == len(set(away)) and not learned & set(away)
    assert not learned & {row["messages"] for row in pair_files.healing()}
    assert away != [row["messages"] for row in pair_files.questions(4) if row["split"] == "held_out"]


def test_a_pair_of_tiny_models_goes_the_whole_way(tiny_model, tmp_path) -> None:
    """Cut, widened, healed, sampled, scored across tokenizers, trained by every arm, evaluated."""
    import torch
    from transformers import AutoModelForCausalLM

    (tmp_path / "teacher").symlink_to(tiny_model("llama", num_hidden_layers=4))
    pair_files.cut(tmp_path / "teacher", tmp_path / "cut", layers=2)
    whole, cut = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("teacher", "cut"))
    for ours, theirs in ((0, 0), (1, 3)):
        for a, b in zip(cut.model.layers[ours].parameters(), whole.model.layers[theirs].parameters(), strict=True):
            assert torch.equal(a, b)
    text = [{"text": f"hvat eitur fuglurin nummar {i} á Suðuroynni ?", "language": "fa"} for i in range(60)]
    short = ("trainer.steps=2", "sampling.max_tokens=4", "answers.max_tokens=4", "prompts.limit=30")
    pair.made(tmp_path, text, ("tokens=8", "min_count=4", "text=faroese.jsonl"), short)
    found = pair.measured(tmp_path, 1, (*short, "sampling.n=2", "where=null"), ["replay.truncated=keep"])
    assert found.keys() == {"teacher", "student", "pool", *pair.ARMS}
    rows = pair.rows([found])
    assert len(rows) == len(found) - 1 and {len(row) for row in rows} == {len(pair.HEAD)}
