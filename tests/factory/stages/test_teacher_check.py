"""teacher_check tells a teacher that knows its answers from a random one, spends little, and writes nothing but its cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.config import ModelSettings, PromptSource
from data.lake import Lake
from data.refusal import Refusal
from factory.config import FactoryRecipe
from factory.context import Context
from factory.stages.teacher_check import Check, _pairs, run

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
ROWS = [
    {"messages": f"what is {i} ?", "references": [word], "topic": "number", "language": "en"}
    for i, word in enumerate(NUMBERS)
]


@pytest.fixture
def asked(recipe: FactoryRecipe, change: Any, make: Any, write_rows: Callable[..., str]) -> FactoryRecipe:
    found = change(recipe, prompts=PromptSource(path=write_rows(ROWS, "numbers.jsonl")), reward=None, components={})
    make(found, "prompts")
    return found


@pytest.fixture
def knowing(tiny_model: Callable[..., str], tmp_path: Path) -> str:
    """A teacher that was trained on the answers, in a folder of its own."""
    import torch
    import transformers

    from factory.engines.tokens import Tokens

    folder = tiny_model("llama", tmp_path / "knowing", seed=7)
    tokens = Tokens.open(ModelSettings(path=folder), Path(folder))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    texts = [
        (tokens.prompt_ids([{"role": "user", "content": row["messages"]}]), tokens.answer_ids(row["references"][0]))
        for row in ROWS
    ]
    for _ in range(25):
        for prompt, answer in texts:
            labels = torch.tensor([[-100] * len(prompt) + answer])
            model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)
    return folder


def checked(recipe: FactoryRecipe) -> tuple[Check, Lake]:
    lake = Lake.open(recipe.lake)
    context = Context(recipe, lake)
    try:
        found = run(context)
    finally:
        context.close()
    assert found is not None
    return found, lake


def test_a_good_teacher_is_told_from_a_random_one(
    asked: FactoryRecipe, change: Any, knowing: str, tiny_model: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    good, _ = checked(change(asked, teacher=ModelSettings(path=knowing)))
    assert good.good and good.preference is not None and good.preference > 0.9 and good.known == 12
    assert "it tells right from wrong answers" in capsys.readouterr().out
    random, _ = checked(change(asked, teacher=ModelSettings(path=tiny_model("llama", seed=11))))
    assert random.good is False and "it does not tell right from wrong" in random.verdict
    assert good.unaligned == random.unaligned == 0.0 and good.overlap is not None and 0 < good.overlap < 1


def test_strict_refuses_the_random_one(asked: FactoryRecipe, change: Any, tiny_model: Callable[..., str]) -> None:
    teacher = ModelSettings(path=tiny_model("llama", seed=11))
    with pytest.raises(Refusal, match="prefers right answers"):
        checked(change(asked, teacher=teacher, strict=True))


def test_it_writes_its_cost_and_nothing_else(asked: FactoryRecipe, hashes: Any) -> None:
    before = hashes(Lake.open(asked.lake))
    found, lake = checked(asked)
    new = {path for path in hashes(lake) if path not in before and not path.startswith("models/")}
    assert not new
    costs = [row for file in lake.journal("costs") for row in pq.read_table(file).to_pylist()]
    [own] = [row for row in costs if row["stage"] == "teacher_check"]
    assert 0 < own["tokens_in"] + own["tokens_out"] < 5000 and own["device"] == "cpu" and own["seconds"] > 0
    assert found.prompts == 12


def test_the_student_overlaps_with_itself(asked: FactoryRecipe, change: Any) -> None:
    found, _ = checked(change(asked, teacher=asked.student))
    assert found.overlap == 1.0 and found.preference == found.own


def test_another_tokenizer_has_no_overlap_but_a_share_of_unaligned_tokens(
    asked: FactoryRecipe, change: Any, tiny_model: Callable[..., str]
) -> None:
    found, _ = checked(change(asked, teacher=ModelSettings(path=tiny_model("mistral", seed=2))))
    assert found.overlap is None and found.unaligned is not None and 0 <= found.unaligned < 1
    assert found.preference is not None


def test_a_wrong_answer_is_another_prompts_of_the_same_topic() -> None:
    rows = [
        {"references": ["a"], "topic": "x"},
        {"references": ["b"], "topic": "y"},
        {"references": ["a"], "topic": "x"},
        {"references": ["c"], "topic": "x"},
        {"references": None, "topic": "x"},
    ]
    assert [(right, wrong) for _, right, wrong in _pairs(rows)] == [("a", "c"), ("b", "a"), ("a", "c"), ("c", "a")]
    assert _pairs(rows[:1]) == []


def test_without_references_it_says_that_it_cannot_tell() -> None:
    none = Check(8, 0, None, None, None, None, 0.2)
    assert none.good is None and "give prompts references" in none.verdict and "another language" in none.verdict
    assert "–" in none.table
    lucky = Check(8, 4, 1.0, 0.5, 0.9, 0.0, None)  # 4 of 4: a coin does so one time in 16
    assert lucky.by_chance == pytest.approx(1 / 16) and lucky.good is False
