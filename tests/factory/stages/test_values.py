"""Answers and scores are the models' own: against transformers, a plain forward pass and the pool's behaviour."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from data.config import AnswerSampling, ModelSettings, Sampling

from .slices import PATH, newest


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


def test_end_tokens_are_those_of_the_forward_path(tiny_model):
    from factory.engines.tokens import Tokens
    from trainer import forward

    for family in ("llama", "gpt2", "gemma3"):
        model = ModelSettings(path=tiny_model(family))
        assert set(Tokens.open(model, Path(model.path)).end) == set(forward.end_token_ids(forward.load(model.path)))
