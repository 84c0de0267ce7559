"""FoQA: EuroEval's protocol redone with the library `datasets`, golden prompts, and answers against plain transformers."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from data.measures import MEASURES
from data.refusal import Refusal
from factory.benchmarks._foqa import as_text, as_turns, few_shot, read_splits, resampled
from factory.benchmarks._foqa_tokens import Reading, strips
from factory.engines.tokens import Tokens


def row(number, split, context=None, answer="til oynna"):
    text = context or f"báturin siglir til oynna nummar {number}"
    return {
        "id": f"{split}-{number}", "title": "t", "context": text, "question": f"hvar siglir bátur {number} ?",
        "answers": {"answer_start": [0], "text": [answer]}, "validation": "",
    }  # fmt: skip


SPLITS = {
    "train": [row(n, "train", "x" * 600 if n % 3 == 0 else f"tekstur {n // 2}\n um bát") for n in range(40)],
    "val": [row(n, "val") for n in range(7)],
    "test": [row(n, "test") for n in range(9)],
}

GOLDEN_TEST = ["test-2", "test-1", "test-1", "test-6", "test-5", "test-0", "test-1", "test-7", "test-7"]
GOLDEN_SHOTS = [["train-4", "train-17", "train-10", "train-26"], ["train-37", "train-28", "train-20", "train-22"]]


def redone(splits, iterations, evaluated="test"):
    """The protocol as EUROEVAL.md tells it, by the library's own calls."""
    from datasets import Dataset

    tables = {name: Dataset.from_list(rows) for name, rows in splits.items()}
    tables["test"] = tables[evaluated]
    generator = np.random.default_rng(4242)
    places = {name: generator.integers(0, len(t), size=(iterations, len(t))) for name, t in tables.items()}
    for i in range(iterations):
        drawn = {name: table.select(places[name][i]) for name, table in tables.items()}
        seed = 4242 + i
        shuffled = drawn["train"].shuffle(seed=seed)
        for limit in (512, 1024, 2048, 4096, 8192):
            short = shuffled.filter(lambda one, limit=limit: len(one["context"]) < limit)
            if len(short) >= 4:
                break
        left, chosen = short.shuffle(seed=seed), []
        while len(chosen) < 4 and len(left):
            chosen.append(left[0])
            left = left.filter(lambda one, c=chosen[-1]["context"]: one["context"] != c)
        random.seed(seed)
        random.shuffle(chosen)
        yield [one["id"] for one in drawn["test"]], [one["id"] for one in chosen]


@pytest.mark.parametrize("evaluated", ["test", "val"])
def test_rows_and_examples_of_every_iteration_are_those_of_the_library(evaluated):
    told = enumerate(zip(resampled(SPLITS, 10, evaluated), redone(SPLITS, 10, evaluated), strict=True))
    for number, (splits, (asked, examples)) in told:
        assert [one["id"] for one in splits["test"]] == asked
        assert [one["id"] for one in few_shot(splits["train"], number, 4, "b")] == examples


def test_recorded_choice_of_the_first_iterations():
    first, second, *_ = resampled(SPLITS, 10, "test")
    assert [one["id"] for one in first["test"]] == GOLDEN_TEST
    assert [
        [one["id"] for one in few_shot(s["train"], i, 4, "b")] for i, s in enumerate((first, second))
    ] == GOLDEN_SHOTS


def test_contexts_are_short_as_long_as_four_are_and_longer_ones_then():
    contexts = ["a" * 600, "b" * 700, "c" * 1023, "d" * 5000, "e" * 511, "f" * 1024]
    train = [row(n, "train", context) for n, context in enumerate(contexts)]
    assert {len(one["context"]) for one in few_shot(train, 0, 4, "b")} == {600, 700, 1023, 511}
    assert len(few_shot(train * 4, 0, 4, "b")) == 1  # e alone, four times: the rows are enough, the contexts are not
    with pytest.raises(Refusal, match="under 4 train rows have a context below 8192"):
        few_shot([row(n, "train", "x" * 9000) for n in range(9)], 0, 4, "b")


ASKED = row(1, "test", "Eysturoy er ein oyggj.\nHon liggur eystanfyri. ")
SHOWN = row(2, "train", " Nólsoy\ner lítil.", "Nólsoy\ner")


def test_a_base_model_is_shown_prefix_examples_and_question():
    assert as_text(ASKED, [SHOWN]) == (
        "Hetta eru tekstir saman við spurningum og svar.\n\n"
        "Tekstur: Nólsoy er lítil.\nSpurningur: hvar siglir bátur 2 ?\nSvara við í mesta lagi trimum orðum: Nólsoy er\n\n"
        "Tekstur: Eysturoy er ein oyggj. Hon liggur eystanfyri.\nSpurningur: hvar siglir bátur 1 ?\n"
        "Svara við í mesta lagi trimum orðum: "
    )


def test_a_chat_model_is_asked_in_turns():
    asks = "{}\n\nSvara hesum spurninginum um tekstin uppiyvir við í mesta lagi trimum orðum.\n\nSpurningur: hvar siglir bátur {} ?"
    assert as_turns(ASKED, [SHOWN]) == [
        {"role": "user", "content": "Tekstur: " + asks.format("Nólsoy er lítil.", 2)},
        {"role": "assistant", "content": "Nólsoy er"},
        {"role": "user", "content": "Tekstur: " + asks.format("Eysturoy er ein oyggj. Hon liggur eystanfyri.", 1)},
    ]


@pytest.fixture
def tokens(tiny_model):
    from pathlib import Path

    from data.config import ModelSettings

    return lambda family="llama", **kw: Tokens.open(ModelSettings(path="x"), Path(tiny_model(family, **kw)))


def test_the_last_space_goes_where_it_is_no_token_of_its_own(tokens):
    joined, apart = tokens(text=["a: negative b: positive"]), tokens()
    for ours, stripped in ((joined, True), (apart, False)):
        told = ours.tokenizer("Svara: " if not stripped else "Svara:", add_special_tokens=False).input_ids
        assert strips(ours.tokenizer) == stripped and Reading(ours, False, 8).prompts(["Svara: "]) == [told]


def test_an_answer_ends_at_a_blank_line_or_what_closes_a_text(tokens):
    ours = tokens()
    encode = lambda text: ours.tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
    base, chat = Reading(ours, False, 8), Reading(ours, True, 8)
    assert base.answer(encode(" til oynna\n\nTekstur: meira")) == "til oynna"
    assert chat.answer(encode(" til oynna\n\nTekstur: meira")) == "til oynna\n\nTekstur: meira"
    assert base.answer(encode("til <end>oynna")) == "til" and chat.answer(encode("til <s>oynna")) == "til"
    assert Reading(ours, False, 8, ["oyn"]).answer(encode("til oynna")) == "til"
    assert chat.answer(encode("til <|user|>oynna")) == "til oynna"  # a special token that ends nothing is left out


def test_long_prompts_lose_their_beginning_or_their_examples(tokens):
    ours = tokens(max_position_embeddings=64)
    base = Reading(ours, False, 40)
    assert (base.longest, base.room) == (32, 32)  # no more than half of the context
    texts = ["a " * 50 + "the boat sails", "the sun"]
    long, short = base.prompts(texts)
    assert len(long) == 32 and ours.text(long).endswith("the boat sails") and ours.text(short) == "the sun"


def test_all_conversations_lose_the_same_number_of_examples(tokens):
    ours = tokens(max_position_embeddings=64)
    chat = Reading(ours, True, 24)
    turn = lambda text: [{"role": "user", "content": text}, {"role": "assistant", "content": "ja"}]  # noqa: E731
    ask = lambda text: [{"role": "user", "content": text}]  # noqa: E731
    long, short = (
        [*turn("the boat sails " * 6), *turn("the sun"), *ask("the island")],
        [*turn("a"), *turn("b"), *ask("c")],
    )
    told = [ours.tokenizer.decode(ids) for ids in chat.prompts([long, short])]
    assert told == ["<|user|>the sun<end><|assistant|>ja<end><|user|>the island<end><|assistant|>",
                    "<|user|>b<end><|assistant|>ja<end><|user|>c<end><|assistant|>"]  # fmt: skip
    assert len(chat.prompts([short])[0]) > len(chat.prompts([long, short])[1])
    with pytest.raises(Refusal, match="without any example"):
        chat.prompts([ask("the boat sails " * 9)])


@pytest.fixture
def folder(tmp_path):
    def write(splits, kind="folder"):
        place = tmp_path / "foqa"
        place.mkdir(exist_ok=True)
        for name, rows in splits.items():
            (place / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        return str(place)

    return write


SHORT = {
    "train": [row(n, "train", f"tekstur {n}") for n in range(6)],
    "val": [row(0, "val")],
    "test": [row(0, "test", "báturin siglir"), row(1, "test", "sólin skínur"), row(2, "test", "the boat")],
}


def evaluated(recipe, change, path, **values):
    return change(recipe, benchmarks={"foqa": {"kind": "foqa", "path": path, "iterations": 2, "shots": 1, **values}})


@pytest.mark.parametrize("chat", ["auto", "no"])
def test_answers_are_plain_greedy_ones_and_the_figure_is_the_mean_of_iterations(recipe, change, make, folder, chat):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = folder(SHORT)
    lake = make(evaluated(recipe, change, path, chat=chat), "evaluate")
    rows = lake.read(lake.slices("evaluations")[-1]).to_pylist()
    model, tokenizer = (c.from_pretrained(recipe.student.path) for c in (AutoModelForCausalLM, AutoTokenizer))
    expected = []
    for number, splits in enumerate(resampled(read_splits(path, None, "b"), 2, "test")):
        examples = few_shot(splits["train"], number, 1, "b")
        for one in {r["id"]: r for r in splits["test"]}.values():
            if chat == "no":
                text = as_text(one, examples)
                text = text.strip() if strips(tokenizer) else text
            else:
                text = tokenizer.apply_chat_template(
                    as_turns(one, examples), add_generation_prompt=True, tokenize=False
                )
            ids = tokenizer(text).input_ids
            with torch.no_grad():
                out = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=32, pad_token_id=0)
            said = tokenizer.decode(out[0, len(ids) :]).split("<end>")[0].split("<s>")[0]
            said = said.split("\n\n")[0] if chat == "no" else said
            said = tokenizer.decode(tokenizer(said.strip()).input_ids, skip_special_tokens=True)
            expected.append((one["id"], number, said))
    assert [(r["item"], r["iteration"], r["prediction"]) for r in rows] == expected
    assert len({(r["item"], r["iteration"]) for r in rows}) == len(rows) < 6  # what an iteration drew twice counts once


def test_the_figure_is_the_mean_of_iterations_of_different_size(recipe, change, make, folder):
    from factory.benchmarks.foqa import _scored

    said = [("a", 0, "TIL oynna"), ("b", 0, "heim"), ("a", 1, "til oynna"), ("b", 1, "til"), ("c", 1, "onki")]
    rows = [_scored({"id": i, "iteration": n, "answers": ["Til oynna"]}, text) for i, n, text in said]
    parts = {name: np.array([r.metrics[name] for r in rows]) for name in ("iteration", "squad_f1", "squad_em")}
    f1 = np.array([(100 + 0) / 2, (100 + 200 / 3 + 0) / 3])
    assert MEASURES["squad_f1_mean"].compute(parts) == pytest.approx(f1.mean())
    assert MEASURES["squad_f1_radius"].compute(parts) == pytest.approx(1.96 * f1.std(ddof=1) / np.sqrt(2))
    assert MEASURES["squad_em_mean"].compute(parts) == pytest.approx((50 + 100 / 3) / 2)


def test_a_file_with_a_column_split_is_the_same_as_a_folder(folder, write_rows):
    rows = [{**one, "split": name} for name, own in SHORT.items() for one in own]
    ours = read_splits(write_rows(rows, "foqa.jsonl"), None, "b")
    plain = read_splits(folder(SHORT), None, "b")
    assert {n: [r["id"] for r in own] for n, own in ours.items()} == {
        n: [r["id"] for r in own] for n, own in plain.items()
    }


@pytest.mark.parametrize(
    ("splits", "values", "says"),
    [
        ({k: v for k, v in SHORT.items() if k != "test"}, {}, "has no split test"),
        ({k: v for k, v in SHORT.items() if k != "train"}, {}, "has no split train"),
        (SHORT | {"test": [{"id": "1", "text": "a"}]}, {}, "row 1 of test is not of the form id, context, question"),
        (SHORT | {"val": SHORT["val"] * 2}, {}, "has an id twice in val"),
        (SHORT, {"evaluated": "train"}, "evaluated is 'train'"),
        (SHORT, {"iteration": 3}, "did you mean 'iterations'"),
        (SHORT, {"iterations": 0}, "iterations=0 is outside"),
    ],
)
def test_what_is_refused(recipe, change, make, folder, splits, values, says):
    with pytest.raises(Refusal, match=says):
        make(evaluated(recipe, change, folder(splits), **values), "evaluate")
