"""The path from prompts to rewards: what is found again, what is made anew, and what stays byte for byte."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from data.config import AnswerSampling, ModelSettings, PromptSource, Sampling
from data.fingerprint import identity
from data.keys import nfc
from data.refusal import Refusal
from data.verify import verify
from factory.config import ImportSource

PATH = "prompts,answers,samples,scores,rewards,selections"


def newest(lake, table, label=None):
    return lake.slices(table, label=label)[-1]


def test_a_second_run_finds_everything(recipe, make, hashes, capsys):
    lake = make(recipe, PATH)
    before = hashes(lake)
    costs = sorted((lake.root / "costs" / "journal").iterdir())
    capsys.readouterr()
    make(recipe, PATH)
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(line.endswith("found, nothing to do") for line in lines)
    assert hashes(lake) == before
    assert sorted((lake.root / "costs" / "journal").iterdir()) == costs  # nothing worked, so nothing is booked


def test_every_call_that_worked_books_its_tokens(recipe, make):
    lake = make(recipe, "prompts,samples")
    row = next(
        r
        for f in (lake.root / "costs" / "journal").iterdir()
        for r in rows_of(f)
        if r["produced"].startswith("samples/")
    )
    samples, groups = newest(lake, "samples"), newest(lake, "groups")
    n_tokens = sum(lake.read(samples, ["n_tokens"]).column(0).to_pylist())
    prompt_tokens = sum(len(ids) for ids in lake.read(groups, ["prompt_token_ids"]).column(0).to_pylist())
    assert (row["items"], row["tokens_out"], row["tokens_in"]) == (15, n_tokens, prompt_tokens)
    assert row["seconds"] > 0 and row["money"] is None and row["device"] == "cpu"


def test_a_scored_token_is_booked_once(recipe, make):
    lake = make(recipe, "prompts,samples,scores")
    rows = [r for f in (lake.root / "costs" / "journal").iterdir() for r in rows_of(f) if r["stage"] != "prompts"]
    drawn, *scored = sorted((r for r in rows if r["tokens_out"]), key=lambda r: r["stage"])
    assert len(scored) == 2 and drawn["stage"] == "samples"
    for row in scored:
        assert (row["tokens_in"], row["tokens_out"]) == (drawn["tokens_in"], drawn["tokens_out"])


def rows_of(file):
    import pyarrow.parquet as pq

    return pq.read_table(file).to_pylist()


def test_held_out_prompts_are_neither_sampled_nor_answered(recipe, make):
    lake = make(recipe, "prompts,answers,samples")
    prompts = lake.read(newest(lake, "prompts")).to_pylist()
    held_out = {p["prompt_id"] for p in prompts if p["split"] == "held_out"}
    assert len(held_out) == 1
    for table in ("groups", "answers", "answer_tokens"):
        assert not held_out & set(lake.read(newest(lake, table), ["prompt_id"]).column(0).to_pylist())


def test_a_shard_without_train_prompts_is_empty_everywhere(recipe, change, make):
    from data.verify import verify

    lake = make(change(recipe, shard_groups=1), PATH)
    for table in ("groups", "samples", "scores", "rewards", "answers", "answer_tokens", "answer_rewards", "selections"):
        rows = [shard.rows for shard in newest(lake, table).shards]
        assert len(rows) == 6 and rows[5] == 0 and min(rows[:5]) > 0, table
    assert verify(lake).faults == []


def test_appended_prompts_keep_the_old_shards(recipe, make, write_rows, prompt_rows, hashes):
    lake = make(recipe, PATH)
    before = hashes(lake)
    more = [{"messages": "and one more ?", "references": ["ja"], "split": "train"}]
    write_rows([*prompt_rows, *more])
    make(recipe, PATH)
    after = hashes(lake)
    assert {k: after[k] for k in before} == before
    for table in ("prompts", "samples", "scores", "rewards"):
        slice_ = newest(lake, table)
        assert len(slice_.shards) == 4
        assert sum(slice_.name in shard.file for shard in slice_.shards) == 1, table  # one new shard, three old files


def test_a_larger_limit_keeps_the_shards_of_the_smaller(recipe, change, make, hashes):
    from dataclasses import replace

    lake = make(change(recipe, prompts=replace(recipe.prompts, limit=4)), "prompts,samples")
    before = hashes(lake)
    make(recipe, "prompts,samples")
    assert {k: v for k, v in hashes(lake).items() if k in before} == before
    small, large = lake.slices("samples")
    assert large.files[:2] == small.files and len(large.files) == 3


def test_topping_up_copies_rows_and_draws_only_what_is_missing(recipe, change, make):
    fewer, more = (change(recipe, sampling=Sampling(n=n, max_tokens=6)) for n in (2, 4))
    lake = make(fewer, "prompts,samples")
    old = lake.read(newest(lake, "samples")).to_pylist()
    make(more, "samples")
    new = lake.read(newest(lake, "samples")).to_pylist()
    assert len(old) == 10 and len(new) == 20
    assert [row for row in new if row["sample_index"] < 2] == old
    drawn = [r for f in (lake.root / "costs" / "journal").iterdir() for r in rows_of(f) if r["stage"] == "samples"]
    assert sorted(r["items"] for r in drawn if r["produced"].startswith("samples/")) == [10, 10]


def test_topped_up_samples_are_those_of_a_pool_drawn_at_once(recipe, change, make, tmp_path):
    more = change(recipe, sampling=Sampling(n=4, max_tokens=6))
    make(change(recipe, sampling=Sampling(n=2, max_tokens=6)), "prompts,samples")
    topped = make(more, "samples")
    whole = make(change(more, lake=str(tmp_path / "other")), "prompts,samples")
    ours, theirs = (lake.read(newest(lake, "samples")).to_pylist() for lake in (topped, whole))
    assert [r["token_ids"] for r in ours] == [r["token_ids"] for r in theirs]


def test_a_smaller_pool_is_the_first_rows_of_a_larger_one_and_draws_nothing(recipe, change, make):
    lake = make(change(recipe, sampling=Sampling(n=4, max_tokens=6)), "prompts,samples")
    large = lake.read(newest(lake, "samples")).to_pylist()
    make(change(recipe, sampling=Sampling(n=2, max_tokens=6)), "samples")
    assert lake.read(newest(lake, "samples")).to_pylist() == [row for row in large if row["sample_index"] < 2]
    drawn = [
        r["items"]
        for f in (lake.root / "costs" / "journal").iterdir()
        for r in rows_of(f)
        if "samples/" in r["produced"]
    ]
    assert sorted(drawn) == [0, 20]


def test_answers_of_another_teacher_than_the_scores_are_said_and_refused_if_strict(
    recipe, change, make, write_rows, capsys
):
    rows = [{"messages": "what is the capital ?", "answer": "Tórshavn"}]
    imports = {"told": ImportSource(kind="answers", path=write_rows(rows, "told.jsonl"))}
    make(change(recipe, imports=imports), "prompts,import,samples,scores")
    assert "warning: answers/" in capsys.readouterr().out
    with pytest.raises(Refusal, match="two teachers leave a lasting bias"):
        make(change(recipe, imports=imports, strict=True), "scores")


def test_a_template_that_refuses_a_role_is_named(recipe, change, make):
    from dataclasses import replace

    grim = replace(recipe.student, chat_template="{{ raise_exception('no such role') }}")
    with pytest.raises(Refusal, match=r"refuses the roles \['user'\]"):
        make(change(recipe, student=grim), "prompts,samples")


def test_one_resident_model_makes_room_for_the_next(recipe, change, make, monkeypatch):
    from dataclasses import replace

    from factory.engines.hf import HfEngine

    open_now, most = set(), []
    load, close = HfEngine.__init__, HfEngine.close

    def counted(self, *args, **kwargs):
        load(self, *args, **kwargs)
        open_now.add(id(self))
        most.append(len(open_now))

    def freed(self):
        close(self)
        open_now.discard(id(self))

    monkeypatch.setattr(HfEngine, "__init__", counted)
    monkeypatch.setattr(HfEngine, "close", freed)
    make(change(recipe, engine=replace(recipe.factory.engine, resident=1)), "prompts,answers,samples,scores")
    assert max(most) == 1 and not open_now and len(most) == 4  # teacher, policy, teacher, policy


def test_hub_data_sets_come_through_the_datasets_library(recipe, change, make, monkeypatch, prompt_rows):
    import datasets

    asked = []

    def load(path, config, split):
        asked.append((path, config, split))
        return datasets.Dataset.from_list(prompt_rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    lake = make(
        change(recipe, prompts=PromptSource(path="someone/questions", config="fo", split="train[:6]")), "prompts"
    )
    assert asked == [("someone/questions", "fo", "train[:6]")] and newest(lake, "prompts").rows == 6

    def missing(path, config, split):
        raise datasets.exceptions.DatasetNotFoundError("no such data set")

    monkeypatch.setattr(datasets, "load_dataset", missing)
    with pytest.raises(Refusal, match="no data set someone/other"):
        make(change(recipe, prompts=PromptSource(path="someone/other")), "prompts")


def test_a_component_added_later_makes_its_slice_and_changes_no_other_file(recipe, change, make, hashes):
    lake = make(recipe, PATH)
    before = hashes(lake)
    added = change(recipe, components={**recipe.components, "alphabet": {"use": "alphabet"}})
    make(added, "rewards")
    after = hashes(lake)
    assert {k: after[k] for k in before} == before
    new = [k for k in after if k not in before]
    assert all(k.startswith(("rewards/alphabet-", "answer_rewards/alphabet-")) for k in new) and new


def test_a_component_of_other_settings_is_another_slice(recipe, change, make):
    make(recipe, PATH)
    other = change(recipe, components={"chrf": {"use": "similarity", "metric": "bleu"}}, reward="chrf")
    lake = make(other, "rewards")
    assert len(lake.slices("rewards", label="chrf")) == 2


def test_another_recipe_over_the_same_pool_names_the_same_files(recipe, change, make, hashes):
    lake = make(recipe, PATH)
    before, costs = hashes(lake), len(list((lake.root / "costs" / "journal").iterdir()))
    make(change(recipe, name="twin"), PATH)
    assert hashes(lake) == before
    assert len(list((lake.root / "costs" / "journal").iterdir())) == costs  # naming a file again costs nothing
    twin = newest(lake, "samples", "twin")
    assert twin.files == newest(lake, "samples", "tiny").files
    rewards = [s for s in lake.slices("rewards", label="chrf") if s.parents[0] == twin.path]
    assert len(rewards) == 1


def test_teacher_messages_change_scores_not_samples(recipe, make, write_rows, prompt_rows):
    lake = make(recipe, "prompts,samples,scores")
    samples, scores = newest(lake, "samples"), newest(lake, "scores", "tiny-teacher")
    shown = [{**row, "teacher_messages": "say it in other words"} for row in prompt_rows]
    write_rows(shown)
    make(recipe, "prompts,samples,scores")
    again, rescored = newest(lake, "samples"), newest(lake, "scores", "tiny-teacher")
    assert lake.read(again, ["token_ids", "behaviour_logprobs"]) == lake.read(
        samples, ["token_ids", "behaviour_logprobs"]
    )
    assert lake.read(rescored, ["logprobs"]) != lake.read(scores, ["logprobs"])


def test_the_policy_as_its_own_teacher_shown_other_messages_is_another_scorer(
    recipe, change, make, write_rows, prompt_rows
):
    write_rows([{**row, "teacher_messages": "say it in other words"} for row in prompt_rows])
    lake = make(change(recipe, teacher=recipe.student), "prompts,samples,scores")
    teacher, policy = newest(lake, "scores", "tiny-teacher"), newest(lake, "scores", "tiny-policy")
    assert lake.read(teacher, ["logprobs"]) != lake.read(policy, ["logprobs"])


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_policy_rescored_is_the_behaviour_it_was_drawn_from(recipe, change, make, temperature):
    lake = make(change(recipe, sampling=Sampling(n=3, max_tokens=6, temperature=temperature)), "prompts,samples,scores")
    behaviour = lake.read(newest(lake, "samples"), ["behaviour_logprobs"]).column(0).to_pylist()
    rescored = lake.read(newest(lake, "scores", "tiny-policy"), ["logprobs"]).column(0).to_pylist()
    assert max(abs(a - b) for x, y in zip(behaviour, rescored, strict=True) for a, b in zip(x, y, strict=True)) < 1e-3


def test_teacher_scores_are_those_of_a_plain_forward_pass(recipe, make):
    import torch
    from transformers import AutoModelForCausalLM

    lake = make(recipe, "prompts,samples,scores")
    teacher = AutoModelForCausalLM.from_pretrained(recipe.teacher.path)
    groups = {g["group_id"]: g["prompt_token_ids"] for g in lake.read(newest(lake, "groups")).to_pylist()}
    samples = lake.read(newest(lake, "samples"), ["group_id", "token_ids"]).to_pylist()
    scores = lake.read(newest(lake, "scores", "tiny-teacher"), ["logprobs", "total"]).to_pylist()
    for sample, score in zip(samples, scores, strict=True):
        prompt = groups[sample["group_id"]]
        ids = torch.tensor([[*prompt, *sample["token_ids"]]])
        with torch.no_grad():
            logprobs = teacher(ids).logits[0].log_softmax(-1)
        plain = [logprobs[len(prompt) - 1 + t, token].item() for t, token in enumerate(sample["token_ids"])]
        assert score["logprobs"] == pytest.approx(plain, abs=1e-3)
        assert score["total"] == pytest.approx(sum(plain), abs=1e-3)


def test_greedy_answers_are_what_transformers_generates(recipe, make):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lake = make(recipe, "prompts,answers")
    teacher = AutoModelForCausalLM.from_pretrained(recipe.teacher.path)
    tokenizer = AutoTokenizer.from_pretrained(recipe.teacher.path)
    prompts = {p["prompt_id"]: p["messages"] for p in lake.read(newest(lake, "prompts")).to_pylist()}
    for answer in lake.read(newest(lake, "answers")).to_pylist():
        ids = tokenizer.apply_chat_template(prompts[answer["prompt_id"]], add_generation_prompt=True, return_dict=False)
        with torch.no_grad():
            out = teacher.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=6, pad_token_id=0)
        assert answer["token_ids"] == out[0, len(ids) :].tolist()


def test_the_teacher_is_asked_its_own_messages(recipe, make, write_rows, prompt_rows):
    lake = make(recipe, "prompts,answers")
    plain = lake.read(newest(lake, "answers"), ["token_ids"])
    write_rows([{**row, "teacher_messages": "say it in other words"} for row in prompt_rows])
    make(recipe, "prompts,answers")
    shown = lake.read(newest(lake, "answers"), ["token_ids"]).column(0).to_pylist()
    assert len({tuple(ids) for ids in shown}) == 1 and shown != plain.column(0).to_pylist()


def test_answer_tokens_end_with_the_end_token_unless_the_answer_was_cut(recipe, make):
    lake = make(recipe, "prompts,answers")
    answers = lake.read(newest(lake, "answers")).to_pylist()
    tokens = lake.read(newest(lake, "answer_tokens")).to_pylist()
    assert {a["finish_reason"] for a in answers} <= {"stop", "length"}
    for answer, row in zip(answers, tokens, strict=True):
        assert (row["token_ids"][-1:] == [1]) == (answer["finish_reason"] == "stop")


def test_another_student_orphans_no_answer(recipe, change, make, tiny_model, hashes):
    lake = make(recipe, "prompts,answers")
    before = hashes(lake)
    make(change(recipe, student=ModelSettings(path=tiny_model("mistral"))), "answers")
    after = hashes(lake)
    assert {k: after[k] for k in before} == before
    assert len(lake.slices("answers")) == 1 and len(lake.slices("answer_tokens")) == 2


def test_the_pool_of_a_trained_run_is_the_next_round(recipe, change, make, tiny_model, tmp_path):
    import pyarrow as pa

    from data.contract import RUNS

    lake = make(recipe, "prompts,samples")
    shutil.copytree(tiny_model("llama", seed=3), tmp_path / "runs" / "one" / "final")
    pools = json.dumps([newest(lake, "samples").path])
    row = {"run": "one", "status": "finished", "configuration": "{}", "configuration_hash": "0", "slices": pools}
    from datetime import UTC, datetime

    row["created_at"] = datetime.now(UTC)
    lake.append("runs", pa.Table.from_pylist([row], schema=RUNS.schema), "one")
    make(change(recipe, policy="run:one"), "samples,scores")
    second = newest(lake, "samples", "tiny-one")
    assert set(lake.read(second, ["round"]).column(0).to_pylist()) == {1}
    assert second.models["policy"] != newest(lake, "samples", "tiny").models["policy"]


def test_models_are_known_by_their_settings(recipe, make):
    from data.pool import find_model

    lake = make(recipe, "prompts,answers,samples")
    assert find_model(lake, recipe.teacher) == identity(recipe.teacher, recipe.runs)["model_id"]
    assert find_model(lake, recipe.student) == identity(recipe.student, recipe.runs)["model_id"]


def test_rewards_need_no_teacher_folder(recipe, change, make, tiny_model, tmp_path):
    gone = tiny_model("llama", tmp_path / "gone", seed=7)
    recipe = change(recipe, teacher=ModelSettings(path=gone))
    make(recipe, "prompts,answers,samples,scores")
    shutil.rmtree(gone)
    lake = make(recipe, "rewards")
    assert lake.slices("rewards", label="loglik")


def test_teacher_loglik_of_an_answer_is_the_sum_of_its_own_logprobs(recipe, change, make):
    total = change(recipe, components={"loglik": {"use": "teacher_loglik"}}, reward="loglik")
    lake = make(total, PATH)
    answers = lake.read(newest(lake, "answers")).to_pylist()
    values = lake.read(newest(lake, "answer_rewards", "loglik"), ["value"]).column(0).to_pylist()
    assert values == pytest.approx([math.fsum(a["logprobs"]) for a in answers])
    scores = lake.read(newest(lake, "scores", "tiny-teacher"), ["total"]).column(0).to_pylist()
    assert lake.read(newest(lake, "rewards", "loglik"), ["value"]).column(0).to_pylist() == pytest.approx(scores)


def test_answers_drawn_at_a_temperature_have_no_likelihood_of_their_own(recipe, change, make):
    warm = change(recipe, answers=AnswerSampling(n=2, temperature=0.7, max_tokens=6))
    lake = make(warm, PATH)
    values = lake.read(newest(lake, "answer_rewards", "loglik"), ["value", "valid"]).to_pylist()
    assert len(values) == 10 and all(v == {"value": None, "valid": False} for v in values)


def test_prompts_are_mapped_deduplicated_and_split(recipe, change, make, write_rows, capsys):
    rows = [
        {"q": "hvat eitur á?", "gold": "Á", "topic": 3, "level": 7},
        {"q": "hvat eitur a\u0301?", "gold": "other"},
        {"q": "hvat eitur ø?", "gold": ["Ø", "ø"]},
        *({"q": f"number {i}", "gold": None} for i in range(200)),
    ]
    path = write_rows(rows, "mapped.jsonl")
    source = PromptSource(
        path=path, columns={"messages": "q", "references": "gold"}, held_out="0.25", system="svara stutt"
    )
    lake = make(change(recipe, prompts=source, shard_groups=50), "prompts")
    prompts = lake.read(newest(lake, "prompts")).to_pylist()
    assert len(prompts) == 202 and newest(lake, "prompts").notes["duplicates"] == 1
    assert "1 rows ask what an earlier row asks" in capsys.readouterr().out
    first = prompts[0]
    assert first["messages"][0] == {"role": "system", "content": "svara stutt"}
    assert first["messages"][1] == {"role": "user", "content": nfc("hvat eitur á?")}
    assert first["references"] == ["Á"] and first["topic"] == "3" and json.loads(first["extra"]) == {"level": 7}
    assert prompts[1]["references"] == ["Ø", "ø"] and prompts[2]["references"] is None
    assert 30 <= sum(p["split"] == "held_out" for p in prompts) <= 70  # a quarter of 202, by hash


def test_prompts_that_come_back_are_the_newest_again(recipe, make, write_rows, prompt_rows):
    from data.pool import find_prompts

    lake = make(recipe, "prompts")
    first = find_prompts(lake, recipe)
    write_rows(prompt_rows[:3])
    make(recipe, "prompts")
    assert find_prompts(lake, recipe).name != first.name
    write_rows(prompt_rows)
    make(recipe, "prompts")
    assert find_prompts(lake, recipe).name == first.name


def test_parquet_and_csv_are_read_like_jsonl(recipe, change, make, prompt_rows, tmp_path):
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    flat = pa.table({"prompt": [r["messages"][0]["content"] for r in prompt_rows], "split": ["train"] * 6})
    pq.write_table(flat, tmp_path / "p.parquet")
    pyarrow.csv.write_csv(flat, tmp_path / "p.csv")
    lakes = [
        make(
            change(recipe, prompts=PromptSource(path=str(tmp_path / name)), lake=str(tmp_path / f"lake-{name}")),
            "prompts",
        )
        for name in ("p.parquet", "p.csv")
    ]
    ours, theirs = (lake.read(newest(lake, "prompts"), ["prompt_id", "messages"]) for lake in lakes)
    assert ours == theirs and ours.num_rows == 6


def test_an_engine_is_refused_before_it_is_opened(recipe, change, make):
    from dataclasses import replace

    wrong = change(recipe, engine=replace(recipe.factory.engine, name="hff"))
    with pytest.raises(Refusal, match="did you mean 'hf'"):
        make(wrong, "prompts,samples")


def test_end_tokens_are_those_of_the_forward_path(tiny_model):
    from factory.engines.tokens import Tokens
    from trainer import forward

    for family in ("llama", "gpt2", "gemma3"):
        model = ModelSettings(path=tiny_model(family))
        assert set(Tokens.open(model, Path(model.path)).end) == set(forward.end_token_ids(forward.load(model.path)))


def test_a_shard_that_is_gone_is_made_again_byte_by_byte(recipe, make, change, hashes, capsys):
    lake = make(recipe, "prompts,samples")
    make(change(recipe, pool="twin"), "samples")  # its slices name the files of the first
    before, samples = hashes(lake), newest(lake, "samples")
    samples.files[0].unlink()
    assert verify(lake).faults
    for label in (None, "twin"):
        make(change(recipe, pool=label), "samples")
    assert not verify(lake).faults
    assert set(hashes(lake).values()) == set(before.values())


@pytest.mark.parametrize("reward", ["zscore_all(chrf)", "ZSCORE_ALL (chrf)"])
def test_a_selection_over_the_whole_pool_is_named_by_all_of_it(recipe, make, change, reward):
    lake = make(change(recipe, reward=reward), "prompts,answers,samples,scores,rewards,selections")
    assert "pool" in newest(lake, "selections").settings


@pytest.mark.parametrize("reward", ["chrf - 0.1*length", "zscore_group(chrf) + length"])
def test_a_selection_made_shard_by_shard_is_the_whole_pools(recipe, change, make, reward):
    from data.selection import best_of_n
    from factory.context import Context
    from factory.stages.selections import candidates

    recipe = change(recipe, reward=reward)
    lake = make(recipe, PATH)
    made = newest(lake, "selections")
    context = Context(recipe, lake)
    whole = best_of_n(lake, candidates(context), reward, None)
    assert len(made.shards) == 3 and lake.read(made).equals(whole.select(lake.read(made).column_names))
