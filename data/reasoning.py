"""Where a text's answer begins, behind what its model thought first: the one definition of the answer span. Pure.

A model's *tags* are the two texts around its reasoning, `<think>` and `</think>`. The answer is what follows the last closing tag;
a text without tags is all answer. Where the chat template opens the reasoning itself, the first tag is empty: then every text
begins inside it."""

from __future__ import annotations

from collections.abc import Sequence


def answer_at(text: str, tags: Sequence[str]) -> int | None:
    """The character at which the answer begins, white space behind the tag left out; None: the reasoning has not ended.

    >>> [answer_at(text, ["<think>", "</think>"]) for text in ("<think>hm</think> ja", "ja", "<think>hm")]
    [18, 0, None]
    >>> [answer_at(text, ["", "</think>"]) for text in ("hm</think>ja", "ja")]
    [10, None]
    """
    if not tags:
        return 0
    opening, closing = tags
    before, closed, after = text.rpartition(closing)
    if (opening in after) if opening else not closed:
        return None
    return len(before) + len(closed) + len(after) - len(after.lstrip()) if closed else 0


def answer_part(text: str, tags: Sequence[str]) -> str | None:
    """The answer alone; None where the reasoning has not ended.

    >>> answer_part("<think>English thoughts</think>\\nFøroyskt svar", ["<think>", "</think>"])
    'Føroyskt svar'
    """
    start = answer_at(text, tags)
    return None if start is None else text[start:]
