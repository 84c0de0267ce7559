"""Reward functions of one's own, in TRL's signature; docs/how-reward.md goes through them."""

from __future__ import annotations

from typing import Any


def few_words(completions: list[list[dict[str, str]]], limit: int = 8, **columns: Any) -> list[float | None]:
    """0 within `limit` words, −1 for each word beyond it; nothing to say of an empty text."""
    texts = [completion[0]["content"].split() for completion in completions]
    return [-float(max(len(words) - limit, 0)) if words else None for words in texts]


def names_it(completions: list[list[dict[str, str]]], references: list[list[str]]) -> list[float | None]:
    """1 where a reference occurs in the text; None where the prompt has none."""
    pairs = zip(completions, references, strict=True)
    return [float(any(r in c[0]["content"] for r in refs)) if refs else None for c, refs in pairs]
