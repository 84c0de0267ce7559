"""Ids depend on values alone, and a refusal names what was wrong and what is near."""

from __future__ import annotations

import pickle

from data.keys import hex_id, prompt_id, sample_seed
from data.refusal import Refusal, nearest


def test_two_spellings_of_a_letter_are_one_prompt() -> None:
    assert prompt_id([{"role": "user", "content": "\u00e1"}]) == prompt_id([{"content": "a\u0301", "role": "user"}])
    assert prompt_id([{"role": "user", "content": "á"}]) != prompt_id([{"role": "user", "content": "a"}])
    assert prompt_id([{"role": "system", "content": "á"}]) != prompt_id([{"role": "user", "content": "á"}])


def test_ids_fit_64_bits_and_are_pinned() -> None:
    assert hex_id(prompt_id([{"role": "user", "content": "Hvat er klokkan?"}])) == PINNED
    seeds = {sample_seed(0, g, i) for g in range(50) for i in range(20)}
    assert len(seeds) == 1000 and max(seeds) < 2**64


PINNED = "feb5d1878ebd30e9"


def test_a_refusal_survives_pickling_and_prints_two_lines() -> None:
    refusal = pickle.loads(pickle.dumps(Refusal("what", "next")))
    assert str(refusal) == "error: what\n       next: next" and refusal.args == ("what", "next")


def test_a_name_far_from_all_gets_the_list() -> None:
    assert nearest("zzz", ["b", "a"]) == "known: a, b"
