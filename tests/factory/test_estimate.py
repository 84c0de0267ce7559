"""The estimate: numbers that can be checked by hand, and a lake that is not touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from data.config import ModelSettings, Rephrase, SoftTargets, Translate
from data.refusal import Refusal
from factory.config import CorpusSource
from factory.endpoints import Endpoint, Price
from factory.estimate import _billed, _factory, _trainer, parameters, text


def test_the_estimate_prints_and_writes_nothing(recipe, change, make, capsys):
    make(change(recipe, estimate=True))
    out = capsys.readouterr().out
    assert "recipe tiny: 5 train prompts" in out and "scores (teacher)" in out and "training" in out
    assert not Path(recipe.lake).exists()


def test_an_estimate_fetches_no_file_of_a_component(recipe, change, make, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    spec = {"use": "language", "method": "fasttext", "file": "nobody/nothing:model.bin", "language": "fao_Latn"}
    asking = change(recipe, components={"language": spec}, reward="language")
    make(change(asking, estimate=True))
    assert "training" in capsys.readouterr().out
    with pytest.raises(Refusal, match=r"no file model\.bin of nobody/nothing"):
        make(asking)


def test_a_hub_model_of_known_size_is_estimated_without_the_hub(recipe, change, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)  # a call would fail
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    told = text(change(recipe, student=ModelSettings(path="bigscience/bloomz-7b1")))
    assert "at 2 characters a token" in told and "7,069,016,064" in told
    assert "characters a token" not in text(recipe)


def test_parameters_are_counted_without_weights(recipe):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(recipe.student.path)
    assert parameters(recipe.student, recipe.runs) == sum(p.numel() for p in model.parameters())


def test_work_is_what_the_recipe_says(recipe, change):
    trainer = {"steps": 7, "replay": {"prompts": 4, "answers": 2, "corpus_tokens": 50}}
    recipe = change(recipe, trainer=trainer)
    lines = {line.name: line for line in (*_factory(recipe, 5, 10.0), *_trainer(recipe, 5, 10.0))}
    assert (lines["samples"].tokens_in, lines["samples"].tokens_out) == (50, 5 * 3 * 6)
    assert (lines["answers"].tokens_in, lines["answers"].tokens_out) == (50, 5 * 6)
    assert lines["scores (teacher)"].operations == 2 * parameters(recipe.teacher, recipe.runs) * (50 + 90)
    step = 4 * (10 + 18) + 2 * (10 + 6) + 50
    assert lines["training, 7 steps"].tokens_in == 7 * step
    assert lines["training, 7 steps"].operations == 6 * parameters(recipe.student, recipe.runs) * 7 * step


def test_stages_that_are_not_asked_for_cost_nothing(recipe, change):
    assert "scores" not in text(change(recipe, stages=["prompts", "samples"]))


def lines_of(recipe):
    return {line.name: line for line in (*_factory(recipe, 5, 10.0), *_trainer(recipe, 5, 10.0))}


def test_soft_targets_are_read_once_by_the_teacher_and_kept_by_their_ids(recipe, change):
    stages = ["soft_targets"]
    sampled = lines_of(change(recipe, stages=stages))["soft targets"]
    assert (sampled.tokens_in, sampled.tokens_out, sampled.disk) == (50, 5 * 6, 30 * 25 * 7.0)
    soft = SoftTargets(of="samples", kind="student_m", k=3)
    lines = lines_of(change(recipe, stages=stages, soft_targets=soft))
    assert (lines["soft targets"].tokens_out, lines["soft targets"].disk) == (5 * 3 * 6, 90 * 3 * 7.0)
    assert lines["soft targets (policy)"].operations == 2 * parameters(recipe.student, recipe.runs) * (50 + 90)


def test_a_mixture_is_drawn_by_two_models(recipe, change):
    lines = lines_of(change(recipe, sampling=replace(recipe.sampling, alpha=0.2)))
    assert lines["samples (teacher)"].operations == 2 * parameters(recipe.teacher, recipe.runs) * (50 + 90)
    assert "samples (teacher)" not in lines_of(recipe)


def test_what_the_recipe_leaves_open_is_what_the_trainer_takes():
    from factory.estimate import PROBE, REPLAY
    from trainer.config import Probe, Replay

    assert {name: getattr(Replay(), name) for name in REPLAY} == REPLAY and Probe().prompts == PROBE


def test_a_term_without_a_weight_reads_nothing_unless_a_phase_gives_it_one(recipe, change):
    def per_step(**trainer):
        replay = {"prompts": 4, "answers": 2, "corpus_tokens": 50}
        return lines_of(change(recipe, trainer={"steps": 1, "replay": replay} | trainer))["training, 1 steps"].tokens_in

    rl, answers = 4 * (10 + 18), 2 * (10 + 6)
    assert per_step() == rl + answers + 50
    assert per_step(losses={"bc": 0, "pt": 0.1}) == rl + 50
    assert per_step(losses={"rl": 0, "pt": 0, "soft": {"from": 0, "to": 1, "steps": 5}}) == 2 * answers
    assert per_step(losses={"bc": 0, "pt": 0, "phases": [{"steps": 3, "bc": 1}]}) == rl + answers


def test_texts_that_the_recipe_does_not_make_are_not_trained_on(recipe, change):
    silent = change(recipe, teacher=None, trainer={"steps": 1})
    assert lines_of(silent)["training, 1 steps"].tokens_in == 16 * (10 + 18)
    corpus = change(silent, corpus={"c": CorpusSource(path="c.jsonl")})
    assert lines_of(corpus)["training, 1 steps"].tokens_in == 16 * (10 + 18) + 512


def test_probes_answer_and_their_kl_reads_those_answers_again(recipe, change):
    def probes(**probe):
        return lines_of(change(recipe, trainer={"steps": 100, "probe": probe})).get("probes")

    assert probes() is None
    assert (probes(every=30, prompts=8).tokens_in, probes(every=30, prompts=8).tokens_out) == (3 * 8 * 10, 3 * 8 * 6)
    assert [probes(every=30, **more).passes for more in ({}, {"sampled": True}, {"kl": True})] == [1, 2, 3]


def test_a_probe_asks_no_more_prompts_than_there_are(recipe, change):
    def asked(held_out, **probe):
        probed = change(recipe, trainer={"steps": 100, "probe": {"every": 50, **probe}})
        return {line.name: line for line in _trainer(probed, 5, 10.0, held_out)}["probes"].tokens_out

    assert (asked(4), asked(4, prompts=3), asked(4, split="train")) == (4 * 6 * 2, 3 * 6 * 2, 5 * 6 * 2)


def test_one_model_in_two_roles_scores_once_as_the_run_does(recipe, change, make):
    alike = change(recipe, teacher=recipe.student)
    scored = lambda r, **more: [line.name for line in _factory(r, 5, 10.0, **more) if "scores" in line.name]  # noqa: E731
    assert scored(alike) == ["scores (teacher)"] and len(make(alike, "prompts,samples,scores").slices("scores")) == 1
    assert scored(recipe) == ["scores (teacher)", "scores (policy)"]
    assert scored(alike, apart=True) == ["scores (teacher)", "scores (policy)"]
    assert len(scored(change(alike, sampling=replace(recipe.sampling, temperature=0.7)))) == 2


def test_what_trains_nothing_lists_no_training(recipe, change):
    probing = change(recipe, trainer={"probe": {"every": 1}})
    assert "probes" in text(probing) and "training" in text(change(probing, stages=["prompts", "rewards"]))
    for stages in (["prompts"], ["evaluate"], ["prompts", "teacher_check"]):
        assert "training" not in text(change(probing, stages=stages)) and "probes" not in text(
            change(probing, stages=stages)
        )


def test_an_endpoints_answers_cost_money_and_no_operations(recipe, change):
    endpoint = Endpoint(base_url="http://host/v1", prices={"gpt-4": Price(30, 60)})
    taught = change(recipe, teacher=ModelSettings(path="gpt-4", endpoint="e"), endpoints={"e": endpoint}, components={})
    line = lines_of(taught)["answers (endpoint)"]
    assert (line.tokens_in, line.tokens_out, line.operations) == (50, 30, 0)
    assert "$0.00" in line.bill and "$3,300.00" in _billed(taught, taught.teacher, 5e7, 3e7, 0).bill
    assert (
        "no price is set"
        in _billed(change(taught, endpoints={"e": Endpoint(base_url="http://host/v1")}), taught.teacher, 1, 1, 0).bill
    )
    assert "gpt-4 bills at most" in text(change(taught, reward=None))
    assert "No API is billed" in text(recipe)


def test_whoever_is_asked_stands_in_the_estimate(recipe, change):
    short = {"wording": "{text}", "max_tokens": 50}
    judge = {"use": "judge", "mode": "pairwise", "to": "answers", "wording": "{answer} {other}", "max_tokens": 20}
    asking = change(
        recipe,
        models={
            "translator": ModelSettings(path=recipe.teacher.path),
            "second": ModelSettings(path="gpt", endpoint="e"),
        },
        co_teachers=["second"],
        translate=Translate(**short, via="da"),
        rephrase=Rephrase(wording="{answer}"),
        components={"judged": judge, "told": {"use": "bilingual", **short}},
        stages=["prompts", "teacher_check", "answers", "translate", "rephrase", "samples", "rewards"],
        endpoints={"e": Endpoint(base_url="http://x/v1", prices={"gpt": Price(1e6, 2e6)})},
    )
    lines = {line.name: line for line in _factory(asking, 5, 10.0)}
    answers, read = 5 * 2, 6 + 6 / 4  # of two teachers, 6 tokens each; the wording is 6 characters
    assert lines["translate (prompts)"].tokens_out == 5 * 20  # no longer than twice the prompt
    assert (lines["translate (answers)"].tokens_in, lines["translate (answers)"].tokens_out) == (
        2 * answers * read,
        120,
    )
    assert lines["rephrase"].tokens_out == answers * 6 and lines["rephrase (check)"].tokens_out == answers * 512
    texts = 5 * 3 + 3 * answers  # samples; answers, translated, restated
    assert lines["judged"].tokens_out == texts * 2 * 20 and lines["told (scores)"].tokens_out == texts * 12
    assert (
        lines["answers (second)"].parameters == 0 and "$110.00" in lines["answers (second)"].bill
    )  # 50 read, 30 written
    assert lines["teacher_check"].tokens_out > 0
    assert not {"teacher_check", "rephrase"} & {line.name for line in _factory(recipe, 5, 10.0)}


def test_who_judges_held_out_answers_stands_in_the_estimate(recipe, change):
    judge = {"use": "judge", "wording": "{answer}", "max_tokens": 20}
    benchmarks = {
        "task": {"metrics": {"judged": judge, "chrf": {"use": "similarity", "metric": "chrf", "to": "references"}}},
        "seen": {"split": "train", "limit": 3, "metrics": {"judged": judge}},
    }
    asking = change(recipe, benchmarks=benchmarks, stages=["evaluate"], policies=["student", "run:one"])
    lines = {line.name: line for line in _factory(asking, 5, 10.0, held_out=7)}
    read = 6 + 8 / 4 + 10  # an answer as long as it may be, a wording of 8 characters, the question
    assert {name: (line.tokens_in, line.tokens_out) for name, line in lines.items()} == {
        "task.judged": (2 * 7 * read, 2 * 7 * 20),
        "seen.judged": (2 * 3 * read, 2 * 3 * 20),
        "evaluate (task)": (2 * 7 * 10, 2 * 7 * 6),  # the run is not there yet: counted as its student
        "evaluate (seen)": (2 * 3 * 10, 2 * 3 * 6),
    }


def test_what_benchmarks_ask_of_each_policy_stands_in_the_estimate(recipe, change, write_rows):
    rows = [{"q": "the little boat sails", "a": "far"}, {"q": "the sun", "a": "far"}]
    documents = [{"text": "the little boat sails"}, {"text": "the sun shines"}, {"text": "far"}, {"text": "far away"}]
    own = {"kind": "items", "path": write_rows(rows, "i.jsonl"), "template": "{{ q }}", "columns": {"references": "a"}}
    benchmarks = {
        "own": {**own, "metrics": ["exact"], "max_tokens": 9},
        "fit": {"kind": "likelihood"},
        "hub": {"kind": "foqa"},
        "board": {"kind": "euroeval"},
    }
    corpus = {"fo": CorpusSource(path=write_rows(documents, "c.jsonl"), held_out=0.5)}
    asking = change(recipe, benchmarks=benchmarks, corpus=corpus, stages=["evaluate"], policies=["student", "teacher"])
    lines = list(_factory(asking, 5, 10.0, held_out=7))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(recipe.student.path)
    read = sum(len(tokenizer(row["q"]).input_ids) for row in rows)
    fit = sum(len(tokenizer(row["text"]).input_ids) for row in documents) * 2 / 4  # half of them are held out, about
    names = [(line.name, line.model) for line in lines]
    student, teacher = (Path(m.path).name for m in (recipe.student, recipe.teacher))
    assert names == [(f"evaluate ({name})", model) for name in ("own", "fit") for model in (student, teacher)]
    assert [(line.tokens_in, line.tokens_out) for line in lines] == [(read, 18), (read, 18), (fit, 0), (fit, 0)]


def test_a_recipes_price_stands_above_the_endpoints(command, tmp_path):
    own = Path(tmp_path / "conf" / "recipe" / "tiny.yaml")
    words = (
        "endpoint=openai",
        "teacher.path=gpt-4o",
        "teacher.endpoint=openai",
        "stages=[prompts,answers]",
        "estimate=true",
    )
    text = own.read_text(encoding="utf-8").replace(
        "endpoints: {}", "endpoints: {openai: {prices: {gpt-4o: {input: 0, output: 1e6}}}}"
    )
    assert "1e6" in text
    own.write_text(text, encoding="utf-8")
    code, out, err = command(*words)
    assert code == 0 and "gpt-4o bills at most about $30.00," in out, out + err  # five answers of six tokens


def test_a_budget_in_money_refuses_a_model_without_a_price(command, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    words = (
        "endpoint=openai",
        "teacher.path=gpt-9",
        "teacher.endpoint=openai",
        "components={}",
        "reward=null",
        "budget=5",
    )
    code, _, err = command(*words, "stages=[prompts,answers]")
    assert code == 2 and "what gpt-9 costs at endpoint openai is not known" in err and "prices in the recipe" in err
