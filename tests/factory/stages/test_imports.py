"""Existing pools and answers: what is taken as it is, what is rescored and flagged, what is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from data.config import ModelSettings, PromptSource
from data.refusal import Refusal
from factory.config import ImportSource

ROWS = [
    {"prompt": "the little boat", "completion": "sails to the big island", "score": 1.0},
    {"prompt": "the little boat", "completion": "sun", "score": 0.0},
    {"prompt": "hvat eitur høvuðsstaðurin ?", "completion": "Tórshavn", "score": None},
    {"prompt": "hvat eitur høvuðsstaðurin ?", "completion": "eg veit ikki", "score": 0.5},
]
ROOT = Path(__file__).resolve().parents[3]
# In a process of its own: tracemalloc counts what every thread of a process holds, those that other tests have left too.
HELD = """
import json, sys, tracemalloc
from factory.__main__ import COMMAND

_, conf, calls = sys.argv  # the command sets others

def held(words):
    tracemalloc.start()
    settings = ["stages=[prompts,import]", "factory.shard_groups=40", "--config-dir", conf]
    assert COMMAND.main(["recipe=tiny", *words, *settings]) == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak

print(json.dumps([held(words) for words in json.loads(calls)]))
"""


@pytest.fixture
def pool(recipe, change, write_rows):
    """A recipe that imports a pool of these rows; its prompts are those of the same file."""

    def of(rows, **source):
        path = write_rows(rows, "pool.jsonl")
        imports = {"old": ImportSource(kind="samples", path=path, **source)}
        return change(recipe, prompts=PromptSource(path=path), imports=imports, components={}, reward=None)

    return of


def newest(lake, table, label=None):
    return lake.slices(table, label=label)[-1]


def encoded(recipe, text):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(recipe.student.path)(text, add_special_tokens=False).input_ids


def test_a_pool_without_logprobs_is_rescored_by_the_policy_and_flagged(pool, make):
    import torch
    from transformers import AutoModelForCausalLM

    recipe = pool(ROWS)
    lake = make(recipe, "prompts,import")
    groups = lake.read(newest(lake, "groups")).to_pylist()
    samples = lake.read(newest(lake, "samples")).to_pylist()
    assert {g["logprobs_mode"] for g in groups} == {"rescored"} and {g["engine"] for g in groups} == {"imported"}
    assert [s["text"] for s in samples] == [r["completion"] for r in ROWS]
    assert {s["origin"] for s in samples} == {"imported"} and [s["sample_index"] for s in samples] == [0, 1, 0, 1]
    first, prompt = samples[0], groups[0]["prompt_token_ids"]
    assert first["token_ids"] == [*encoded(recipe, ROWS[0]["completion"]), 1] and first["stop_token"] == 1
    model = AutoModelForCausalLM.from_pretrained(recipe.student.path)
    with torch.no_grad():
        logprobs = model(torch.tensor([[*prompt, *first["token_ids"]]])).logits[0].log_softmax(-1)
    plain = [logprobs[len(prompt) - 1 + t, token].item() for t, token in enumerate(first["token_ids"])]
    assert first["behaviour_logprobs"] == pytest.approx(plain, abs=1e-3)


def test_given_logprobs_are_kept_and_an_end_token_that_has_none_is_not_added(pool, make):
    recipe = pool(ROWS)
    rows = [{**r, "logprobs": [-0.5] * (len(encoded(recipe, r["completion"])) + i % 2)} for i, r in enumerate(ROWS)]
    lake = make(pool(rows), "prompts,import")
    samples = lake.read(newest(lake, "samples")).to_pylist()
    assert [s["behaviour_logprobs"] for s in samples] == [r["logprobs"] for r in rows]
    assert [s["stop_token"] for s in samples] == [None, 1, None, 1]
    assert set(lake.read(newest(lake, "groups"), ["logprobs_mode"]).column(0).to_pylist()) == {"processed"}


def test_given_token_ids_are_the_truth_and_text_is_not_encoded_again(pool, make):
    rows = [{"prompt": "a", "completion": "ab", "token_ids": [70, 71, 72, 1], "logprobs": [-1.0, -2.0, -0.25, -0.125]}]
    lake = make(pool(rows), "prompts,import")
    sample = lake.read(newest(lake, "samples")).to_pylist()[0]
    assert sample["token_ids"] == [70, 71, 72, 1] and sample["n_tokens"] == 4


def test_reward_columns_become_components_and_null_is_not_zero(pool, make):
    lake = make(pool(ROWS, rewards=["score"]), "prompts,import")
    slice_ = newest(lake, "rewards", "score")
    rows = lake.read(slice_).to_pylist()
    assert [r["value"] for r in rows] == [1.0, 0.0, None, 0.5]
    assert [r["valid"] for r in rows] == [True, True, False, True]
    assert slice_.parents[0] == newest(lake, "samples").path and "import" in slice_.settings


def test_lists_of_completions_and_chat_completions_are_samples_too(pool, make):
    rows = [
        {"prompt": [{"role": "user", "content": "one"}], "completion": ["a", "b"], "score": [1, 2]},
        {"prompt": "two", "completion": [{"role": "assistant", "content": "c"}], "score": 3},
    ]
    lake = make(pool(rows, rewards=["score"]), "prompts,import")
    assert lake.read(newest(lake, "samples"), ["text"]).column(0).to_pylist() == ["a", "b", "c"]
    assert lake.read(newest(lake, "rewards", "score"), ["value"]).column(0).to_pylist() == [1.0, 2.0, 3.0]


def test_an_imported_pool_is_scored_rewarded_and_selected_like_any_other(pool, make, change):
    recipe = pool([{**r, "references": [r["completion"]]} for r in ROWS], rewards=["score"])
    recipe = change(recipe, components={"chrf": {"use": "similarity", "metric": "chrf"}}, reward="chrf + score")
    lake = make(recipe, "prompts,import,answers,samples,scores,rewards,selections")
    assert len(lake.slices("samples")) == 1 and len(lake.slices("scores")) == 2
    chosen = [r for r in lake.read(newest(lake, "selections")).to_pylist() if r["chosen"]]
    assert len(chosen) == 2 and all(r["token_ids"] for r in chosen)


def test_a_second_import_finds_everything(pool, make, capsys, hashes):
    recipe = pool(ROWS, rewards=["score"])
    before = hashes(make(recipe, "prompts,import"))
    capsys.readouterr()
    assert hashes(make(recipe, "prompts,import")) == before
    assert all(line.endswith("found, nothing to do") for line in capsys.readouterr().out.splitlines())


def test_imported_answers_are_candidates_in_the_sources_order(recipe, change, make, write_rows, capsys):
    rows = [
        {"messages": [{"role": "user", "content": "what is the capital ?"}], "answer": "Tórshavn"},
        {"messages": [{"role": "user", "content": "what is the capital ?"}], "answer": "tað er Tórshavn"},
        {"messages": [{"role": "user", "content": "the little boat"}], "answer": "held out"},
        {"messages": [{"role": "user", "content": "never asked"}], "answer": "foreign"},
    ]
    imports = {"told": ImportSource(kind="answers", path=write_rows(rows, "told.jsonl"))}
    lake = make(change(recipe, imports=imports, teacher=None), "prompts,import,answers")
    answers = lake.read(newest(lake, "answers")).to_pylist()
    assert [(a["text"], a["candidate"], a["method"]) for a in answers] == [
        ("Tórshavn", 0, "imported"),
        ("tað er Tórshavn", 1, "imported"),
    ]
    tokens = lake.read(newest(lake, "answer_tokens"), ["token_ids"]).column(0).to_pylist()
    assert tokens == [[*encoded(recipe, a["text"]), 1] for a in answers]
    out = capsys.readouterr().out
    assert "1 completions of held-out prompts are left out" in out and "1 completions of prompts that are not in" in out


def test_completions_beyond_what_a_prompt_can_have_are_counted(recipe, change, make, write_rows, capsys):
    rows = [
        {"messages": [{"role": "user", "content": "what is the capital ?"}], "answer": f"nr. {i}"} for i in range(259)
    ]
    imports = {"told": ImportSource(kind="answers", path=write_rows(rows, "many.jsonl"))}
    lake = make(change(recipe, imports=imports, teacher=None), "prompts,import")
    assert newest(lake, "answers").rows == 256
    assert "imports.told: 3 completions beyond the first 256 of their prompt are left out" in capsys.readouterr().out


def test_the_completion_does_not_become_part_of_the_prompt(pool, make):
    lake = make(pool(ROWS, rewards=["score"]), "prompts")
    assert lake.read(newest(lake, "prompts"), ["extra"]).column(0).to_pylist() == [None, None]


@pytest.mark.parametrize(
    ("change_row", "says"),
    [
        (lambda r, n: {**r, "logprobs": [0.0] * n}, "every log-probability is 0"),
        (lambda r, n: {**r, "logprobs": [-1.0] * (n + 5)}, "belong to another tokenizer or text"),
        (lambda r, n: {**r, "logprobs": [-1.0] * n if r["completion"] == "sun" else None}, "have no log-probabilities"),
        (lambda r, n: {**r, "logprobs": [math.nan] * n}, "null or NaN"),
        (lambda r, n: {**r, "logprobs": [0.5] * n}, "none can be above 0"),
        (lambda r, n: {**r, "token_ids": [10**6]}, "size of the student's vocabulary"),
        (lambda r, n: {**r, "completion": 7}, "the completion is no text"),
        (lambda r, n: {**r, "score": "high"}, "no number"),
        (lambda r, n: {**r, "score": math.nan}, "no number"),
    ],
)
def test_what_would_spoil_training_is_refused(pool, make, hashes, change_row, says):
    recipe = pool(ROWS)
    rows = [
        change_row(r, len(encoded(recipe, r["completion"])) + 1) if isinstance(r["completion"], str) else r
        for r in ROWS
    ]
    with pytest.raises(Refusal, match=says) as refusal:
        make(pool(rows, rewards=["score"]), "prompts,import")
    assert len(str(refusal.value).splitlines()) == 2
    lake = make(pool(ROWS), "prompts")
    assert not lake.slices("samples") and not list(lake.root.rglob("*.tmp"))


def test_prompts_of_another_file_are_refused(recipe, change, make, write_rows):
    imports = {"old": ImportSource(kind="samples", path=write_rows([{"prompt": "x", "completion": "y"}], "o.jsonl"))}
    with pytest.raises(Refusal, match="none of the prompts"):
        make(change(recipe, imports=imports), "prompts,import")


def test_a_policy_of_other_weights_has_its_own_imported_pool(pool, change, make, tiny_model):
    recipe = pool(ROWS)
    make(recipe, "prompts,import")
    lake = make(change(recipe, student=ModelSettings(path=tiny_model("llama", seed=9))), "import")
    ours, theirs = lake.slices("samples")
    assert lake.read(ours, ["token_ids"]) == lake.read(theirs, ["token_ids"])
    assert lake.read(ours, ["behaviour_logprobs"]) != lake.read(theirs, ["behaviour_logprobs"])


def test_a_completion_without_a_token_is_refused_by_its_row(recipe, change, make, write_rows):
    rows = [{"prompt": "a", "completion": "", "finish_reason": "length"}, {"prompt": "a", "completion": "til oynna"}]
    path = write_rows(rows, "empty.jsonl")
    source = {"p": ImportSource(kind="samples", path=path)}
    with pytest.raises(Refusal, match=r"row 1: the completion has no token"):
        make(change(recipe, prompts=PromptSource(path=path), imports=source), "prompts,import")


def test_other_completions_of_a_prompt_are_other_groups(recipe, change, make, write_rows):
    found = []
    for word in ("oynna", "boat"):
        path = write_rows([{"prompt": "a", "completion": word}, {"prompt": "a", "completion": "sails"}], "pool.jsonl")
        source = {"p": ImportSource(kind="samples", path=path)}
        lake = make(change(recipe, prompts=PromptSource(path=path), imports=source), "prompts,import")
        found.append(lake.read(lake.slices("groups")[-1], ["group_id"]).to_pylist())
    assert found[0] != found[1]


def test_a_sources_order_is_not_the_prompts_and_shards_get_their_own(recipe, change, make, write_rows):
    asked = [f"question {i}" for i in range(7)]
    prompts = write_rows([{"prompt": p} for p in asked], "prompts.jsonl")
    turns = [(p, turn) for turn in range(3) for p in reversed(asked)]
    rows = [{"prompt": p, "completion": f"{p} {turn}", "score": turn} for p, turn in turns]
    source = ImportSource(kind="samples", path=write_rows(rows, "pool.jsonl"), rewards=["score"], n=2)
    recipe = change(recipe, prompts=PromptSource(path=prompts), imports={"old": source}, reward="score", components={})
    lake = make(recipe, "prompts,import")
    assert len(newest(lake, "samples").shards) == 4  # two prompts a shard
    texts = lake.read(newest(lake, "samples"), ["text"]).column(0).to_pylist()
    assert texts == [f"{p} {turn}" for p in asked for turn in range(2)]
    assert lake.read(newest(lake, "rewards"), ["value"]).column(0).to_pylist() == [0.0, 1.0] * 7


def test_a_parquet_pool_is_the_same_pool(pool, make, change, hashes, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"prompt": f"question {i % 50}", "completion": f"answer {i}", "logprobs": [-0.5] * 8} for i in range(3000)]
    rows = [{**row, "token_ids": [70 + i % 9] * 8} for i, row in enumerate(rows)]
    before = hashes(make(pool(rows), "prompts,import"))
    path = str(tmp_path / "pool.parquet")
    pq.write_table(pa.Table.from_pylist(rows), path)
    recipe = pool(rows)
    recipe = change(recipe, prompts=PromptSource(path=path), imports={"old": ImportSource(kind="samples", path=path)})
    assert hashes(make(recipe, "prompts,import")) == before  # three batches of the table, found by content


@pytest.mark.slow
def test_an_import_holds_one_shard_whatever_the_number_of_prompts(conf, write_rows, tmp_path):
    def words(count: int) -> list[str]:
        values = {"token_ids": [[70] * 40] * 8, "logprobs": [[-0.5] * 40] * 8}
        rows = [
            {"prompt": f"question {i}", "completion": [f"{i} {j}" for j in range(8)], **values} for i in range(count)
        ]
        path = write_rows(rows, f"pool{count}.jsonl")
        source = f"{{old: {{kind: samples, path: {path}}}}}"
        return [f"lake={tmp_path}/lake{count}", f"prompts.path={path}", f"factory.imports={source}"]

    counts = (40, 80, 800)  # the first: what is loaded once
    called = [sys.executable, "-c", HELD, conf, json.dumps([words(count) for count in counts])]
    done = subprocess.run(called, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    _, two_shards, twenty = json.loads(done.stdout.splitlines()[-1])
    assert twenty < 1.5 * two_shards
