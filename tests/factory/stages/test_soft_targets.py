"""Soft targets in the lake: what the rows hold, what a kill and a second call leave, and who is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from data.config import AnswerSampling, SoftTargets
from data.refusal import Refusal
from data.verify import verify
from factory.engines.tokens import Tokens

STAGES = "prompts,answers,soft_targets"


def newest(lake, table):
    return lake.slices(table)[-1]


def rows_of(lake, table):
    return lake.read(newest(lake, table)).to_pylist()


@pytest.fixture
def soft(recipe, change):
    """`soft(kind=…, …)`: the recipe with two answers a prompt and these soft targets."""

    def make(answers=2, **values):
        settings = {"draws": 20, "k": 5} | values
        sampling = AnswerSampling(n=answers, temperature=1.0, max_tokens=6)
        return change(recipe, answers=sampling, soft_targets=SoftTargets(**settings))

    return make


def teacher_logprobs(recipe, role, prompt_ids, token_ids):
    """log p (t, v) of one text alone, through the model's own logits."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(getattr(recipe, role).path)
    with torch.no_grad():
        logits_tv = model(torch.tensor([[*prompt_ids, *token_ids]])).logits[0]
    return logits_tv[len(prompt_ids) - 1 : -1].double().log_softmax(-1)


def by_token(row, column):
    return torch.split(torch.tensor(row[column]), row["sizes"])


def told(lake, recipe, row):
    """What the teacher read before an answer: its messages in its template, by hand."""
    from pathlib import Path

    tokens = Tokens.open(recipe.teacher, Path(recipe.teacher.path))
    prompt = next(p for p in rows_of(lake, "prompts") if p["prompt_id"] == row["prompt_id"])
    return tokens.prompt_ids(prompt["teacher_messages"] or prompt["messages"])


def test_counts_sum_to_the_draws_at_every_token_of_every_answer(soft, make):
    recipe = soft()
    lake = make(recipe, STAGES)
    rows, texts = rows_of(lake, "answer_soft_targets"), rows_of(lake, "answer_tokens")
    keys = ("prompt_id", "candidate")
    assert len(rows) == 10 and [[r[k] for k in keys] for r in rows] == [[t[k] for k in keys] for t in texts]
    for row, text in zip(rows, texts, strict=True):
        assert row["kind"] == "sampled" and len(row["sizes"]) == len(text["token_ids"])
        assert sum(row["sizes"]) == len(row["ids"]) == len(row["counts"]) == len(row["logprobs"])
        assert [int(c.sum()) for c in by_token(row, "counts")] == [20] * len(row["sizes"])
        logprob_tv = teacher_logprobs(recipe, "teacher", told(lake, recipe, text), text["token_ids"])
        wanted = logprob_tv[torch.arange(len(row["sizes"])).repeat_interleave(torch.tensor(row["sizes"])), row["ids"]]
        torch.testing.assert_close(
            torch.tensor(row["logprobs"]).double(), wanted, atol=5e-4, rtol=0
        )  # stored at 15 bits
    assert verify(lake).faults == []


def test_the_share_of_draws_converges_to_the_teachers_distribution(soft, make):
    recipe = soft(answers=1, draws=10_000)
    lake = make(recipe, STAGES)
    text = rows_of(lake, "answer_tokens")[0]
    row = rows_of(lake, "answer_soft_targets")[0]
    p_tv = teacher_logprobs(recipe, "teacher", told(lake, recipe, text), text["token_ids"]).exp()
    share_tv = torch.zeros_like(p_tv)
    for t, (ids, counts) in enumerate(zip(by_token(row, "ids"), by_token(row, "counts"), strict=True)):
        share_tv[t, ids] = counts.double() / 10_000
    assert ((share_tv - p_tv).abs() <= 5 * (p_tv * (1 - p_tv) / 10_000).sqrt() + 1e-9).all()
    assert (share_tv.mean(0) - p_tv.mean(0)).abs().sum() < 0.1


@pytest.mark.parametrize(("kind", "chooser"), [("top_k", "teacher"), ("student_m", "student")])
def test_the_k_ids_are_the_choosers_and_their_log_p_is_the_teachers(kind, chooser, soft, make):
    recipe = soft(kind=kind)
    lake = make(recipe, STAGES)
    for row, text in zip(rows_of(lake, "answer_soft_targets"), rows_of(lake, "answer_tokens"), strict=True):
        prompt = told(lake, recipe, text)
        read = text["prompt_token_ids"] if chooser == "student" else prompt
        chosen_tk = teacher_logprobs(recipe, chooser, read, text["token_ids"]).topk(5).indices
        assert row["kind"] == kind and row["counts"] is None and row["sizes"] == [5] * len(text["token_ids"])
        assert row["ids"] == chosen_tk.flatten().tolist()
        wanted = teacher_logprobs(recipe, "teacher", prompt, text["token_ids"]).gather(1, chosen_tk).flatten()
        torch.testing.assert_close(torch.tensor(row["logprobs"]).double(), wanted, atol=5e-4, rtol=0)


def test_a_pools_targets_lie_beside_its_samples(soft, make):
    recipe = soft(of="samples", kind="top_k", k=3)
    lake = make(recipe, "prompts,samples,soft_targets")
    rows, samples = rows_of(lake, "soft_targets"), rows_of(lake, "samples")
    keys = ("group_id", "sample_index")
    assert len(rows) == 15 and [[r[k] for k in keys] for r in rows] == [[s[k] for k in keys] for s in samples]
    assert [r["sizes"] for r in rows] == [[3] * s["n_tokens"] for s in samples]
    assert [s.rows for s in newest(lake, "soft_targets").shards] == [s.rows for s in newest(lake, "samples").shards]
    assert verify(lake).faults == []


def test_the_teacher_reads_its_own_messages(soft, change, make, write_rows, prompt_rows):
    shown = [{"role": "user", "content": "what is the sun doing ?"}]
    source = replace(soft().prompts, path=write_rows([row | {"teacher_messages": shown} for row in prompt_rows]))
    recipe = change(soft(kind="top_k"), prompts=source)
    lake = make(recipe, STAGES)
    text, row = rows_of(lake, "answer_tokens")[0], rows_of(lake, "answer_soft_targets")[0]
    prompt = told(lake, recipe, text)
    assert prompt != text["prompt_token_ids"]
    chosen_tk = teacher_logprobs(recipe, "teacher", prompt, text["token_ids"]).topk(5).indices
    assert row["ids"] == chosen_tk.flatten().tolist()


def test_a_killed_shard_is_made_again_and_the_others_are_kept(
    soft, make, monkeypatch, hashes, tmp_path, change, capsys
):
    from factory.stages import soft_targets

    recipe, done, targets = soft(), [], soft_targets._targets
    make(recipe, "prompts,answers")

    def dies(context, base, shard, work):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(shard.index)
        return targets(context, base, shard, work)

    monkeypatch.setattr(soft_targets, "_targets", dies)
    with pytest.raises(KeyboardInterrupt):
        make(recipe, "soft_targets")
    monkeypatch.setattr(soft_targets, "_targets", lambda *args: (done.append(args[2].index), targets(*args))[1])
    lake = make(recipe, "soft_targets")
    assert done == [0, 1, 2]
    capsys.readouterr()
    make(recipe, "soft_targets")
    assert capsys.readouterr().out.endswith("found, nothing to do\n")
    whole = make(change(recipe, lake=str(tmp_path / "whole")), STAGES)
    assert hashes(lake) == hashes(whole)


def test_a_smaller_batch_gives_the_same_targets(soft, change, make, tmp_path):
    recipe = soft()
    one = make(recipe, STAGES)
    engine = replace(recipe.factory.engine, batch_tokens=1)
    other = make(change(recipe, engine=engine, lake=str(tmp_path / "other")), STAGES)
    ours, theirs = (rows_of(lake, "answer_soft_targets") for lake in (one, other))
    for a, b in zip(ours, theirs, strict=True):
        assert (a["sizes"], a["ids"], a["counts"]) == (b["sizes"], b["ids"], b["counts"])
        assert a["logprobs"] == pytest.approx(b["logprobs"], abs=1e-3)


def test_each_kind_number_and_seed_is_a_slice_of_its_own(soft, change, make):
    lake = make(soft(), STAGES)
    for values in ({"kind": "top_k"}, {"kind": "student_m"}, {"draws": 21}, {"k": 6}):
        make(soft(**values), "soft_targets")
    assert len(lake.slices("answer_soft_targets")) == 4  # k says nothing about draws
    from data.pool import find_answers, find_prompts, find_soft_targets

    prompts = find_prompts(lake, soft())
    assert find_answers(lake, soft(), prompts) is not None
    base, teacher = newest(lake, "answer_tokens"), newest(lake, "answer_soft_targets").models["scorer"]
    policy = next(s.settings["policy"] for s in lake.slices("answer_soft_targets", kind="student_m"))
    for kind in ("sampled", "top_k", "student_m"):
        found = find_soft_targets(lake, soft(kind=kind), base, teacher, kind, policy, "losses.soft=0")
        assert found.settings["kind"] == kind and found.settings.get("draws", 20) == 20


def test_work_is_booked_as_the_teacher_read_it(soft, make):
    import pyarrow.parquet as pq

    recipe = soft()
    lake = make(recipe, STAGES)
    books = [r for f in (lake.root / "costs" / "journal").iterdir() for r in pq.read_table(f).to_pylist()]
    (row,) = [r for r in books if r["stage"] == "soft_targets"]
    texts = rows_of(lake, "answer_tokens")
    prompts = {t["prompt_id"]: len(told(lake, recipe, t)) for t in texts}
    assert row["items"] == 10 and row["tokens_out"] == sum(len(t["token_ids"]) for t in texts)
    assert row["tokens_in"] == sum(prompts.values())


def test_another_tokenizer_is_refused_before_any_stage_works(soft, change, make, tiny_model):
    from pathlib import Path

    other = replace(soft().teacher, path=tiny_model("mistral"))
    with pytest.raises(Refusal, match=r"soft_targets: student .* different tokenizers"):
        make(change(soft(), teacher=other), STAGES)
    assert not Path(soft().lake).exists()
    with pytest.raises(Refusal, match="has no teacher"):
        make(change(soft(), teacher=None), STAGES)


def test_missing_answers_name_the_command_that_makes_them(soft, make):
    with pytest.raises(Refusal, match="answers are not there yet") as error:
        make(soft(), "prompts,soft_targets")
    assert "stages=[answers,soft_targets]" in str(error.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "topk"}, "did you mean 'top_k'"),
        ({"of": "answer"}, "did you mean 'answers'"),
        ({"draws": 0}, "draws=0"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, words):
    with pytest.raises(Refusal, match=words):
        SoftTargets(**values)


def test_an_answer_without_tokens_has_a_row_without_targets(soft, make, monkeypatch):
    monkeypatch.setattr(Tokens, "answer_ids", lambda self, text, ended=True: [])
    lake = make(soft(), STAGES)
    assert {(tuple(r["sizes"]), tuple(r["counts"])) for r in rows_of(lake, "answer_soft_targets")} == {((), ())}
