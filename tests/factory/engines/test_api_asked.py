"""A judge behind an endpoint, by the real commands: scores and verdicts, what is none, who pays, and that nobody is asked twice.

The student runs here; the server answers for `critic`, which judges the pool and the held-out answers."""

from __future__ import annotations

import shutil

import pytest

from data.config import ModelSettings
from data.lake import Lake
from data.refusal import Refusal
from data.verify import verify
from factory.endpoints import Endpoint, Price
from factory.stages import check

WORDS = ["score:4", "score:1", "score:9", "plain", "refuse", "verdict:yes", "verdict:no", "verdict:maybe", "filter"]
ROWS = [
    *({"messages": f"{word} hvat eitur nummar {i} ?", "split": "train"} for i, word in enumerate(WORDS)),
    {"messages": "score:3 hvat eitur húsið ?", "references": ["hús"], "split": "held_out"},
    {"messages": "score:tveir hvat eitur báturin ?", "references": ["bátur"], "split": "held_out"},
]
RUBRIC = "Er svarið rætt?"
SCORE = {"use": "judge", "by": "critic", "rubric": RUBRIC, "wording": "{question} {answer} {rubric}", "max_tokens": 32}
VERDICT = {**SCORE, "mode": "verdict", "rubric": "Er svarið føroyskt?"}
SCORES = {"score:4": 0.75, "score:1": 0.0}  # (s − 1)/(5 − 1)
VERDICTS = {"verdict:yes": 1.0, "verdict:no": 0.0}
POOL = "prompts,samples"


@pytest.fixture
def judged(write_recipe, start, ended, tmp_path):
    """`judged("rewards", "budget=1", code=2)`: what the command printed."""
    metrics = {"judged": SCORE, "chrf": {"use": "similarity", "metric": "chrf", "to": "references"}}
    write_recipe(
        "judged",
        ROWS,
        teacher=None,
        models={"critic": {"path": "critic", "endpoint": "e"}},
        components={"judged": SCORE, "held": VERDICT},
        reward="judged",
        sampling={"n": 3, "max_tokens": 6},
        factory={"shard_groups": 4, "benchmarks": {"task": {"metrics": metrics}}},
    )

    def go(stages: str, *words: str, code: int = 0) -> str:
        command = ("factory", "recipe=judged", f"lake={tmp_path / 'lake'}", f"stages=[{stages}]", *words)
        return ended(start(*command), code)

    return go


def rewards(lake: Lake, label: str) -> list[tuple[str, dict[str, object]]]:
    """(first word of the prompt, reward) of each sample whose text is not blank."""
    return [
        (row.pop("word"), row)
        for row in lake.sql(
            f"""SELECT split_part(p.messages[1].content, ' ', 1) AS word, r.value, r.valid, r.detail
            FROM rewards r JOIN samples s USING (group_id, sample_index) JOIN groups g USING (group_id)
            JOIN prompts p USING (prompt_id)
            WHERE r.label = '{label}' AND trim(s.text) <> ''"""
        ).to_pylist()
    ]


def bill(lake: Lake, stage: str) -> dict[str, object]:
    """What `costs` and the ledger say of a stage's questions."""
    return lake.sql(
        f"""SELECT (SELECT sum(money) FROM costs WHERE stage = '{stage}' AND device = 'api') AS costs,
        (SELECT sum(tokens_in + tokens_out) FROM costs WHERE stage = '{stage}' AND device = 'api') AS booked,
        sum(price) AS ledger, sum(prompt_tokens + answer_tokens) AS tokens, count(*) AS answers
        FROM ledger WHERE stage = '{stage}'"""
    ).to_pylist()[0]


@pytest.mark.slow
def test_a_judge_scores_by_its_rubric_and_nobody_pays_twice(judged, server, tmp_path, hashes, with_key):
    judged(f"{POOL},rewards,evaluate")
    asked = server.asked()
    lake, made = Lake.open(tmp_path / "lake"), hashes(Lake.open(tmp_path / "lake"))
    for label, values, rubric in (("judged", SCORES, RUBRIC), ("held", VERDICTS, VERDICT["rubric"])):
        found = rewards(lake, label)
        assert {word for word, _ in found} == set(WORDS)
        for word, row in found:
            assert (row["value"], row["valid"]) == (values.get(word), word in values)
            assert row["valid"] or "no verdict" in str(
                row["detail"]
            )  # malformed, beyond the scale, refused, filtered: null, never 0
        assert len([text for text in asked if text.endswith(str(rubric))]) >= len(WORDS)
    [task] = lake.slices("evaluations", benchmark="task")
    metrics = [dict(row["metrics"]) for row in lake.read(task).to_pylist()]
    assert sorted(m.get("judged", -1) for m in metrics) == [-1, 0.5] and all("chrf" in m for m in metrics)
    for stage in ("rewards", "evaluate"):
        sums = bill(lake, stage)
        assert sums["costs"] == pytest.approx(sums["ledger"]) and sums["costs"] and sums["booked"] == sums["tokens"]
    assert len(asked) == len(set(asked)) == bill(lake, "rewards")["answers"] + bill(lake, "evaluate")["answers"]

    again = judged("rewards,evaluate")
    assert again.count("found, nothing to do") == 4 and server.asked() == asked
    for slice_ in (
        task,
        *lake.slices("rewards"),
    ):  # as if they had been lost: they are made again from the ledger alone
        shutil.rmtree(lake.root / slice_.path)
    told = judged("rewards,evaluate")
    assert "0 answers bought" in told and server.asked() == asked
    assert hashes(lake) == made and verify(lake).faults == [] and with_key() == []


@pytest.mark.slow
def test_the_budget_ends_a_judges_work_and_a_larger_one_goes_on(judged, server, tmp_path, with_key):
    stopped = judged(f"{POOL},rewards,evaluate", "budget=0.2", code=2)
    assert "error: the budget ends here, $0.2" in stopped and "Traceback" not in stopped
    lake, first = Lake.open(tmp_path / "lake"), server.asked()
    spent = bill(lake, "rewards")
    assert 0.05 < spent["costs"] <= 0.2 and spent["answers"] == len(first)
    assert verify(lake).faults == []
    judged("rewards,evaluate", "budget=20")
    asked = server.asked()
    assert len(asked) == len(set(asked)) and len(asked) > len(first)
    assert len(rewards(lake, "held")) >= len(WORDS) and lake.slices("evaluations") and with_key() == []


def test_another_judge_is_another_evaluation(recipe, change, make, tiny_model):
    def by(seed: int):
        benchmarks = {
            "task": {"metrics": {"judged": {"use": "judge", "by": "critic", "wording": "{answer}", "max_tokens": 4}}}
        }
        return change(
            recipe, models={"critic": ModelSettings(path=tiny_model("llama", seed=seed))}, benchmarks=benchmarks
        )

    lake = make(by(3), "prompts,evaluate")
    make(by(4), "evaluate")
    first, second = lake.slices("evaluations", benchmark="task")
    assert first.models["policy"] == second.models["policy"] and first.models["judged.by"] != second.models["judged.by"]


@pytest.mark.parametrize("budget", [None, 5, {"tokens": 100}])
def test_money_is_not_limited_where_a_judge_has_no_price(recipe, change, budget):
    judged = change(
        recipe,
        stages=["prompts", "evaluate"],
        models={"critic": ModelSettings(path="critic", endpoint="e")},
        benchmarks={"task": {"metrics": {"judged": {"use": "judge", "by": "critic"}}}},
        endpoints={"e": Endpoint(base_url="http://127.0.0.1:9/v1", prices={"gpt-4": Price(30, 60)})},
        budget=budget,
    )
    if budget != 5:
        assert check(judged) is None
        return
    with pytest.raises(Refusal, match="what critic costs at endpoint e is not known"):
        check(judged)
