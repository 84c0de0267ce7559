"""The probe against what the model is known to say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from data.lake import Lake
from data.refusal import Refusal
from trainer.forward import Generated, GroupTokens, group_logprobs, load
from trainer.probe import Prober, prober
from trainer.sources import resolve

EXACT = {"exact": {"use": "similarity", "metric": "exact", "to": "references"}}


def probe_of(made: Any, **changes: Any) -> tuple[Prober, Any]:
    settings = {"losses__rl": 0.0, "losses__bc": 0.0, "losses__pt": 1.0, "probe__every": 1, "probe__max_tokens": 4}
    recipe = made.with_(**{**settings, "probe__components": EXACT, **changes})
    policy = load(made.model)
    found = prober(Lake.open(recipe.lake), recipe, resolve(recipe), policy)
    assert found is not None
    return found, policy


def test_held_out_prompts_are_asked_in_the_chat_template(made: Any) -> None:
    found, policy = probe_of(made)
    asked = sorted(policy.tokenizer.decode(ids) for ids in found.prompts)
    assert asked == [f"<|user|>hvat eitur oyggj {i}?<end><|assistant|>" for i in (6, 7)]
    assert len(probe_of(made, probe__split="train")[0].prompts) == 6
    assert len(probe_of(made, probe__split="train", probe__prompts=4)[0].prompts) == 4


def test_figures_are_means_over_what_was_said(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, policy = probe_of(made, probe__split="train")
    right = policy.tokenizer("Nólsoy", add_special_tokens=False).input_ids
    said = [Generated([*right, 1], [0.0] * (len(right) + 1), "stop", 1), Generated([7, 8], [0.0, 0.0], "length", None)]
    monkeypatch.setattr(
        "trainer.probe.generate", lambda policy, prompts, n, *_: [[said[0]], *[[said[1]]] * (len(prompts) - 1)]
    )
    figures = found.measure(policy, 1)
    assert figures["probe/exact"] == pytest.approx(1 / 6)
    assert figures["probe/truncated"] == pytest.approx(5 / 6)
    assert figures["probe/n_tokens"] == pytest.approx((len(right) + 1 + 5 * 2) / 6)


def test_a_prompt_that_a_component_cannot_judge_is_in_no_mean(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, policy = probe_of(made, probe__split="train")
    said = Generated(policy.tokenizer("Nólsoy", add_special_tokens=False).input_ids, [0.0], "stop", None)
    monkeypatch.setattr("trainer.probe.generate", lambda policy, prompts, n, *_: [[said]] * len(prompts))
    for row in found.rows[:4]:
        row["references"] = None
    assert found.measure(policy, 1)["probe/exact"] == 1.0


def test_the_kl_to_the_start_is_zero_at_the_start_and_positive_after_a_change(made: Any) -> None:
    found, policy = probe_of(made, probe__kl=True, probe__split="train", probe__max_tokens=8)
    assert abs(found.measure(policy, 1)["probe/kl"]) < 1e-4
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.mul_(2.0)
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    drawn = found._answers(policy, 1, greedy=False)
    groups = [GroupTokens(prompt, [answer.token_ids]) for prompt, answer in zip(found.prompts, drawn, strict=True)]
    with torch.no_grad():
        now, then = (group_logprobs(p, groups).double() for p in (policy, load(made.model)))
    assert 0.01 < found.measure(policy, 1)["probe/kl"] == pytest.approx((now - then).mean().item(), rel=1e-4)
    assert all(torch.equal(before[name], value) for name, value in policy.model.state_dict().items())


def test_sampled_answers_have_figures_of_their_own_and_repeat(made: Any) -> None:
    found, policy = probe_of(made, probe__sampled=True)
    one, two = found.measure(policy, 3), found.measure(policy, 3)
    assert one == two and "probe_sampled/exact" in one and "probe/exact" in one


def test_an_empty_split_is_refused(made: Any, publish_rows: Any) -> None:
    from data.lake import Key

    prompts = made.lake.slices("prompts")[0]
    rows = [row for row in made.lake.read(prompts).to_pylist() if row["split"] == "train"]
    publish_rows(made.lake, "prompts", Key(prompts.settings, contents=("other",)), [rows], "tiny")
    with pytest.raises(Refusal, match="no prompts of split held_out"):
        probe_of(made)


def test_a_components_file_that_is_missing_is_refused_before_a_run_begins(made: Any) -> None:
    missing = {"language": {"use": "language", "method": "words", "file": "/nowhere/words.txt"}}
    with pytest.raises(Refusal, match=r"/nowhere/words\.txt"):
        probe_of(made, probe__components=missing)
    assert not Path(made.recipe.runs).exists()


def test_a_component_that_asks_a_model_is_sent_to_the_factorys_evaluation(made: Any) -> None:
    with pytest.raises(Refusal, match="no model is asked while training") as caught:
        probe_of(made, probe__components={"judged": {"use": "judge"}})
    what, then = caught.value.args
    assert "judged needs replies" in what
    assert "move judged to factory.benchmarks" in then and "'stages=[evaluate]' 'policies=[run:NAME]'" in then
    with pytest.raises(Refusal, match="needs answers") as caught:
        probe_of(made, probe__components={"near": {"use": "similarity", "to": "answers", "metric": "chrf"}})
    assert "probe.components.near.to=references" in caught.value.args[1]


def test_a_stop_text_ends_an_answer_as_it_ended_the_samples(made: Any) -> None:
    recipe = made.with_(losses__rl=0.0, losses__bc=0.0, losses__pt=1.0, probe__every=1)
    recipe = dataclasses.replace(recipe, sampling=dataclasses.replace(recipe.sampling, stop=["\n"]))
    policy = load(made.model)
    found = prober(Lake.open(recipe.lake), recipe, resolve(recipe), policy)
    (newline,) = policy.tokenizer("\n", add_special_tokens=False).input_ids
    assert found is not None and newline in found.stop_ids and None not in found.stop_ids
