"""The judge: what it is asked, and which replies are a verdict. What is not exactly one is null, never 0."""

from __future__ import annotations

from typing import Any

import pytest

from data.refusal import Refusal
from factory.rewards import Batch, Reply, component

ASK = {"prompts": [[{"role": "user", "content": "Hvat er 2+2?"}]], "references": [["fýra"]], "answers": [["four"]]}


def judged(*replies: str | None, text: str = "4", **settings: Any) -> Any:
    told = [[Reply(reply, None if reply is not None else "length") for reply in replies]]
    batch = Batch.of_texts([text], **ASK, replies=told)
    [reward] = component({"use": "judge", **settings}).score(batch)
    return reward


def asked(text: str = "4", lists: dict[str, Any] = ASK, **settings: Any) -> list[str]:
    found = component({"use": "judge", **settings}).questions(Batch.of_texts([text], **lists))
    return [question.messages[0]["content"] for question in found[0]]


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Score: 5", 1.0),
        ("Right, but rude.\n\nScore: 3\n", 0.5),
        ("**Score: 1**", 0.0),
        ("score: 4.", 0.75),
        ("<think>Score: 1</think>\nScore: 5", 1.0),
        ("Score: 6", None),
        ("Score: 0", None),
        ("Score: 4.5", None),
        ("Score: 4/5", None),
        ("Score: 4 of 5", None),
        ("Score: four", None),
        ("Score: 4\nAll the best!", None),
        ("Score: 2\nor rather\nScore: 4", None),
        ("Score: 4\nas I said\nScore: 4", 0.75),
        ("4", None),
        ("The score is 4", None),
        ("", None),
        (None, None),
    ],
)
def test_a_score_is_one_whole_number_on_the_last_line(reply: str | None, value: float | None) -> None:
    reward = judged(reply)
    assert reward.value == value and reward.valid == (value is not None)
    assert value is not None or reward.detail.startswith("no verdict")


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Verdict: yes", 1.0),
        ("So:\nVERDICT: No.", 0.0),
        ("Verdict: maybe", None),
        ("yes", None),
        ("Verdict: yes no", None),
    ],
)
def test_a_verdict_is_yes_or_no(reply: str, value: float | None) -> None:
    assert judged(reply, mode="verdict").value == value


def test_words_and_marker_of_a_verdict_are_settings() -> None:
    own = {"mode": "verdict", "yes": "ja", "no": "nei", "marker": ""}
    assert [judged(r, **own).value for r in ("ja", "Nei.", "yes", "ja ja")] == [1.0, 0.0, None, None]


@pytest.mark.parametrize(
    ("replies", "value"),
    [
        (("Better: A", "Better: B"), 1.0),
        (("Better: B", "Better: A"), 0.0),
        (("Better: A", "Better: A"), 0.5),  # the first is always better: a judge that sees places, not texts
        (("Better: tie", "Better: B"), 0.75),
        (("Better: A", "Better: C"), None),
        (("Better: A", None), None),
    ],
)
def test_a_pair_is_judged_in_both_orders(replies: tuple[str | None, ...], value: float | None) -> None:
    assert judged(*replies, mode="pairwise", to="answers").value == value
    first, second = asked(mode="pairwise", to="answers")
    assert "<answer_a>\n4\n" in first and "<answer_b>\nfour\n" in first
    assert "<answer_a>\nfour\n" in second and "<answer_b>\n4\n" in second


def test_the_judge_is_shown_question_answer_rubric_and_reference(tmp_path: Any) -> None:
    [plain] = asked(rubric="Is it {answer} or kind?")
    assert (
        "Hvat er 2+2?" in plain
        and "<answer>\n4\n" in plain
        and "Is it {answer} or kind?" in plain
        and "fýra" not in plain
    )
    assert "fýra" in asked(to="references")[0] and "four" in asked(to="answers")[0]
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("Only numbers.\n", encoding="utf-8")
    item = component({"use": "judge", "rubric_file": str(rubric)})
    before = item.identity()
    assert "Criterion: Only numbers.\n" in asked(rubric_file=str(rubric))[0]
    rubric.write_text("Only words, please.\n", encoding="utf-8")
    assert item.identity() != before


def test_nobody_is_asked_about_nothing() -> None:
    assert asked(" ") == [] and judged(text=" ").value == 0.0
    none = ASK | {"references": [[]]}
    assert asked(to="references", lists=none) == []
    [reward] = component({"use": "judge", "to": "references"}).score(Batch.of_texts(["4"], **none))
    assert reward.value is None and reward.detail == "no references"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"low": 5, "high": 5}, "the best score is above the worst"),
        ({"mode": "pairwise"}, "pairwise compares with something"),
        ({"mode": "verdict", "yes": "No"}, "yes and no are both"),
        ({"wording": "Is {anwser} right?"}, "did you mean 'answer'"),
        ({"wording": "Is it right?"}, "has no {answer}"),
        ({"max_tokens": 0}, "a reply has at least one"),
        ({"rubric_file": "gone.txt"}, "no file gone.txt"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        component({"use": "judge", **settings})


def test_who_judges_stands_beside_the_settings() -> None:
    assert component({"use": "judge"}).by == "teacher"
    named = component({"use": "judge", "by": "critic"})
    assert named.by == "critic" and named.identity() == component({"use": "judge"}).identity()
