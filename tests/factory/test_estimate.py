"""The estimate: numbers that can be checked by hand, and a lake that is not touched."""

from __future__ import annotations

from pathlib import Path

from factory.estimate import _factory, _trainer, parameters, text


def test_the_estimate_prints_and_writes_nothing(recipe, change, make, capsys):
    make(change(recipe, estimate=True))
    out = capsys.readouterr().out
    assert "recipe tiny: 5 train prompts" in out and "scores (teacher)" in out and "training" in out
    assert not Path(recipe.lake).exists()


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
