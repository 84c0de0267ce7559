from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch

from data.refusal import Refusal
from trainer.objective_config import Gspo, Mis, Teacher
from trainer.objectives import OBJECTIVES, ObjectiveSettings, needs, parse_objective, scope
from trainer.view import StepView, first_of_group, group_extreme, group_sum


def view(**changes) -> StepView:
    base = {
        "logprobs_bt": torch.tensor([[-1.0, -2.0], [-0.5, -1.0]]),
        "behaviour_bt": torch.tensor([[-1.1, -1.7], [-0.5, -1.2]]),
        "old_bt": None,
        "advantage_b": torch.tensor([1.0, -1.0]),
        "mask_bt": torch.tensor([[True, True], [True, False]]),
        "group_b": torch.tensor([4, 4]),
        "lengths_b": torch.tensor([2, 1]),
    }
    rows, width = (base | changes)["logprobs_bt"].shape
    more = {
        "reward_b": torch.tensor([0.7, -0.4, 9.0])[:rows],
        "baseline_b": torch.tensor([0.1, 0.1, 0.1])[:rows],
        "teacher_bt": torch.tensor([[-0.4, -2.5, 9.0], [-0.9, 9.0, 9.0], [9.0, 9.0, 9.0]])[:rows, :width],
        "reference_bt": torch.tensor([[-1.2, -1.9, 9.0], [-0.4, 9.0, 9.0], [9.0, 9.0, 9.0]])[:rows, :width],
        "special_bt": torch.zeros(rows, width, dtype=torch.bool),
        "prox_bt": torch.tensor([[-1.05, -1.8, 9.0], [-0.45, 9.0, 9.0], [9.0, 9.0, 9.0]])[:rows, :width],
    }
    return StepView(**(base | more | changes))


def test_the_table_says_what_the_mathematics_says():
    rows = {name: (row.name, row.scope, row.aggregate, set(row.needs)) for name, row in OBJECTIVES.items()}
    reward, ratio, offset = {"reward"}, {"behaviour", "reward"}, {"raw_reward", "reference"}
    assert rows == {
        "naive": ("naive", "sample", "sample", reward),
        "grpo": ("grpo", "token", "sample", ratio),
        "dapo": ("dapo", "token", "token", ratio),
        "dr_grpo": ("dr_grpo", "token", "constant", ratio),
        "decoupled": ("decoupled", "token", "sample", ratio | {"prox"}),
        "gspo": ("gspo", "sample", "sample", ratio),
        "cispo": ("cispo", "token", "token", ratio),
        "tis": ("tis", "token", "token", ratio),
        "seq_tis": ("seq_tis", "sample", "sequence", ratio),
        "mis": ("mis", "sample", "token", ratio),
        "m2po": ("m2po", "step", "token", ratio),
        "topr": ("topr", "sample", "sequence", ratio),
        "asymre": ("asymre", "sample", "sequence", {"raw_reward"}),
        "kimi": ("kimi", "group", "sequence", offset),
        "tb_vargrad": ("tb_vargrad", "group", "sequence", offset),
        "astar_po": ("astar_po", "group", "sequence", offset),
        "seed_softmax": ("seed_softmax", "group", "prompt", reward),
        "opd": ("opd", "token", "token", {"behaviour", "teacher", "special"}),
        "raft": ("raft", "group", "token", reward),
        "minillm": ("minillm", "step", "token", {"behaviour", "teacher"}),
    }


def test_a_sum_needs_what_any_of_it_needs_and_has_the_widest_scope():
    assert needs({"seq_tis": 1.0, "opd": 0.3}) == {"behaviour", "reward", "teacher", "special"}
    assert scope({"grpo": 1.0}) == "token" and scope({"grpo": 1.0, "seq_tis": 0.1}) == "sample"
    assert scope({"raft": 1.0, "m2po": 1.0}) == "step"


@pytest.mark.parametrize(
    ("name", "missing"), [("kimi", "reference"), ("asymre", "reward"), ("opd", "teacher"), ("decoupled", "prox")]
)
def test_an_objective_says_what_its_view_lacks(name, missing):
    absent = {"reward_b": None, "teacher_bt": None, "reference_bt": None, "prox_bt": None}
    given = {"reward_b": view().reward_b} if name == "kimi" else {}
    with pytest.raises(ValueError, match=missing):
        OBJECTIVES[name].coefficient(view(**(absent | given)), ObjectiveSettings())


def test_token_rewards_add_to_each_tokens_own_advantage():
    extra = torch.tensor([[0.5, -0.25], [1.0, 0.0]])
    for name in ("naive", "grpo", "dr_grpo", "tis", "cispo", "mis", "seq_tis", "topr", "decoupled"):
        off = ObjectiveSettings(clip_low=None, clip_high=None)
        one = OBJECTIVES[name].coefficient(view(), off).c_bt
        more = OBJECTIVES[name].coefficient(view(token_advantage_bt=extra), off).c_bt
        a_bt = view().advantage_b[:, None].expand(2, 2)
        assert torch.allclose(more, one * (a_bt + extra) / a_bt, atol=1e-6), name


def test_m2po_drops_no_more_than_it_must():
    gaps = torch.tensor([[0.1, -0.2], [0.3, -0.4]])
    case = view(
        logprobs_bt=torch.full((2, 2), -1.0),
        behaviour_bt=-1.0 - gaps,
        mask_bt=torch.ones(2, 2).bool(),
        lengths_b=torch.tensor([2, 2]),
    )
    kept = lambda limit: OBJECTIVES["m2po"].coefficient(case, ObjectiveSettings(m2_limit=limit)).c_bt != 0  # noqa: E731
    squares = gaps.square()  # .01 .04 .09 .16: means of the smallest .01, .025, .0467, .075
    for limit, bound in [(0.011, 0.011), (0.026, 0.05), (0.047, 0.1), (0.076, 0.2)]:
        assert torch.equal(kept(limit), squares <= bound)
    assert not kept(0.009).any()


def test_m2po_drops_equal_tokens_together_and_counts_each_of_them_and_no_padding():
    gaps = torch.tensor([[0.125, -0.25, 0.0], [0.25, 0.25, 0.0]])  # squares 1/64, three times 4/64: the mean is 13/256
    case = view(
        logprobs_bt=torch.full((2, 3), -1.0),
        behaviour_bt=-1.0 - gaps,
        mask_bt=torch.tensor([[True, True, False]] * 2),
        lengths_b=torch.tensor([2, 2]),
    )
    for limit, kept, m2 in [(0.0507, [True, False, False, False], 1 / 64), (0.0508, [True] * 4, 13 / 256)]:
        found = OBJECTIVES["m2po"].coefficient(case, ObjectiveSettings(m2_limit=limit))
        assert (found.c_bt != 0)[:, :2].flatten().tolist() == kept
        total, count = found.metrics["m2"]
        assert total.item() / count.item() == pytest.approx(m2) and count.item() == sum(kept)


def test_astar_po_at_a_tiny_temperature_compares_with_the_best_sample():
    case = view(reward_b=torch.tensor([0.7, -0.4]), mask_bt=torch.ones(2, 2).bool(), lengths_b=torch.tensor([2, 2]))
    found = OBJECTIVES["astar_po"].coefficient(case, ObjectiveSettings(tau=1e-4)).c_bt
    torch.testing.assert_close(found[:, 0], torch.tensor([0.0, -1.1]), atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_reads_the_behaviour_exactly_if_it_needs_it(name):
    row, settings = OBJECTIVES[name], ObjectiveSettings()
    shifted = view(behaviour_bt=view().behaviour_bt + 0.05)
    same = torch.equal(row.coefficient(view(), settings).c_bt, row.coefficient(shifted, settings).c_bt)
    assert same == ("behaviour" not in row.needs)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_padding_and_samples_out_of_the_loss_reach_neither_coefficients_nor_metrics(name):
    row, settings, nan = OBJECTIVES[name], ObjectiveSettings(), float("nan")
    alone = row.coefficient(view(), settings)
    padded = view(
        logprobs_bt=torch.tensor([[-1.0, -2.0, nan], [-0.5, nan, nan], [nan, nan, nan]]),
        behaviour_bt=torch.tensor([[-1.1, -1.7, nan], [-0.5, nan, nan], [nan, nan, nan]]),
        advantage_b=torch.tensor([1.0, -1.0, nan]),
        mask_bt=torch.tensor([[True, True, False], [True, False, False], [False, False, False]]),
        group_b=torch.tensor([4, 4, 4]),
        lengths_b=torch.tensor([2, 1, 3]),
    )
    beside = row.coefficient(padded, settings)
    assert torch.equal(beside.c_bt[:2, :2], alone.c_bt)
    assert beside.c_bt[2].abs().sum() == 0 and beside.c_bt[:, 2].abs().sum() == 0
    got = {key: (total.item(), count.item()) for key, (total, count) in beside.metrics.items()}
    assert got == {key: (total.item(), count.item()) for key, (total, count) in alone.metrics.items()}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_group_out_of_the_loss_as_a_whole_is_silent(name):
    nothing = view(mask_bt=torch.zeros(2, 2, dtype=torch.bool), advantage_b=torch.tensor([float("nan"), 1.0]))
    result = OBJECTIVES[name].coefficient(nothing, ObjectiveSettings())
    assert result.c_bt.abs().sum().item() == 0
    assert all(total.item() == 0 for total, _ in result.metrics.values())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_nan_of_the_policy_does_not_pass_for_a_number(name):
    broken = view(logprobs_bt=torch.tensor([[float("nan"), -2.0], [-0.5, -1.0]]))
    result = OBJECTIVES[name].coefficient(broken, ObjectiveSettings())
    total = (result.c_bt * broken.logprobs_bt)[broken.mask_bt].sum()
    assert torch.isnan(total) or name == "raft"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"behaviour_bt": torch.zeros(2, 3)}, r"behaviour has shape \(2, 3\), log-probabilities \(2, 2\)"),
        ({"old_bt": torch.zeros(1, 2)}, r"old policy has shape \(1, 2\)"),
        ({"advantage_b": torch.zeros(3)}, r"advantage has shape \(3,\), .* ask for \(2,\)"),
        ({"chosen_b": torch.zeros(3).bool()}, r"chosen has shape \(3,\)"),
        ({"mask_bt": torch.ones(2, 2)}, "mask has dtype torch.float32"),
        ({"logprobs_bt": torch.zeros(2, 2, requires_grad=True)}, "a view is detached"),
        ({"behaviour_bt": torch.tensor([[0.0, float("-inf")], [0.0, 0.0]])}, "behaviour log-probabilities hold"),
        ({"old_bt": torch.tensor([[0.0, float("nan")], [0.0, 0.0]])}, "old policy log-probabilities hold"),
        ({"advantage_b": torch.tensor([1.0, float("nan")])}, "advantages hold a value that is not finite"),
        ({"lengths_b": torch.tensor([1, 1])}, "more tokens of a sample than its length"),
    ],
)
def test_a_view_refuses_what_would_silently_spoil_a_step(changes, message):
    with pytest.raises(ValueError, match=message):
        view(**changes)


def test_group_reductions_follow_the_group_numbers_in_any_order():
    group_b, values_b = torch.tensor([9, 2, 9, 2, 5]), torch.tensor([1.0, 10.0, 2.0, 30.0, 7.0])
    assert group_sum(values_b, group_b).tolist() == [3.0, 40.0, 3.0, 40.0, 7.0]
    assert group_extreme(values_b, group_b, "amax").tolist() == [2.0, 30.0, 2.0, 30.0, 7.0]
    assert group_extreme(-values_b, group_b, "amin").tolist() == [-2.0, -30.0, -2.0, -30.0, -7.0]
    assert first_of_group(group_b).tolist() == [True, True, False, False, True]


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_low": 0.0},
        {"clip_high": -0.1},
        {"cap": float("inf")},
        {"cap": float("nan")},
        {"dual_clip": 1.0},
        {"mismatch_cap": 0.0},
        {"softmax_score": "total"},
    ],
)
def test_settings_outside_their_range_are_refused_with_the_next_command(changes):
    (name,) = changes
    with pytest.raises(Refusal, match=f"{name}=.*\n.*next: python -m trainer .*{name}="):
        ObjectiveSettings(**changes)


def test_every_setting_may_be_switched_off_and_changes_something():
    wide = {"m2_limit": 100.0, "delta": 0.0, "gspo": Gspo(None, None), "mis": Mis(0.0, 1e9), "teacher": Teacher()}
    off = ObjectiveSettings(clip_low=None, clip_high=None, dual_clip=None, cap=None, mismatch_cap=None, **wide)
    assert len(fields(off)) <= 12
    step = view(
        logprobs_bt=torch.tensor([[-1.0, -2.0], [-0.5, -1.0]]),
        behaviour_bt=torch.tensor([[-3.0, -4.0], [-2.5, -4.0]]),
        old_bt=torch.tensor([[-2.0, -3.2], [-1.3, -2.2]]),
        mask_bt=torch.ones(2, 2, dtype=torch.bool),
        lengths_b=torch.tensor([2, 2]),
    )
    low = replace(step, logprobs_bt=torch.tensor([[-5.0, -5.0], [-5.0, -5.0]]))
    cases = [("grpo", low, {"clip_low": 0.2}), ("grpo", step, {"clip_high": 0.2}), ("grpo", step, {"dual_clip": 1.5})]
    cases += [
        ("tis", step, {"cap": 2.0}),
        ("grpo", step, {"mismatch_cap": 1.5}),
        ("seed_softmax", step, {"softmax_score": "sum"}),
        ("m2po", step, {"m2_limit": 0.04}),
        ("asymre", step, {"delta": 0.1}),
        ("kimi", step, {"tau": 0.5}),
        ("gspo", step, {"gspo": Gspo()}),
        ("mis", step, {"mis": Mis()}),
        ("opd", step, {"teacher": Teacher(horizon=1)}),
    ]
    assert {key for _, _, change in cases for key in change} == {part.name for part in fields(off)}
    for name, case, change in cases:
        coefficient = OBJECTIVES[name].coefficient
        before, after = coefficient(case, off).c_bt, coefficient(case, replace(off, **change)).c_bt
        assert not torch.allclose(before, after), change


def test_an_objective_is_a_name_or_weighted_names():
    assert parse_objective("grpo") == {"grpo": 1.0}
    assert parse_objective({"seq_tis": 1, "topr": 0.3}) == {"seq_tis": 1.0, "topr": 0.3}
    assert parse_objective({"seq_tis": 1, "minillm": 0}) == {"seq_tis": 1.0}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("grpoo", "did you mean 'grpo'"),
        ({"seq_tis": 1, "tops": 0.3}, "'tops' does not exist: did you mean 'topr'"),
        ({}, "names nothing"),
        ({"grpo": 0}, "names nothing"),
        ({"grpo": -1}, "weight -1"),
        ({"grpo": float("nan")}, "weight nan"),
        ({"grpo": True}, "weight True"),
        ({"grpo": "much"}, "weight 'much'"),
    ],
)
def test_an_objective_that_cannot_be_meant_is_refused(value, message):
    with pytest.raises(Refusal, match=message):
        parse_objective(value)


def test_the_mathematics_loads_neither_models_nor_tables():
    code = "import sys, trainer.losses, trainer.drift.sums; print({'transformers', 'duckdb', 'polars', 'hydra'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
