"""A kind of benchmark is one file; bits per byte stand beside each other for student and teacher."""

from __future__ import annotations

import math

import pytest

import factory.benchmarks
from data.refusal import Refusal
from factory.benchmarks import names
from factory.config import CorpusSource

KIND = '''
"""How long the policy's name is."""
from dataclasses import dataclass

from factory.benchmarks._slices import Measured, make_own, table


@dataclass(frozen=True)
class Settings:
    times: int = 1
    """How often it counts."""


def make(context, role, item):
    def compute(rows, work):
        metrics = {"letters": float(len(role) * item.settings.times)}
        return table(context, role, item, [Measured(row, None, None, metrics) for row in rows])

    return make_own(context, role, item, {"times": item.settings.times}, ["a", "b", "c"], compute)
'''


@pytest.fixture
def one_file_more(tmp_path, monkeypatch):
    folder = tmp_path / "kinds"
    folder.mkdir()
    (folder / "lettercount.py").write_text(KIND, encoding="utf-8")
    monkeypatch.setattr(factory.benchmarks, "__path__", [*factory.benchmarks.__path__, str(folder)])


def test_a_new_kind_is_one_file(recipe, change, make, one_file_more):
    assert "lettercount" in names()
    recipe = change(recipe, benchmarks={"mine": {"kind": "lettercount", "times": 2}}, policies=["student", "teacher"])
    lake = make(recipe, "evaluate")
    board = lake.sql("SELECT policy, value, n FROM leaderboard WHERE metric = 'letters' ORDER BY policy").to_pylist()
    assert [tuple(row.values()) for row in board] == [("student", 14.0, 3), ("teacher", 14.0, 3)]
    with pytest.raises(Refusal, match=r"benchmarks.mine \(lettercount\) has no setting 'tmes'; did you mean 'times'"):
        make(change(recipe, benchmarks={"mine": {"kind": "lettercount", "tmes": 2}}), "evaluate")
    with pytest.raises(Refusal, match="did you mean 'lettercount'"):
        make(change(recipe, benchmarks={"mine": {"kind": "lettercounts"}}), "evaluate")


def test_bits_per_byte_of_student_beside_teacher(recipe, change, make, write_rows):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = ["báturin siglir til oynna", "the sun shines over the islands and the boats"]
    rows = [{"text": text, "split": "held_out"} for text in texts]
    recipe = change(
        recipe,
        corpus={"fo": CorpusSource(path=write_rows(rows, "c.jsonl"))},
        benchmarks={"fit": {"kind": "likelihood"}},
        policies=["student", "teacher"],
    )
    lake = make(recipe, "prompts,corpus,evaluate")
    board = lake.sql("SELECT policy, value, n FROM leaderboard WHERE metric = 'bits_per_byte'").to_pylist()
    found = {row["policy"]: (row["value"], row["n"]) for row in board}
    for policy, model in (("student", recipe.student), ("teacher", recipe.teacher)):
        weights, tokenizer = (c.from_pretrained(model.path) for c in (AutoModelForCausalLM, AutoTokenizer))
        bits = size = 0.0
        for text in texts:
            encoded = tokenizer(text, return_offsets_mapping=True)
            with torch.no_grad():
                ids = torch.tensor([encoded.input_ids])
                bits += weights(ids, labels=ids).loss.item() * (len(ids[0]) - 1) / math.log(2)
            size += len(text[encoded.offset_mapping[0][1] :].encode())
        assert found[policy] == (pytest.approx(bits / size, rel=1e-5), 2)
    assert found["student"] != found["teacher"]
