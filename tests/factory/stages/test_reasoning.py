"""Reasoning tags: what is thought earns nothing, a thought without an end has no answer, tokens and scores are the answer's."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from data.config import ModelSettings, PromptSource, Reasoning
from data.pool import find_rewards
from data.refusal import Refusal
from factory.config import ImportSource

TAGS = ["<think>", "</think>"]
ENGLISH = "The capital of the islands is what they ask for, so I have to say the name of the town."
FAROESE = "Høvuðsstaðurin í Føroyum eitur Tórshavn, og har búgva nógv fólk."
PROMPT = "hvat eitur høvuðsstaðurin ?"
COMPONENTS = {
    "language": {"use": "language"},
    "exact": {"use": "similarity", "metric": "exact", "to": "references"},
    "letters": {"use": "length", "unit": "chars"},
    "tokens": {"use": "length", "unit": "tokens"},
    "all_tokens": {"use": "length", "unit": "tokens", "span": "whole"},
    "loglik": {"use": "teacher_loglik", "form": "token"},
    "sum": {"use": "teacher_loglik"},
    "whole_sum": {"use": "teacher_loglik", "span": "whole"},
}
ANSWERS = {
    "thought and answer": f"<think>{ENGLISH}</think>\n\n{FAROESE}",
    "thought in Faroese, answer in English": f"<think>{FAROESE}</think> {ENGLISH}",
    "answer alone": FAROESE,
    "cut in its thought": f"<think>{ENGLISH}",
    "thinks again": f"<think>{ENGLISH}</think>{FAROESE}<think>Hm",
}


def newest(lake, table, label=None):
    return lake.slices(table, label=label)[-1]


@pytest.fixture
def pool(recipe, change, write_rows, tiny_model):
    """`pool(texts, **changes)`: a recipe that imports a pool of these answers to one prompt, by models with room for them."""

    def of(texts, **changes):
        rows = [{"prompt": PROMPT, "completion": text, "references": [FAROESE], "p": [-1.0]} for text in texts]
        path = write_rows(rows, "pool.jsonl")
        return change(recipe, **{
            "prompts": PromptSource(path=path),
            "imports": {"old": ImportSource(kind="samples", path=path)},
            "components": dict(COMPONENTS),
            "reasoning": Reasoning(student=TAGS),
            "reward": "language + exact",
            **changes,
        })  # fmt: skip

    return of


def rewarded(make, recipe, stages="prompts,import,scores,rewards"):
    """Component → values by the order of the texts; and the lake."""
    lake = make(recipe, stages)
    samples = newest(lake, "samples")
    found = {name: lake.read(find_rewards(lake, recipe, name, samples)).to_pylist() for name in recipe.components}
    return {name: [row["value"] for row in rows] for name, rows in found.items()}, lake, found


def test_the_answer_alone_is_rewarded(pool, make):
    values, lake, rows = rewarded(make, pool(ANSWERS.values()))
    good, english, bare, cut, again = range(5)
    assert values["language"][good] == values["language"][bare] > 0.9 > 0.1 > values["language"][english]
    assert values["exact"][:3] == [1.0, 0.0, 1.0]
    assert values["letters"][good] == values["letters"][bare] == len(FAROESE)
    # no answer: null, never 0, for whatever looks at the answer; what looks at the whole has something to say
    for name in set(COMPONENTS) - {"all_tokens", "whole_sum"}:
        assert values[name][cut] is None and values[name][again] is None, name
        assert rows[name][cut]["valid"] is False and "its reasoning never ends" in rows[name][cut]["detail"]
    assert None not in values["all_tokens"] and None not in values["whole_sum"]
    assert lake.read(newest(lake, "samples"), ["text"]).column(0).to_pylist() == list(ANSWERS.values())  # whole


def test_tokens_and_scores_are_those_of_the_answer(pool, make):
    recipe = pool(ANSWERS.values())
    values, lake, _ = rewarded(make, recipe)
    samples = lake.read(newest(lake, "samples")).to_pylist()
    scores = next(s for s in lake.slices("scores") if s.label.endswith("teacher"))
    scored = lake.read(scores).to_pylist()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(recipe.student.path)
    for place in range(3):
        ids = samples[place]["token_ids"]
        # the shortest tail of tokens that spells the answer: counted from the text, not by the code under test
        answer = ANSWERS[list(ANSWERS)[place]].rpartition("</think>")[2].strip()
        tails = (k for k in range(1, len(ids) + 1) if answer in tokenizer.decode(ids[-k:], skip_special_tokens=True))
        count = next(tails)
        assert values["tokens"][place] == count
        tail = scored[place]["logprobs"][-count:]
        assert values["sum"][place] == pytest.approx(sum(tail), rel=1e-5)
        assert values["loglik"][place] == pytest.approx(sum(tail) / count, rel=1e-5)
        assert values["whole_sum"][place] == pytest.approx(scored[place]["total"], rel=1e-5)
    assert values["tokens"][0] < values["all_tokens"][0] == samples[0]["n_tokens"]


def test_a_teacher_of_another_tokenizer_counts_its_own_tokens_of_the_answer(pool, make, tiny_model):
    teacher = ModelSettings(path=tiny_model("mistral"))
    values, lake, _ = rewarded(make, pool(ANSWERS.values(), teacher=teacher))
    scores = next(s for s in lake.slices("scores") if s.label.endswith("teacher"))
    scored = lake.read(scores).to_pylist()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher.path)
    for place, name in enumerate(list(ANSWERS)[:3]):
        ids = tokenizer(ANSWERS[name], add_special_tokens=False).input_ids
        answer = ANSWERS[name].rpartition("</think>")[2].strip()
        count = (
            next(k for k in range(1, len(ids) + 1) if answer in tokenizer.decode(ids[-k:])) + 1
        )  # and its end of turn
        share = values["sum"][place] / values["loglik"][place]
        assert share == pytest.approx(count, rel=1e-5)
        assert values["whole_sum"][place] <= values["sum"][place] + 1e-3 < 0
    assert {row["alignment"] for row in scored} == {"byte_spans"}


def test_without_tags_the_whole_text_is_judged(pool, make):
    values, _, _ = rewarded(make, pool(ANSWERS.values(), reasoning=Reasoning()))
    assert values["tokens"] == values["all_tokens"] and values["exact"] == [0.0, 0.0, 1.0, 0.0, 0.0]


def test_rewards_under_other_tags_are_other_rewards(pool, make, change):
    recipe = pool(ANSWERS.values())
    _, lake, _ = rewarded(make, recipe)
    other = change(recipe, reasoning=Reasoning())
    with pytest.raises(Refusal, match="no component exact of these settings"):
        find_rewards(lake, other, "exact", newest(lake, "samples"))
    assert rewarded(make, other, "rewards")[0]["exact"][0] == 0.0
    assert rewarded(make, recipe, "rewards")[0]["exact"][0] == 1.0  # both are kept


def test_a_template_that_opens_the_thought_has_no_answer_before_it_ends(pool, make):
    texts = [f"{ENGLISH}</think>{FAROESE}", FAROESE]
    values, _, _ = rewarded(make, pool(texts, reasoning=Reasoning(student=["", "</think>"])))
    assert values["exact"] == [1.0, None]


@pytest.mark.parametrize("copied", [True, False])
def test_the_teachers_reasoning_is_copied_only_where_the_recipe_says_so(recipe, change, make, write_rows, copied):
    rows = [
        {"prompt": PROMPT, "answer": f"<think>{ENGLISH}</think>\n{FAROESE}", "references": [FAROESE]},
        {"prompt": "báturin siglir", "answer": f"<think>{ENGLISH}", "references": [FAROESE]},
    ]
    path = write_rows(rows, "answers.jsonl")
    recipe = change(
        recipe,
        prompts=PromptSource(path=path),
        imports={"theirs": ImportSource(kind="answers", path=path, columns={"completion": "answer"})},
        components={name: COMPONENTS[name] for name in ("language", "exact")},
        reward=None,
        reasoning=Reasoning(teacher=TAGS, copied=copied),
    )
    lake = make(recipe, "prompts,import,answers,samples,rewards")
    tokens = [row["token_ids"] for row in lake.read(newest(lake, "answer_tokens")).to_pylist()]
    from transformers import AutoTokenizer

    read = [AutoTokenizer.from_pretrained(recipe.student.path).decode(ids, skip_special_tokens=True) for ids in tokens]
    assert read == ([row["answer"] for row in rows] if copied else [FAROESE, ""])
    exact = lake.read(newest(lake, "answer_rewards", "exact")).to_pylist()
    assert [row["value"] for row in exact] == [1.0, None]  # the answer alone is judged either way
    assert lake.read(newest(lake, "answers"), ["text"]).column(0).to_pylist() == [row["answer"] for row in rows]


def test_a_teachers_own_scores_are_those_of_its_answer(recipe, change, make):
    """The teacher's answers are random text; any letter of it may stand for the closing tag."""
    recipe = change(
        recipe,
        components={"sum": {"use": "teacher_loglik"}, "all": {"use": "teacher_loglik", "span": "whole"}},
        reward=None,
    )
    lake = make(recipe, "prompts,answers")
    answers = lake.read(newest(lake, "answers")).to_pylist()
    row = next(r for r in answers if r["text"] and len(r["text"]) > 4)
    closing = row["text"][2]
    recipe = change(recipe, reasoning=Reasoning(teacher=["", closing]))
    lake = make(recipe, "answers,samples,scores,rewards")
    values = {
        name: lake.read(newest(lake, "answer_rewards", name), ["value"]).column(0).to_pylist()
        for name in ("sum", "all")
    }
    for answer, inside, whole in zip(answers, values["sum"], values["all"], strict=True):
        assert whole == pytest.approx(math.fsum(answer["logprobs"]), rel=1e-5)
        assert (inside is None) == (closing not in answer["text"])
        assert inside is None or whole < inside <= 0


def test_a_student_is_trained_from_answers_behind_thoughts(pool, make, tiny_model):
    """Two steps over a pool whose rewards are of answers, and probes of the student: it does not think yet, so nothing is exact."""
    from dataclasses import fields

    from data.config import Recipe
    from trainer.config import Losses, Probe, Replay, TrainerRecipe, TrainerSettings
    from trainer.loop import train

    recipe = pool(ANSWERS.values(), teacher=None, reward="exact + 0.1*language",
                  components={name: COMPONENTS[name] for name in ("exact", "language")})  # fmt: skip
    make(recipe, "prompts,import,scores,rewards")
    shared = {
        f.name: getattr(recipe, f.name) for f in fields(Recipe) if f.name not in ("factory", "trainer", "executor")
    }
    train(TrainerRecipe(**shared, trainer=TrainerSettings(
        run="thinker", steps=2, objective="naive", losses=Losses(rl=1, bc=0, pt=0, kl=0), replay=Replay(prompts=1),
        probe=Probe(every=1, split="train", max_tokens=6),
    )))  # fmt: skip
    metrics = [json.loads(line) for line in (Path(recipe.runs) / "thinker" / "metrics.jsonl").read_text().splitlines()]
    # rewards about 1.1, 0, 1.1 and two null ones, which are in no baseline: advantages .37, −.73, .37
    squares = [row["advantage_square"] for row in metrics if "advantage_square" in row]
    assert squares == pytest.approx([0.269, 0.269], abs=0.01)
    assert all(row["probe/exact"] == 0.0 for row in metrics if "probe/exact" in row)


def test_predictions_are_measured_behind_the_thought(recipe, change, make):
    metrics = {
        "letters": {"use": "length", "unit": "chars"},
        "all": {"use": "length", "unit": "chars", "span": "whole"},
    }
    plain = change(recipe, benchmarks={"held": {"metrics": metrics}})
    row = lake_row(make(plain, "prompts,evaluate"))
    said = row["prediction"]
    closing = said[len(said) // 2]
    thinking = change(plain, reasoning=Reasoning(student=["", closing]))
    row = lake_row(make(thinking, "evaluate"))
    assert row["prediction"] == said and dict(row["metrics"])["all"] == len(said)
    assert dict(row["metrics"])["letters"] == len(said.rpartition(closing)[2].lstrip())
    never = change(plain, reasoning=Reasoning(student=["", "</think>"]))
    assert dict(lake_row(make(never, "evaluate"))["metrics"]).get("letters", 0) == 0


def lake_row(lake):
    return lake.read(newest(lake, "evaluations")).to_pylist()[0]


def test_a_tag_that_decoding_drops_is_refused(recipe, change, make):
    with pytest.raises(Refusal, match="is a special token"):
        make(change(recipe, reasoning=Reasoning(student=["<|user|>", "<|assistant|>"])), "prompts,samples")
    with pytest.raises(Refusal, match="is a special token"):
        make(change(recipe, reasoning=Reasoning(teacher=["", "<|assistant|>"])), "prompts,answers")


@pytest.mark.parametrize("tags", [["<think>"], ["<think>", ""], ["x", "x"], ["a", "b", "c"]])
def test_tags_that_mark_nothing_are_refused(tags):
    with pytest.raises(Refusal, match="two different tags"):
        Reasoning(student=tags)
