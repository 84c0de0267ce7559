from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
import torch

from data.refusal import Refusal
from data.verdict import verdict
from trainer.config import Losses
from trainer.drift.__main__ import COMMAND
from trainer.drift.config import DriftSettings
from trainer.drift.measure import measure
from trainer.drift.runs import known_run, recipe_of, seen_groups
from trainer.drift.show import shown
from trainer.loop import train
from trainer.sources import pool_source, resolve
from trainer.stream import Stream

ALIKE = {
    "token_ess": 0.99,
    "token_kl": 0.001,
    "clipped": 0.05,
    "broken": 0.0,
    "sequence_ess": 0.9,
    "sequence_k_hat": 0.2,
}


def test_a_pool_near_its_policy_is_replayed_on():
    found = verdict(ALIKE, sample_weights=True, samples=8)
    assert found.replay and found.words.startswith("replay on") and not found.notes


@pytest.mark.parametrize(
    ("name", "number", "word"),
    [
        ("token_ess", 0.4, "token ESS"),
        ("token_kl", 0.2, "KL"),
        ("clipped", 0.5, "clipped"),
        ("broken", 0.01, "broken"),
        ("sequence_ess", 0.1, "sequence ESS/n is below 1/8"),
        ("sequence_k_hat", 0.8, "k-hat"),
    ],
)
def test_each_figure_beyond_its_bound_ends_the_pool_and_is_named(name, number, word):
    found = verdict(ALIKE | {name: number}, sample_weights=True, samples=8)
    assert not found.replay and word in found.words and "new round" in found.words


def test_figures_of_whole_samples_are_a_note_where_no_objective_weighs_whole_samples():
    found = verdict(ALIKE | {"sequence_ess": 0.01, "sequence_k_hat": 2.0}, sample_weights=False, samples=8)
    assert found.replay and len(found.notes) == 2


def test_a_figure_that_is_not_there_does_not_pass():
    for name in ("token_ess", "token_kl", "clipped", "broken", "sequence_ess"):
        without = {key: number for key, number in ALIKE.items() if key != name}
        for figures in (without, without | {name: math.nan}):
            assert not verdict(figures, sample_weights=True, samples=8).replay, name


def trained(made, run, **changes):
    usual = {"losses": Losses(rl=1, bc=0, pt=0, kl=0), "replay__prompts": 2, "run": run, "steps": 4}
    recipe = made.with_(**(usual | changes))
    train(recipe)
    return recipe, DriftSettings(run=run, lake=recipe.lake, runs=recipe.runs)


def test_a_run_without_a_learning_rate_has_not_left_its_pool_and_a_hundredfold_one_has(made):
    _, settings = trained(made, "still", optimiser__lr=0.0, objective="seq_tis")
    still = measure(settings)
    assert still.figures["token_ess"] >= 0.999 and still.figures["sequence_ess"] >= 0.999
    assert abs(still.figures["token_kl"]) <= 1e-4 and still.verdict.replay
    ess = []
    for lr in (1e-4, 1e-2):
        _, settings = trained(made, f"lr{lr}", optimiser__lr=lr, objective="seq_tis")
        moved = measure(settings)
        ess.append(moved.figures["sequence_ess"])
    assert ess[1] < ess[0] - 0.05 and not moved.verdict.replay
    text = shown(settings, moved)
    assert "lower the learning rate or go on with a new round" in text and f"policy=run:{settings.run}" in text


def test_the_table_shows_every_figure_and_the_value_or_why_there_is_none(made):
    _, settings = trained(made, "shown", optimiser__lr=1e-4)
    text = shown(settings, measure(settings))
    for row in ("ESS/n", "mean ratio", "second moment", "KL(μ‖π)", "k-hat", "clipped share", "groups without spread"):
        assert re.search(rf"^{re.escape(row)}", text, re.MULTILINE), row
    assert "6 of 6 groups" in text and "fewer than 30" in text and "replay on" in text


def test_figures_are_those_of_the_final_weights(made):
    from trainer.forward import GroupTokens, group_logprobs, load

    recipe, settings = trained(made, "figures", optimiser__lr=1e-3)
    found = measure(settings)
    policy = load(f"{recipe.runs}/figures/final")
    vector = np.zeros(24, np.float32)
    reading = resolve(recipe)
    groups = Stream(pool_source(reading.pool, vector), 0).take(6)
    with torch.no_grad():
        log_n = np.concatenate(
            [
                group_logprobs(policy, [GroupTokens(g.prompt, g.completions)]).numpy() - np.concatenate(g.behaviour)
                for g in groups
            ]
        )
    assert found.figures["token_kl"] == pytest.approx(-float(log_n.mean()), rel=1e-4)
    assert found.figures["token_second_moment"] == pytest.approx(float(np.exp(2 * log_n).mean()), rel=1e-4)


def test_log_ratios_are_policy_over_behaviour(made):
    """μ shifted down by a tenth of a nat a token: every ratio is e^.1 higher, at any temperature."""
    from trainer.drift.measure import chosen_groups, log_ratios
    from trainer.forward import load

    recipe, _ = trained(made, "ratios", steps=1, optimiser__lr=0.0)
    pool = resolve(recipe).pool
    groups = [
        dataclasses.replace(group, behaviour=[mu - 0.1 for mu in group.behaviour]) for group in chosen_groups(pool, 6)
    ]
    sums, token_n, sample_n = log_ratios(load(made.model), groups, recipe, 1.0)
    lengths = [len(completion) for group in groups for completion in group.completions]
    np.testing.assert_allclose(token_n, 0.1, atol=1e-3)
    np.testing.assert_allclose(sample_n, 0.1 * np.array(lengths), atol=1e-2)
    assert sums.figures()["token_ratio"] == pytest.approx(math.exp(0.1), rel=1e-3)
    warm = log_ratios(load(made.model), groups, recipe, 2.0)[1]
    assert np.abs(warm - token_n).max() > 0.05


def test_groups_that_the_run_has_seen_are_those_that_its_stream_gave(made):
    recipe, _ = trained(made, "seen")
    reading = resolve(recipe)
    seen = seen_groups(reading, recipe, 2)
    assert seen.sum() == 4 and seen_groups(reading, recipe, 3).all() and not seen_groups(reading, recipe, 0).any()
    taken = Stream(pool_source(reading.pool, np.zeros(24, np.float32)), recipe.seed).take(4)
    from trainer.drift.measure import group_ids

    assert set(group_ids(reading)[seen].tolist()) == {group.group_id for group in taken}


def test_a_recipe_comes_back_from_its_record_as_it_was(made):
    recipe, _ = trained(made, "again", steps=1)
    run, record = known_run("again", recipe.runs)
    back = recipe_of(run.name, record, recipe.lake, recipe.runs)
    assert dataclasses.replace(back, factory=recipe.factory) == recipe


def test_a_run_that_is_none_is_refused_with_the_nearest(made, capsys):
    trained(made, "drifting", steps=1)
    assert COMMAND.main([f"runs={made.recipe.runs}", f"lake={made.recipe.lake}", "run=driftin"]) == 2
    assert "did you mean 'drifting'" in capsys.readouterr().err


def test_the_small_commands_refuse_what_they_do_not_know(capsys):
    assert COMMAND.main(["run=x", "grups=3"]) == 2 and "did you mean 'groups'" in capsys.readouterr().err
    assert COMMAND.main(["groups=3"]) == 2 and "run=… is not given" in capsys.readouterr().err
    assert COMMAND.main(["run=x", "groups=many"]) == 2 and "many" in capsys.readouterr().err
    assert COMMAND.main(["run=x", "groups=0"]) == 2 and "outside" in capsys.readouterr().err
    assert COMMAND.main(["run"]) == 2 and "key=value" in capsys.readouterr().err
    assert COMMAND.main(["--help"]) == 0 and "groups" in capsys.readouterr().out


def test_a_run_of_another_version_is_refused():
    with pytest.raises(Refusal, match="this version"):
        recipe_of("old", {"configuration": {"trainer": {"no_such_setting": 1}}}, "lake", "runs")
