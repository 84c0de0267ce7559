"""From an API to a trained student by the real commands: answers bought, samples drawn here, behaviour cloning beside grpo.

The trainer asks nobody; the judge comes back when the finished run is evaluated. The key in the environment is found nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from data.lake import Lake
from data.verify import verify

PLACES = [
    "Tórshavn",
    "Klaksvík",
    "Vágur",
    "Miðvágur",
    "Runavík",
    "Tvøroyri",
    "Eiði",
    "Gjógv",
    "Kirkja",
    "Hvannasund",
    "Sumba",
    "Saksun",
]
ROWS = [
    {"messages": f"hvar er {name} ?", "references": [name], "split": "held_out" if i >= 10 else "train"}
    for i, name in enumerate(PLACES)
]
JUDGE = {"use": "judge", "by": "critic", "wording": "score:2 {question} {answer}", "max_tokens": 16}
TRAINER = {
    "steps": 6,
    "objective": "grpo",
    "losses": {"rl": 1.0, "bc": 1.0, "pt": 0.0},
    "replay": {"prompts": 4, "answers": 8, "bc": "teacher", "truncated": "keep"},
    "optimiser": {"lr": 5e-3, "warmup": 0},
}


@pytest.mark.slow
def test_a_student_is_trained_from_bought_answers(write_recipe, start, ended, server, with_key, tiny_model, tmp_path):
    write_recipe(
        "bought",
        ROWS,
        answers={"n": 2, "temperature": 1, "max_tokens": 24},
        sampling={"n": 4, "max_tokens": 12},
        models={"critic": {"path": "critic", "endpoint": "e"}},
        components={"near": {"use": "similarity", "metric": "chrf", "to": "answers"}, "judged": JUDGE},
        reward="near + 0.1*judged",
        factory={"benchmarks": {"task": {"metrics": {"judged": JUDGE}}}},
        trainer=TRAINER,
    )
    shown = ("recipe=bought", f"lake={tmp_path / 'lake'}")
    pool = "stages=[prompts,answers,samples,scores,rewards]"
    ended(start("factory", *shown, pool, "budget=50", "executor=local"))  # a worker draws the samples; the command asks
    asked = server.asked()
    assert (
        len([text for text in asked if not text.startswith("score")]) == 10 * 2
    )  # two draws a train prompt; none held out
    again = ended(start("factory", *shown, pool, "budget=50"))
    told = ended(start("trainer", *shown, "run=taught"))
    assert "rows in" not in again and server.asked() == asked, "neither a second call nor the trainer asks anybody"
    assert "step 6/6" in told

    lake, run = Lake.open(tmp_path / "lake"), tmp_path / "runs" / "taught"
    metrics = lake.sql("SELECT step, name, value FROM metrics WHERE run = 'taught' ORDER BY step").to_pylist()
    series = {name: [m["value"] for m in metrics if m["name"] == name] for name in {m["name"] for m in metrics}}
    assert series["loss/bc"][-1] < 0.9 * series["loss/bc"][0]  # the teacher's words become likelier
    assert len(series["grpo/surrogate"]) == 6 and min(series["advantage_square"]) > 0  # the reward tells samples apart
    assert series["drift/sequence_ess"][0] == pytest.approx(1) and series["drift/sequence_ess"][-1] < 1
    [row] = lake.sql("SELECT slices FROM runs WHERE run = 'taught'").to_pylist()
    assert {"answers", "samples"} <= {path.split("/")[0] for path in json.dumps(row).replace('"', " ").split()}
    before, after = (load_file(folder / "model.safetensors") for folder in (Path(tiny_model("llama")), run / "final"))
    assert any(not before[name].equal(after[name]) for name in before)

    ended(start("factory", *shown, "stages=[evaluate]", "policies=[run:taught]", "budget=50"))
    held_out = [text for text in server.asked() if text not in asked]
    assert len(held_out) == 2 and all(text.startswith("score:2 hvar er S") for text in held_out)
    items = lake.sql("SELECT metrics FROM evaluations WHERE policy = 'taught'").to_pylist()
    assert [dict(item["metrics"]) for item in items] == [{"judged": 0.25}] * 2
    bills = lake.sql(
        "SELECT stage, model, sum(money) AS money FROM costs WHERE device = 'api' AND money > 0 GROUP BY ALL"
    )
    found = {(row["stage"], row["model"]) for row in bills.to_pylist()}
    assert found == {("answers", "tiny"), ("rewards", "critic"), ("evaluate", "critic")}
    assert verify(lake).faults == [] and with_key() == []
