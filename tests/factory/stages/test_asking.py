"""Stages that ask models: components with questions, translation, restatement, co-teachers; keys, lineage, nobody asked twice."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.config import ModelSettings, Rephrase, Scorer, Translate
from data.keys import hex_id
from data.lake import Lake
from data.pool import find_answers, find_prompts, find_rewards
from data.refusal import Refusal
from data.verify import verify
from factory.config import FactoryRecipe
from factory.engines.hf import HfEngine

PLAIN = {"wording": "{text}", "max_tokens": 6}
VERDICT = {"use": "judge", "mode": "verdict", "wording": "{answer} ?", "max_tokens": 6}
POOL = "prompts,answers,samples"


@pytest.fixture
def ending(tmp_path: Path, tiny_model: Callable[..., str]) -> Callable[[int], ModelSettings]:
    """`ending(seed)`: a random model for which half of all ids end an answer, so that most answers are whole."""

    def make(seed: int) -> ModelSettings:
        folder = Path(tiny_model("llama", tmp_path / f"ending{seed}", seed=seed))
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, *range(5, 200)]}))
        return ModelSettings(path=str(folder))

    return make


@pytest.fixture
def translating(recipe: FactoryRecipe, change: Any, ending: Callable[[int], ModelSettings]) -> FactoryRecipe:
    return change(
        recipe,
        models={"translator": ending(3)},
        student=ending(5),
        teacher=ending(7),
        translate=Translate(**PLAIN, prompts=False),
        reward=None,
    )


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that an hf engine is asked to answer, in order."""
    seen: list[str] = []
    answer = HfEngine.answer

    def noted(self: HfEngine, requests: Any) -> Any:
        asked = list(requests)
        seen.extend(request.messages[-1]["content"] for request in asked)
        return answer(self, asked)

    monkeypatch.setattr(HfEngine, "answer", noted)
    return seen


def rows(lake: Lake, recipe: FactoryRecipe) -> list[dict[str, Any]]:
    found = find_answers(lake, recipe, find_prompts(lake, recipe))
    assert found is not None
    return lake.read(found).to_pylist()


def test_a_malformed_verdict_is_null_in_the_table(recipe: FactoryRecipe, change: Any, make: Any) -> None:
    lake = make(change(recipe, components={"judged": VERDICT}, reward=None), f"{POOL},rewards")
    for table in ("rewards", "answer_rewards"):
        found = lake.read(lake.slices(table, label="judged")[-1]).to_pylist()
        blank = [row for row in found if row["detail"] == "no text"]
        assert all(row["value"] == 0 for row in blank) and len(blank) < len(found)
        assert all(row["value"] is None and not row["valid"] for row in found if row not in blank)
        assert all("no verdict" in row["detail"] for row in found if row not in blank)


def test_equal_texts_are_asked_about_once(
    recipe: FactoryRecipe, change: Any, make: Any, questions: list[str], tiny_model: Callable[..., str]
) -> None:
    small = dataclasses.replace(recipe.sampling, n=4, temperature=0.01)  # four times the same sample
    make(change(recipe, sampling=small), "prompts,samples")
    judged = change(recipe, sampling=small, components={"judged": VERDICT}, reward=None)
    make(judged, "rewards")
    assert 0 < len(questions) <= 8 and len(set(questions)) == len(questions)


def test_a_lake_with_translations_behind_the_answers_verifies(translating: FactoryRecipe, make: Any) -> None:
    lake = make(translating, "prompts,answers,translate")
    own, translated = lake.slices("answers")
    assert translated.parents[0] == own.path and len(lake.read(translated)) > len(lake.read(own))
    assert verify(lake).faults == []


def test_who_was_asked_is_part_of_the_key(
    translating: FactoryRecipe, change: Any, make: Any, ending: Callable[[int], ModelSettings]
) -> None:
    spec = {"use": "bilingual", **PLAIN}
    first = change(translating, translate=None, components={"told": spec})
    second = change(first, models={"translator": ending(4)})
    lake = make(first, "prompts,samples,rewards")
    samples = lake.slices("samples")[-1]
    one = find_rewards(lake, first, "told", samples)
    with pytest.raises(Refusal, match="no component told"):
        find_rewards(lake, second, "told", samples)
    make(second, "rewards")
    assert find_rewards(lake, second, "told", samples).path != one.path
    assert find_rewards(lake, first, "told", samples).path == one.path


def test_bilingual_is_the_teachers_own_score_of_the_translation(
    translating: FactoryRecipe, change: Any, make: Any
) -> None:
    from factory.context import Context
    from factory.engines import ScoreRequest

    told = change(translating, translate=None, components={"told": {"use": "bilingual", "form": "sum", **PLAIN}})
    lake = make(told, "prompts,samples,rewards")
    context = Context(told, lake)
    groups = {g["group_id"]: g["prompt_id"] for g in lake.read(lake.slices("groups")[-1]).to_pylist()}
    asked = {p["prompt_id"]: p["messages"] for p in lake.read(lake.slices("prompts")[-1]).to_pylist()}
    scored = [r for r in lake.read(lake.slices("rewards", label="told")[-1]).to_pylist() if r["value"] is not None]
    assert scored
    tokens, engine = context.tokens("teacher"), context.engine("teacher", "score")
    for row in scored[:4]:
        ids = tokens.answer_ids(row["detail"])
        [own] = engine.score([ScoreRequest(1, tokens.prompt_ids(asked[groups[row["group_id"]]]), [ids])])
        assert row["value"] == pytest.approx(sum(own.logprobs[0]), abs=1e-4)
    context.close()


def test_translations_stand_behind_the_answers_with_their_lineage(
    translating: FactoryRecipe, make: Any, questions: list[str]
) -> None:
    lake = make(translating, "prompts,answers,translate")
    found = rows(lake, translating)
    own, made = ([r for r in found if r["method"] == m] for m in ("direct", "translate"))
    assert len(own) == len(made) == 5 and len(found) == 10
    translator = lake.slices("answers")[-1].models["translator"]
    for source, row in zip(own, made, strict=True):
        assert row["derived_from"] == f"{hex_id(source['prompt_id'])}/{source['candidate']}" and row["candidate"] == 1
        assert row["translator_id"] == translator and source["translator_id"] is None
        assert source["text"] in questions and row["teacher"] == source["teacher"]
        assert (row["text"] is None) == (row["finish_reason"] == "length")  # cut: half a translation is none
    assert sum(row["text"] is not None for row in made) >= 3
    tokens = lake.read(lake.slices("answer_tokens")[-1]).to_pylist()
    assert [len(t["token_ids"]) > 0 for t in tokens] == [bool(r["text"]) or r["method"] == "direct" for r in found]


def test_translating_again_asks_nobody(
    translating: FactoryRecipe, make: Any, questions: list[str], hashes: Any
) -> None:
    lake = make(translating, "prompts,answers,translate")
    asked, before = len(questions), hashes(lake)
    make(translating, "prompts,answers,translate")
    assert len(questions) == asked and hashes(lake) == before


def test_answers_that_were_not_translated_yet_are_refused(translating: FactoryRecipe, make: Any) -> None:
    lake = make(translating, "prompts,answers")
    with pytest.raises(Refusal, match=r"not been through translate yet(.|\n)*stages=\[translate\]"):
        rows(lake, translating)


def test_over_a_third_language_the_middle_is_translated(
    translating: FactoryRecipe, change: Any, make: Any, questions: list[str]
) -> None:
    wording = "{source} {target} {text}"
    make(
        change(translating, translate=Translate(via="da", wording=wording, max_tokens=40, prompts=False)),
        "prompts,answers,translate",
    )
    first = [q for q in questions if q.startswith("English Danish")]
    second = [q for q in questions if q.startswith("Danish its language")]
    assert len(first) >= 4 and len(second) <= len(first)


def test_prompts_are_translated_for_the_teacher_alone(
    translating: FactoryRecipe, change: Any, make: Any, questions: list[str]
) -> None:
    both = change(translating, translate=Translate(wording="{text}", max_tokens=60))
    lake = make(both, "prompts,answers")
    prompts = lake.read(find_prompts(lake, both)).to_pylist()
    assert sum(row["teacher_messages"] is not None for row in prompts) >= 3
    for row in prompts:
        if row["split"] == "held_out":
            assert row["teacher_messages"] is None and row["messages"][0]["content"] not in questions
        elif row["teacher_messages"]:
            assert row["teacher_messages"][0]["content"] in questions  # the teacher was asked so
    assert lake.slices("prompts")[0].path != find_prompts(lake, both).path
    assert find_prompts(lake, translating).path == lake.slices("prompts")[0].path  # without: as they were
    assert "en" in {r["language"] for r in lake.read(lake.slices("answers")[-1]).to_pylist()}


def test_the_student_restates_and_the_check_is_kept(translating: FactoryRecipe, change: Any, make: Any) -> None:
    restated = Rephrase(
        wording="{answer}", max_tokens=40, check={"use": "similarity", "metric": "chrf", "to": "answers"}
    )
    both = change(translating, rephrase=restated)
    lake = make(both, "prompts,answers,translate,rephrase")
    found = rows(lake, both)
    assert [r["method"] for r in found[:3]] == ["direct", "translate", "rephrase"]
    checks = [r["check_score"] for r in found if r["method"] == "rephrase" and r["text"]]
    assert checks and all(0 <= c <= 1 for c in checks)
    assert all(r["check_score"] is None for r in found if r["method"] != "rephrase" or not r["text"])


def test_a_judge_without_a_verdict_leaves_the_check_null(translating: FactoryRecipe, change: Any, make: Any) -> None:
    check = {"use": "judge", "mode": "verdict", "to": "answers", "wording": "{answer} {reference}", "max_tokens": 5}
    both = change(translating, translate=None, rephrase=Rephrase(wording="{answer}", max_tokens=40, check=check))
    lake = make(both, "prompts,answers,rephrase")
    made = [r for r in rows(lake, both) if r["method"] == "rephrase"]
    assert len(made) == 5 and all(r["check_score"] is None for r in made if (r["text"] or "").strip())


def test_co_teachers_answer_too_and_only_the_new_one_is_asked(
    translating: FactoryRecipe, change: Any, make: Any, questions: list[str], tiny_model: Callable[..., str]
) -> None:
    alone = change(translating, translate=None)
    make(alone, "prompts,answers")
    asked = len(questions)
    models = {"second": ModelSettings(path=tiny_model("llama", seed=9))}
    two = change(alone, models=models, co_teachers=["second"], components={"agreed": {"use": "agreement"}})
    lake = make(two, f"{POOL},rewards")
    assert len(questions) == asked + 5
    found = rows(lake, two)
    assert len(found) == 10 and len({r["teacher"] for r in found}) == 2 and {r["method"] for r in found} == {"direct"}
    details = {r["detail"] for r in lake.read(lake.slices("rewards", label="agreed")[-1]).to_pylist()}
    assert "0 of 2" in details  # the share of both that agrees


@pytest.mark.parametrize("by", ["co_teachers", "scorer"])
def test_answers_of_one_teacher_beside_scores_of_another_are_said(
    recipe: FactoryRecipe, change: Any, make: Any, by: str, tiny_model: Callable[..., str], capsys: Any
) -> None:
    other = tiny_model("llama", seed=9)
    if by == "co_teachers":
        two = change(recipe, models={"second": ModelSettings(path=other)}, co_teachers=["second"])
    else:
        spec = {"use": "teacher_loglik", "scorer": "second"}
        two = change(recipe, scorers={"second": Scorer(path=other)}, components={"loglik": spec})
    make(change(two, reward=None), f"{POOL},scores")
    assert "two teachers leave a lasting bias" in capsys.readouterr().out
    with pytest.raises(Refusal, match="two teachers"):
        make(change(two, strict=True, reward=None), "scores")
    make(change(recipe, strict=True, lake=recipe.lake + "2"), f"{POOL},scores")  # one teacher: nothing to say
    assert "two teachers" not in capsys.readouterr().out


def test_derived_answers_are_not_compared_with_unless_named(translating: FactoryRecipe, change: Any, make: Any) -> None:
    components = {
        "own": {"use": "similarity", "metric": "exact", "to": "answers"},
        "translated": {"use": "similarity", "metric": "exact", "to": "answers", "method": "translate"},
    }
    lake = make(change(translating, components=components), f"{POOL},translate,rewards")
    for label, method in (("own", "direct"), ("translated", "translate")):
        answers = rows(lake, translating)
        values = lake.read(lake.slices("answer_rewards", label=label)[-1], ["value"]).column(0).to_pylist()
        same = [v for v, r in zip(values, answers, strict=True) if r["method"] == method and (r["text"] or "").strip()]
        assert same and set(same) == {1.0}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"components": {"j": {"use": "judge", "by": "critic"}}}, "no model named 'critic'"),
        ({"components": {"b": {"use": "bilingual"}}, "models": {}, "translate": None}, "no model named 'translator'"),
        ({"co_teachers": ["translater"]}, "did you mean 'translator'"),
        ({"models": {"translator": ModelSettings(path="x", endpoint="e")}}, "behind the endpoint 'e'"),
        ({"rephrase": Rephrase(check={"use": "fluency"})}, "reads scores of the pool"),
        ({"rephrase": Rephrase(wording="say it")}, r"rephrase.wording: the wording has no \{answer\}"),
        ({"translate": Translate(wording="{tekst}")}, "did you mean 'text'"),
        ({"teacher": None, "components": {"j": {"use": "judge"}}}, "has no teacher"),
    ],
)
def test_who_cannot_be_asked_is_refused_before_any_work(
    translating: FactoryRecipe, change: Any, make: Any, values: dict[str, Any], said: str
) -> None:
    recipe = change(translating, **values)
    with pytest.raises(Refusal, match=said):
        make(recipe, "prompts,samples,rewards")
    assert not Lake.open(recipe.lake).slices("prompts")
