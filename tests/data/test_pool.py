"""What a recipe finds in the lake is its own: its teacher's answers under its sampling, components made from them."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data.config import AnswerSampling, ModelSettings, Recipe, Sampling, model_settings
from data.contract import TABLES
from data.lake import Key, Lake
from data.manifest import Slice
from data.pool import answers_key, find_answers, find_rewards, find_soft_targets, soft_targets_key
from data.refusal import Refusal

CHAT = [{"role": "user", "content": "hvat?"}]
ROW: dict[str, dict[str, Any]] = {
    "prompts": {"prompt_id": 1, "messages": CHAT, "split": "train"},
    "models": {},
    "answers": {"prompt_id": 1, "candidate": 0, "text": "ja"},
    "samples": {"group_id": 1, "sample_index": 0, "token_ids": [5], "n_tokens": 1, "text": "ja", "origin": "student"},
    "scores": {"group_id": 1, "sample_index": 0, "logprobs": [-1.0], "total": -1.0},
    "answer_tokens": {"prompt_id": 1, "candidate": 0, "prompt_token_ids": [3], "token_ids": [5]},
    "answer_soft_targets": {
        "prompt_id": 1,
        "candidate": 0,
        "sizes": [1],
        "ids": [5],
        "counts": [8],
        "logprobs": [-0.1],
    },
    "rewards": {"group_id": 1, "sample_index": 0, "value": 1.0, "valid": True},
}
FILL: dict[Any, Any] = {pa.string(): "x", pa.bool_(): True}


def publish(lake: Lake, table: str, key: Key, label: str = "tiny") -> Slice:
    row = dict(ROW[table])
    for column in TABLES[table].columns:
        if column.required and column.name not in row:
            row[column.name] = [-1.0] if pa.types.is_list(column.type) else FILL.get(column.type, 0)
    with lake.publish(table, key, label=label) as publisher:
        for shard in publisher.pending():
            publisher.write(shard, pa.Table.from_pylist([row], schema=TABLES[table].schema))
        return publisher.finish()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake")


@pytest.fixture
def recipe(lake: Lake) -> Recipe:
    recipe = Recipe(
        name="tiny",
        student=ModelSettings(path="student"),
        teacher=ModelSettings(path="a"),
        sampling=Sampling(n=1),
        components={"loglik": {"use": "teacher_loglik"}},
    )
    for path in ("a", "b"):
        model = model_settings(ModelSettings(path=path))
        publish(lake, "models", Key({"model": model}, (), {"model": f"id-{path}"}, (path,)))
    return recipe


def by(recipe: Recipe, teacher: str) -> Recipe:
    return dataclasses.replace(recipe, teacher=ModelSettings(path=teacher))


def test_a_component_made_from_another_teachers_scores_is_not_the_recipes_own(lake: Lake, recipe: Recipe) -> None:
    prompts = publish(lake, "prompts", Key({}, contents=("p",)))
    samples = publish(lake, "samples", Key({}, (prompts,), {"policy": "id-s"}))
    made = {}
    for teacher in ("a", "b"):
        scores = publish(lake, "scores", Key({}, (samples, prompts), {"scorer": f"id-{teacher}"}))
        key = Key({"spec": recipe.components["loglik"]}, (samples, prompts, scores))
        made[teacher] = publish(lake, "rewards", key, "loglik")
    for teacher in ("a", "b"):
        assert find_rewards(lake, by(recipe, teacher), "loglik", samples).path == made[teacher].path
    with pytest.raises(Refusal, match="another teacher"):
        find_rewards(lake, by(recipe, "c"), "loglik", samples)


def test_a_component_compared_with_other_answers_is_not_the_recipes_own(lake: Lake, recipe: Recipe) -> None:
    prompts = publish(lake, "prompts", Key({}, contents=("p",)))
    samples = publish(lake, "samples", Key({}, (prompts,), {"policy": "id-s"}))
    longer = dataclasses.replace(recipe, answers=AnswerSampling(max_tokens=99))
    for one in (recipe, longer):
        answers = publish(lake, "answers", answers_key(one, prompts, "id-a"))
        publish(lake, "rewards", Key({"spec": recipe.components["loglik"]}, (samples, prompts, answers)), "loglik")
    for one in (recipe, longer):
        found = find_rewards(lake, one, "loglik", samples)
        assert lake.slice(found.parent("answers")).settings["sampling"] == asdict(one.answers)


def test_answers_are_those_of_the_recipes_sampling_and_preferably_of_its_seed(lake: Lake, recipe: Recipe) -> None:
    prompts = publish(lake, "prompts", Key({}, contents=("p",)))
    shorter = dataclasses.replace(recipe, answers=AnswerSampling(max_tokens=3))
    own = publish(lake, "answers", answers_key(recipe, prompts, "id-a"))
    assert find_answers(lake, shorter, prompts) is None
    publish(lake, "answers", answers_key(shorter, prompts, "id-a"))
    publish(lake, "answers", answers_key(dataclasses.replace(recipe, seed=5), prompts, "id-a"))
    assert find_answers(lake, recipe, prompts) == own
    shared = find_answers(lake, dataclasses.replace(recipe, seed=9), prompts)
    assert shared is not None and shared.settings["sampling"] == asdict(recipe.answers)


def test_imported_answers_belong_to_the_recipe_that_imports_them(lake: Lake, recipe: Recipe) -> None:
    prompts = publish(lake, "prompts", Key({}, contents=("p",)))
    asked = publish(lake, "answers", answers_key(recipe, prompts, "id-a"))
    imported = publish(lake, "answers", Key({}, (prompts,), {"teacher": "imported"}, ("i",)))
    importing = dataclasses.replace(recipe, factory={"imports": {"x": {"kind": "answers", "path": "x.jsonl"}}})
    assert find_answers(lake, importing, prompts) == imported
    assert find_answers(lake, recipe, prompts) == asked


def test_two_imports_of_answers_are_refused(lake: Lake, recipe: Recipe) -> None:
    prompts = publish(lake, "prompts", Key({}, contents=("p",)))
    for content in ("i", "j"):
        publish(lake, "answers", Key({}, (prompts,), {"teacher": "imported"}, (content,)))
    one, two = ({"kind": "answers", "path": f"{name}.jsonl"} for name in "xy")
    with pytest.raises(Refusal, match="imports x and y are both answers"):
        find_answers(lake, dataclasses.replace(recipe, factory={"imports": {"y": two, "x": one}}), prompts)
    with_pool = {"imports": {"x": one, "pool": {"kind": "samples", "path": "s.jsonl"}}}
    assert find_answers(lake, dataclasses.replace(recipe, factory=with_pool), prompts) is not None


def test_soft_targets_are_those_of_the_tokens_the_teacher_the_kind_and_the_recipes_numbers(
    lake: Lake, recipe: Recipe
) -> None:
    prompts = publish(lake, "prompts", Key({}, contents=("p",)))
    answers = publish(lake, "answers", answers_key(recipe, prompts, "id-a"))
    base = publish(lake, "answer_tokens", Key({}, (answers, prompts), {}))
    specs = [
        {"kind": "sampled", "draws": 256, "seed": 0},
        {"kind": "sampled", "draws": 16, "seed": 0},
        {"kind": "top_k", "k": 64},
        {"kind": "student_m", "k": 64, "policy": "id-s"},
    ]
    made = [publish(lake, "answer_soft_targets", soft_targets_key(base, "id-a", spec)) for spec in specs]

    def found(wanted: str, **section: Any) -> Slice:
        asking = dataclasses.replace(recipe, factory={"soft_targets": section} if section else None)
        return find_soft_targets(lake, asking, base, "id-a", wanted, "id-s", "losses.soft=0")

    assert found("sampled") == made[1], "the newest, where the recipe names no numbers"
    assert found("sampled", kind="sampled", draws=256) == made[0]
    assert found("top_k", kind="sampled", draws=256) == made[2]
    assert found("student_m") == made[3]
    for scorer, kind, policy in (("id-b", "top_k", "id-s"), ("id-a", "student_m", "id-other")):
        said = (
            rf"(?s)no soft targets of kind {kind} by {scorer}.*soft_targets.of=answers soft_targets.kind={kind}, or x=0"
        )
        with pytest.raises(Refusal, match=said):
            find_soft_targets(lake, recipe, base, scorer, kind, policy, "x=0")
