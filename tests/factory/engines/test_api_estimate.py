"""What the estimate says that endpoints bill, beside what they billed: requests, tokens and money, by the real commands.

The estimate takes each reply for as long as `max_tokens` allows, so it is as near as that limit is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data.lake import Lake

TRAIN, DRAWS, GROUP = (
    12,
    1,
    3,
)  # this server's draws of one prompt are equal, and equal texts are judged once: so one draw
ROWS = [
    *({"messages": f"what is the capital of island {i} ?", "split": "train"} for i in range(TRAIN)),
    {"messages": "how many people live there ?", "split": "held_out"},
]
JUDGE = {"use": "judge", "by": "critic", "wording": "score:3 {answer}", "max_tokens": 32}


@pytest.fixture
def tokenizer(tiny_model) -> str:
    """The server bills the tokens that the estimate counts: the student's."""
    return str(Path(tiny_model("llama")) / "tokenizer.json")


@pytest.mark.slow
def test_money_and_tokens_are_within_twice_the_bill(write_recipe, start, ended, server, tmp_path, capsys):
    write_recipe(
        "billed",
        ROWS,
        answers={"n": DRAWS, "temperature": 1, "max_tokens": 32},
        sampling={"n": GROUP, "max_tokens": 32},
        models={"critic": {"path": "critic", "endpoint": "e"}},
        components={"judged": JUDGE},
        reward="judged",
        factory={"stages": ["prompts", "answers", "samples", "rewards"]},
    )
    shown = ("recipe=billed", f"lake={tmp_path / 'lake'}")
    told = ended(start("factory", *shown, "estimate=true"))
    assert server.asked() == [] and not (tmp_path / "lake").exists()
    ended(start("factory", *shown, "budget=50"))
    bill = "SELECT model, count(*) AS n, sum(prompt_tokens) AS read, sum(answer_tokens) AS told, sum(price) AS money"
    billed = {
        row["model"]: row for row in Lake.open(tmp_path / "lake").sql(f"{bill} FROM ledger GROUP BY 1").to_pylist()
    }
    assert {model: row["n"] for model, row in billed.items()} == {
        "tiny": TRAIN * DRAWS,
        "critic": TRAIN * (GROUP + DRAWS),
    }
    assert len(server.asked()) == sum(row["n"] for row in billed.values())  # every request is a row of the ledger
    ratios = {}
    for model, real in billed.items():
        [line] = [words for words in map(str.split, told.splitlines()) if model in words and "bills" not in words]
        read, written = (int(word.replace(",", "")) for word in line[-6:-4])
        [money] = re.findall(rf"{model} bills at most about \$([\d.]+)", told)
        ratios[model] = [float(read / real["read"]), float(written / real["told"]), float(money) / real["money"]]
    with capsys.disabled():
        print(
            "\nestimated over billed (tokens in, out, USD):",
            {m: [round(r, 2) for r in own] for m, own in ratios.items()},
        )
    assert all(1 <= ratio <= 2 for own in ratios.values() for ratio in own), ratios
