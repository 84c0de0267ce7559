"""Components that read the sample's translation: bilingual and back_translation."""

from __future__ import annotations

from typing import Any

import pytest
from sacrebleu.metrics import CHRF

from data.refusal import Refusal
from factory.rewards import Batch, Reply, component


def batch(reply: Reply | None, text: str = "lundin er svartur", **lists: Any) -> Batch:
    return Batch.of_texts([text], languages=["fo"], replies=[[] if reply is None else [reply]], **lists)


def value(use: str, reply: Reply | None, text: str = "lundin er svartur", lists: Any = None, **settings: Any) -> Any:
    [reward] = component({"use": use, **settings}).score(batch(reply, text, **(lists or {})))
    return reward


SCORED = Reply("the puffin is black", None, -6.0, 4)


def test_bilingual_is_the_scorers_log_p_of_the_translation() -> None:
    assert value("bilingual", SCORED).value == -1.5
    assert value("bilingual", SCORED, form="sum").value == -6.0
    assert value("bilingual", SCORED, form="byte").value == pytest.approx(-6 / 19)
    assert value("bilingual", SCORED, floor=-1.0).value == -1.0
    assert value("bilingual", SCORED).detail == "the puffin is black"


@pytest.mark.parametrize("use", ["bilingual", "back_translation"])
@pytest.mark.parametrize(
    ("reply", "text", "why"),
    [
        (None, " ", "no text"),
        (None, "lundin", "not translated"),
        (Reply(None, "length"), "lundin", "no translation (length)"),
        (Reply(" "), "lundin", "no translation (empty)"),
    ],
)
def test_without_a_translation_there_is_no_value(use: str, reply: Reply | None, text: str, why: str) -> None:
    reward = value(use, reply, text, {"answers": [["x"]]} if use == "back_translation" else {})
    assert reward.value is None and not reward.valid and reward.detail == why


def test_a_translation_without_a_score_is_missing() -> None:
    assert value("bilingual", Reply("the puffin")).detail == "the translation was not scored"


def test_back_translation_compares_with_the_teachers_own_words() -> None:
    two = {"answers": [["The puffin is white", "the raven"]]}
    reply = Reply("the puffin is black")
    of = lambda target: CHRF().sentence_score("the puffin is black", [target]).score / 100  # noqa: E731
    assert value("back_translation", reply, lists=two).value == pytest.approx(of("the puffin is white"))
    mean = value("back_translation", reply, lists=two, over="mean")
    assert mean.value == pytest.approx((of("the puffin is white") + of("the raven")) / 2)
    same = {"references": [["The  puffin is BLACK"]]}
    assert value("back_translation", reply, lists=same, to="references").value == 1.0
    assert value("back_translation", reply, lists=same, to="references", casefold=False).value < 1
    assert value("back_translation", reply, lists={"answers": [[]]}).detail == "no answers"


@pytest.mark.parametrize("use", ["bilingual", "back_translation"])
def test_the_translator_is_asked_in_words(use: str) -> None:
    item = component({"use": use, "language": "da"})
    [[question]] = item.questions(batch(None, "<think>hm</think> lundin {target}"))
    told = question.messages[0]["content"]
    assert "from Faroese into Danish" in told and "<text>\nlundin {target}\n</text>" in told
    assert component({"use": use, "wording": "{text}"}).questions(batch(None, "x"))[0][0].messages[0]["content"] == "x"
    assert item.questions(batch(None, " ")) == [[]]
    assert item.by == "translator" and component({"use": use, "by": "teacher"}).by == "teacher"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"wording": "Translate."}, "has no {text}"),
        ({"wording": "{text} to {tongue}"}, "is no place"),
        ({"max_tokens": 0}, "at least one"),
        ({"floor": 1.0}, "at most 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        component({"use": "bilingual", **settings})


def test_a_scorer_is_named_beside_the_settings() -> None:
    assert component({"use": "bilingual", "scorer": "student"}).scorer == "student"
