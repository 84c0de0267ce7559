"""Weights and learning rates by step, against numbers worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from data.refusal import Refusal
from trainer.config import Losses, Optimiser
from trainer.schedule import Weights, ever, learning_rate, trainable, weights


def test_a_line_runs_from_its_first_step_to_its_last_and_stays() -> None:
    losses = Losses(rl=1.0, bc={"from": 1.0, "to": 0.2, "steps": 4}, pt=0.0, kl=0.0)
    found = [weights(losses, step).bc for step in (1, 2, 3, 4, 5, 6)]
    assert found == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_phases_replace_weights_for_their_steps_and_count_lines_from_their_own_start() -> None:
    phases = [{"steps": 2, "rl": 0}, {"steps": 3, "kl": {"from": 0.4, "to": 0.0, "steps": 2}}]
    losses = Losses(rl=1.0, bc=0.5, pt=0.1, kl=0.02, phases=phases)
    assert weights(losses, 2) == Weights(0.0, 0.5, 0.1, 0.0)
    assert [weights(losses, step).kl for step in (3, 4, 5, 6)] == pytest.approx([0.4, 0.2, 0.0, 0.02])


def test_phases_that_cycle_alternate_for_ever() -> None:
    phases = [{"steps": 2, "rl": 0, "bc": 1}, {"steps": 1, "bc": 0, "kl": {"from": 0.2, "to": 0.0, "steps": 2}}]
    losses = Losses(rl=1.0, bc=0.5, pt=0.0, kl=0.1, phases=phases, cycle=True)
    found = [weights(losses, step) for step in range(1, 8)]
    assert [w.rl for w in found] == [0, 0, 1, 0, 0, 1, 0]
    assert [w.bc for w in found] == [1, 1, 0, 1, 1, 0, 1]
    assert [w.kl for w in found] == [0, 0, 0.2, 0, 0, 0.2, 0]
    assert weights(Losses(rl=1.0, cycle=True), 9).rl == 1.0


def test_other_weights_leave_no_leash_without_samples() -> None:
    now = Weights(1.0, 0.5, 0.1, 0.02)
    assert now.with_({"rl": 0, "pt": 0.5}) == Weights(0, 0.5, 0.5, 0.0)
    assert now.with_({"kl": 0.3}) == Weights(1.0, 0.5, 0.1, 0.3)
    assert now.any and not Weights(0, 0, 0, 0.0, 0).any and Weights(0, 0, 0, 0.0, 0.1).any


def test_a_term_is_needed_if_any_step_weighs_it() -> None:
    losses = Losses(rl=0.0, bc=1.0, pt=0.0, kl=0.5, phases=[{"steps": 5, "pt": 0.1}])
    assert ever(losses, 5) == {"rl": False, "bc": True, "pt": True, "kl": False, "soft": False}
    assert ever(losses, 6)["pt"] is True
    late = Losses(rl=1.0, bc=0.0, pt=0.0, kl=0.0, phases=[{"steps": 5, "rl": 0, "bc": 1}])
    assert ever(late, 5)["rl"] is False and ever(late, 6)["rl"] is True


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 0.775, 0.55, 0.325, 0.1]),
        ("cosine", [0.5, 1.0, 0.868198, 0.55, 0.231802, 0.1]),
    ],
)
def test_the_rate_warms_up_and_falls_to_its_final_share(schedule: str, expected: list[float]) -> None:
    settings = Optimiser(lr=1.0, warmup=2, schedule=schedule, final=0.1)
    assert [learning_rate(settings, step, 6) for step in range(1, 7)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ({"bc": -1.0}, "losses.bc=-1"),
        ({"bc": float("nan")}, "losses.bc=nan"),
        ({"bc": "much"}, "losses.bc=much"),
        ({"bc": {"from": 1, "to": 0}}, "from, to and steps"),
        ({"phases": [{"steps": 3, "bx": 1}]}, "did you mean 'bc'"),
        ({"phases": [{"bc": 1}]}, "phases.steps"),
    ],
)
def test_weights_that_are_none_are_refused(losses: dict[str, Any], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        weights(Losses(**losses), 1)


def test_a_phase_says_what_moves_and_behind_the_last_all_does() -> None:
    losses = Losses(pt=1.0, phases=[{"steps": 2, "trainable": "embeddings"}, {"steps": 1, "rl": 0}])
    assert [trainable(losses, step) for step in range(1, 6)] == ["embeddings", "embeddings", "all", "all", "all"]
    with pytest.raises(Refusal, match="trainable=heads is none of all, embeddings"):
        trainable(Losses(phases=[{"steps": 1, "trainable": "heads"}]), 1)
