"""Corpora without what is evaluated, and evaluations against plain transformers."""

from __future__ import annotations

import math

import pytest

from data.config import ModelSettings, PromptSource
from data.keys import nfc
from data.refusal import Refusal
from factory.benchmarks.likelihood import windows
from factory.config import CorpusSource

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"


def newest(lake, table, label=None):
    return lake.slices(table, label=label)[-1]


def test_documents_are_counted_where_they_are_dropped(recipe, change, make, write_rows, prompt_rows):
    write_rows([*prompt_rows, {"messages": LONG, "references": ["no"], "split": "held_out"}])
    rows = [
        {"text": "sólin skínur í dag", "split": "train"},
        {"text": "so\u0301lin sk\u00ednur \u00ed dag", "split": "train"},  # the same in NFD
        {"text": f"he wrote: {LONG}.", "split": "train"},
        {"text": "   ", "split": "train"},
        {"text": "báturin siglir", "split": "held_out"},
    ]
    corpus = {"fo": CorpusSource(path=write_rows(rows, "c.jsonl"), language="fo", licence="CC0-1.0")}
    lake = make(change(recipe, corpus=corpus), "prompts,corpus")
    slice_ = newest(lake, "corpus", "fo")
    counted = {"duplicates": 1, "contaminated": 1, "empty": 1, "contaminated_by": {"held-out prompts": 1}}
    assert {name: slice_.notes[name] for name in counted} == counted
    documents = lake.read(slice_).to_pylist()
    assert [d["text"] for d in documents] == [nfc("sólin skínur í dag"), "báturin siglir"]
    assert all(d["token_ids"][-1] == 1 and d["bytes"] == len(d["text"].encode()) for d in documents)
    assert {d["language"] for d in documents} == {"fo"}


def test_a_share_of_documents_is_held_out_by_their_hash(recipe, change, make, write_rows):
    rows = [{"text": f"document number {i}"} for i in range(300)]
    corpus = {"c": CorpusSource(path=write_rows(rows, "c.jsonl"), held_out=0.2)}
    lake = make(change(recipe, corpus=corpus, shard_groups=100), "prompts,corpus")
    splits = lake.read(newest(lake, "corpus"), ["split"]).column(0).to_pylist()
    assert 35 <= splits.count("held_out") <= 85 and len(newest(lake, "corpus").shards) == 3


def evaluated(recipe, change, write_rows, **values):
    rows = [{"text": t, "split": "held_out"} for t in ("báturin siglir til oynna", "the sun shines", "æ")]
    return change(
        recipe,
        corpus={"fo": CorpusSource(path=write_rows(rows, "c.jsonl"))},
        benchmarks={
            "task": {"metrics": {"chrf": {"use": "similarity", "metric": "chrf"}, "length": {"use": "length"}}},
            "fit": {"kind": "likelihood"},
        },
        **values,
    )


def test_bits_and_bytes_are_those_of_a_plain_forward_pass(recipe, change, make, write_rows):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lake = make(evaluated(recipe, change, write_rows, policies=["teacher"]), "prompts,corpus,evaluate")
    model, tokenizer = (c.from_pretrained(recipe.teacher.path) for c in (AutoModelForCausalLM, AutoTokenizer))
    documents = {f"{d['document_id']:016x}": d["text"] for d in lake.read(newest(lake, "corpus")).to_pylist()}
    fit = next(s for s in lake.slices("evaluations") if s.settings["benchmark"] == "fit")
    for row in lake.read(fit).to_pylist():
        text, metrics = documents[row["item"]], dict(row["metrics"])
        encoded = tokenizer(text, return_offsets_mapping=True)
        ids, first = encoded.input_ids, encoded.offset_mapping[0]
        assert metrics["bytes"] == len(text.encode()) - len(text[first[0] : first[1]].encode())
        if len(ids) > 1:
            with torch.no_grad():
                loss = model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
            assert metrics["bits"] == pytest.approx(loss * (len(ids) - 1) / math.log(2), abs=1e-3)


def test_predictions_are_greedy_answers_to_held_out_prompts(recipe, change, make, write_rows):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lake = make(evaluated(recipe, change, write_rows), "prompts,corpus,evaluate")
    row = lake.read(lake.slices("evaluations")[0]).to_pylist()[0]
    model, tokenizer = (c.from_pretrained(recipe.student.path) for c in (AutoModelForCausalLM, AutoTokenizer))
    chat = [{"role": "user", "content": "the little boat"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        out = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=6, pad_token_id=0)
    assert row["prediction"] == tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).strip()
    assert row["gold"] == ["sails"] and set(dict(row["metrics"])) == {"chrf", "length"} and row["policy"] == "student"


def test_a_policy_already_evaluated_is_found(recipe, change, make, write_rows, capsys):
    first = evaluated(recipe, change, write_rows, policies=["student"])
    make(first, "prompts,corpus,evaluate")
    capsys.readouterr()
    lake = make(change(first, policies=["student", "teacher"]), "evaluate")
    lines = capsys.readouterr().out.splitlines()
    assert sum("found, nothing to do" in line for line in lines) == 2 and len(lake.slices("evaluations")) == 4


def test_a_metric_that_needs_teacher_answers_is_refused(recipe, change, make):
    metrics = {"agreement": {"use": "similarity", "to": "answers", "metric": "chrf"}}
    with pytest.raises(Refusal, match="no stage sees a held-out answer"):
        make(change(recipe, benchmarks={"task": {"metrics": metrics}}), "prompts,evaluate")


def test_a_missing_metric_value_is_left_out_not_zero(recipe, change, make, write_rows, prompt_rows):
    write_rows([{k: v for k, v in row.items() if k != "references"} for row in prompt_rows])
    metrics = {"chrf": {"use": "similarity", "metric": "chrf"}, "alphabet": {"use": "repetition"}}
    lake = make(change(recipe, benchmarks={"task": {"metrics": metrics}}), "prompts,evaluate")
    row = lake.read(newest(lake, "evaluations")).to_pylist()[0]
    assert set(dict(row["metrics"])) == {"alphabet"}


def test_windows_predict_every_token_but_the_first_once():
    for length in range(2, 12):
        for context in (2, 3, 5, 20, None):
            pieces = list(windows(list(range(length)), context))
            assert [t for piece in pieces for t in piece[1:]] == list(range(1, length))
            assert all(len(piece) <= (context or length) for piece in pieces)


def test_a_teacher_of_another_tokenizer_can_be_evaluated(recipe, change, make, write_rows, tiny_model):
    teacher = ModelSettings(path=tiny_model("mistral"))
    lake = make(
        change(evaluated(recipe, change, write_rows, policies=["teacher"]), teacher=teacher), "prompts,corpus,evaluate"
    )
    assert len(lake.slices("evaluations")) == 2


def test_a_limit_counts_over_all_shards_when_an_earlier_one_changes(recipe, make, change, write_rows, prompt_rows):
    held = [{**row, "split": "held_out"} for row in prompt_rows]
    exact = {"exact": {"use": "similarity", "metric": "exact"}}
    for rows in ([{**held[0], "split": "train"}, *held[1:]], held):
        one = change(recipe, benchmarks={"held": {"metrics": exact, "limit": 3}})
        one = change(one, prompts=PromptSource(path=write_rows(rows, "p.jsonl")))
        assert newest(make(one, "prompts,evaluate"), "evaluations").rows == 3


def test_an_answer_ends_where_the_pools_samples_end_and_is_found_under_its_own_stops(recipe, change, make, write_rows):
    from dataclasses import replace

    recipe = change(recipe, sampling=replace(recipe.sampling, max_tokens=40))
    lake = make(evaluated(recipe, change, write_rows), "prompts,corpus,evaluate")
    (whole,) = lake.read(lake.slices("evaluations", benchmark="task")[-1]).to_pylist()
    letters = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    stopped = change(recipe, sampling=replace(recipe.sampling, stop=letters))
    make(evaluated(stopped, change, write_rows), "evaluate")
    task = lake.slices("evaluations", benchmark="task")
    (cut,) = lake.read(task[-1]).to_pylist()
    assert len(task) == 2 and "stop" not in task[0].settings["spec"] and task[1].settings["spec"]["stop"] == letters
    assert len(cut["prediction"]) < len(whole["prediction"]) and whole["prediction"].startswith(cut["prediction"])
    make(evaluated(stopped, change, write_rows, policies=["teacher"]), "evaluate")  # ends where its own model says
    assert "stop" not in lake.slices("evaluations", benchmark="task")[-1].settings["spec"]
