"""The answer span: what follows the last closing tag, whatever stands in the thought."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.reasoning import answer_at, answer_part

TAGS, OPENED = ["<think>", "</think>"], ["", "</think>"]
TEXT = st.text("abæð <>/\n", max_size=20).filter(lambda text: "think>" not in text)


@pytest.mark.parametrize(("text", "answer"), [
    ("<think>a</think>b", "b"),
    ("<think>a</think>\n\n b \n", "b \n"),
    ("<think>a</think>b</think>c", "c"),
    ("<think>a</think>b<think>c</think>d", "d"),
    ("b", "b"),
    ("  b", "  b"),
    ("<think>a</think>", ""),
    ("<think>a", None),
    ("b<think>a", None),
    ("<think>a</think>b<think>c", None),
])  # fmt: skip
def test_the_answer_follows_the_last_closing_tag(text, answer):
    assert answer_part(text, TAGS) == answer


def test_without_tags_everything_is_the_answer():
    assert answer_part("<think>a</think>b", []) == "<think>a</think>b"


@given(TEXT, TEXT)
def test_thought_and_answer_are_parted_for_both_kinds_of_templates(thought, answer):
    for text, tags in ((f"<think>{thought}</think>{answer}", TAGS), (f"{thought}</think>{answer}", OPENED)):
        start = answer_at(text, tags)
        assert start is not None and text[start:] == answer.lstrip() and answer_part(text, tags) == answer.lstrip()
    assert answer_at(f"<think>{thought}", TAGS) is None and answer_at(thought, OPENED) is None
