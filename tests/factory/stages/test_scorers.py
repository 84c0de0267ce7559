"""Several scorers of one pool: co-teachers, the student as judge of fluency, references; what each reads, and who is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from data.config import ModelSettings, Sampling, Scorer
from data.lake import Lake
from data.pool import find_pool, find_rewards, find_scores, scorer_reading
from data.refusal import Refusal
from factory.config import FactoryRecipe

SCORED = "prompts,samples,scores"
FLUENT = {"use": "fluency", "scorer": "student"}


@pytest.fixture
def other(tiny_model: Callable[..., str]) -> Scorer:
    return Scorer(path=tiny_model("llama", seed=11))


def _scores(lake: Lake, label: str) -> list[list[float]]:
    return lake.read(lake.slices("scores", label=label)[-1], ["logprobs"]).column(0).to_pylist()


def test_each_scorer_makes_a_slice_of_its_own(recipe: FactoryRecipe, change: Any, make: Any, other: Scorer) -> None:
    lake = make(change(recipe, scorers={"second": other}), SCORED)
    assert {s.label for s in lake.slices("scores")} == {"tiny-teacher", "tiny-policy", "tiny-second"}
    told = [_scores(lake, f"tiny-{name}") for name in ("teacher", "policy", "second")]
    assert told[0] != told[1] != told[2] != told[0]
    alone = make(change(recipe, teacher=other.model, lake=recipe.lake + "2"), SCORED)
    assert _scores(alone, "tiny-teacher") == told[2]  # the same numbers as if it were the teacher


def test_a_scorer_reads_what_its_setting_says(
    recipe: FactoryRecipe, change: Any, make: Any, other: Scorer, write_rows: Any, prompt_rows: list[dict[str, Any]]
) -> None:
    write_rows([{**row, "teacher_messages": "say it in other words"} for row in prompt_rows])
    both = {"own": other, "told": Scorer(path=other.path, shown="teacher_messages")}
    lake = make(change(recipe, scorers=both), SCORED)
    assert _scores(lake, "tiny-own") != _scores(lake, "tiny-told")
    pool = find_pool(lake, recipe, lake.slices("samples")[-1].models["policy"])
    read = {name: scorer_reading(lake, change(recipe, scorers=both), pool.prompts, name) for name in (*both, "teacher")}
    assert read == {"own": (1.0, "messages"), "told": (1.0, "teacher_messages"), "teacher": (1.0, "teacher_messages")}


def test_fluency_under_the_student_is_its_own_bits_a_byte(recipe: FactoryRecipe, change: Any, make: Any) -> None:
    cool = Sampling(n=3, max_tokens=6, temperature=0.6)  # the policy is rescored at .6, the student scores at 1
    fluent = change(recipe, sampling=cool, components={"fluent": FLUENT}, reward="fluent")
    lake = make(fluent, f"{SCORED},rewards")
    pool = find_pool(lake, fluent, lake.slices("samples")[-1].models["policy"])
    totals = lake.read(find_scores(lake, fluent, pool, pool.policy, 1.0), ["total"]).column(0).to_pylist()
    texts = lake.read(pool.samples, ["text"]).column(0).to_pylist()
    values = lake.read(find_rewards(lake, fluent, "fluent", pool.samples), ["value"]).column(0).to_pylist()
    expected = [t / math.log(2) / len(x.encode()) if x else None for t, x in zip(totals, texts, strict=True)]
    assert values == pytest.approx(expected)
    assert len(lake.slices("scores")) == 3


def test_at_temperature_one_the_initial_policy_is_not_scored_twice(
    recipe: FactoryRecipe, change: Any, make: Any
) -> None:
    lake = make(change(recipe, components={"fluent": FLUENT}, reward="fluent"), f"{SCORED},rewards")
    assert {s.label for s in lake.slices("scores")} == {"tiny-teacher", "tiny-policy"}
    assert lake.slices("rewards", label="fluent")


def test_a_scorer_that_is_swapped_is_not_taken_for_the_old_one(
    recipe: FactoryRecipe, change: Any, make: Any, other: Scorer, tiny_model: Callable[..., str]
) -> None:
    components = {"fluent": {"use": "fluency", "scorer": "judge"}}
    before = change(recipe, components=components, reward="fluent", scorers={"judge": other})
    after = change(before, scorers={"judge": Scorer(path=tiny_model("llama", seed=12))})
    lake = make(before, f"{SCORED},rewards")
    first = find_rewards(lake, before, "fluent", lake.slices("samples")[-1])
    make(after, "scores,rewards")
    second = find_rewards(lake, after, "fluent", lake.slices("samples")[-1])
    assert lake.read(first, ["value"]) != lake.read(second, ["value"])
    assert find_rewards(lake, before, "fluent", lake.slices("samples")[-1]).path == first.path


def test_answers_are_not_scored_by_another_than_the_teacher(recipe: FactoryRecipe, change: Any, make: Any) -> None:
    both = {"fluent": FLUENT, "told": {"use": "fluency"}}
    lake = make(change(recipe, components=both, reward="fluent"), "prompts,answers,samples,scores,rewards")
    of = lambda name: lake.read(lake.slices("answer_rewards", label=name)[-1], ["value"]).column(0)  # noqa: E731
    assert of("fluent").null_count == len(of("fluent")) and of("told").null_count < len(of("told"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"components": {"f": {"use": "fluency", "scorer": "studnt"}}}, "did you mean 'student'"),
        ({"components": {"f": {"use": "fluency", "scorer": "judge"}}}, "component f: no scorer named 'judge'"),
        ({"scorers": {"policy": Scorer(path="x")}}, "scorers.policy: letters"),
        ({"scorers": {"a/b": Scorer(path="x")}}, "scorers.a/b: letters"),
    ],
)
def test_unknown_scorers_and_names_are_refused_before_work(
    recipe: FactoryRecipe, change: Any, make: Any, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(Refusal, match=said):
        make(change(recipe, reward=None, **values), "prompts,samples,scores,rewards")


def test_what_a_scorer_is_shown_is_one_of_two() -> None:
    with pytest.raises(Refusal, match="did you mean 'teacher_messages'"):
        Scorer(path="x", shown="teacher_mesages")
    assert Scorer(path="x", dtype="bfloat16", shown="teacher_messages").model == ModelSettings(
        path="x", dtype="bfloat16"
    )


def test_the_command_takes_a_scorer_by_name(command: Any, other: Scorer) -> None:
    code, out, err = command("stages=[prompts,samples,scores]", f"scorers={{judge: {{path: {other.path}}}}}")
    assert code == 0, err
    assert "scores/tiny-judge-" in out
