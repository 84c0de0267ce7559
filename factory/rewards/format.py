"""Whether the sample has a form: matches a regular expression, is a JSON object, or thinks and answers in tags.

Range: 0 or 1. Cost: microseconds (a careless regular expression can cost far more). Cannot see: whether what stands in
the form is right, and whether the thought has to do with the answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from factory.rewards import Batch, Reward
from factory.rewards.text import compiled, nfc, part_of

VERSION = 1
NEEDS = frozenset({"answer_patterns"})
RANGE = (0.0, 1.0)
_TAG = re.compile(r"</?(?:think|answer)>")
_TAGGED = re.compile(r"\s*<think>(.+?)</think>\s*<answer>(.+?)</answer>\s*", re.DOTALL)
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)


@dataclass(frozen=True)
class Settings:
    """The form, and the part of the text that must have it."""

    kind: Literal["regex", "json", "tags"] = "tags"
    """A regular expression; a JSON object; <think>…</think><answer>…</answer>, each once and not blank."""
    pattern: str | None = None
    """The regular expression; a dot matches newlines."""
    match: Literal["whole", "search"] = "whole"
    """Whether the expression must match the whole part, or be found in it."""
    keys: tuple[str, ...] = ()
    """Keys that the JSON object must have."""
    part: Literal["text", "answer"] = "text"
    """The whole text, or its answer span (after thinking, in <answer> tags, by the prompt's pattern)."""

    def __post_init__(self) -> None:
        if (self.pattern is not None) != (self.kind == "regex"):
            raise ValueError("pattern belongs to `kind: regex`, which needs it")
        if self.keys and self.kind != "json":
            raise ValueError("keys belong to `kind: json`")
        if self.kind == "tags" and self.part == "answer":
            raise ValueError("the tags stand around the answer: `kind: tags` reads the whole text")
        if self.pattern is not None:
            compiled(self.pattern)


def needs(settings: Settings) -> frozenset[str]:
    """The prompts' patterns, where the answer span is tested."""
    return NEEDS if settings.part == "answer" else frozenset()


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """1 or 0 a sample, never missing."""
    rewards = []
    for text, pattern in zip(batch.texts, batch.answer_patterns, strict=True):
        part = part_of(text, settings.part, pattern)
        rewards.append(Reward(float(part is not None and KINDS[settings.kind](part.strip(), settings))))
    return rewards


def _regex(text: str, settings: Settings) -> bool:
    expression = compiled(settings.pattern or "")
    return bool(expression.fullmatch(text) if settings.match == "whole" else expression.search(text))


def _json(text: str, settings: Settings) -> bool:
    fenced = _FENCE.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # RecursionError: ten thousand brackets are no answer either
        return False
    return isinstance(value, dict) and {nfc(key) for key in settings.keys} <= value.keys()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _tags(text: str, settings: Settings) -> bool:
    found = _TAGGED.fullmatch(text)
    return bool(found and len(_TAG.findall(text)) == 4 and found[1].strip() and found[2].strip())


KINDS: dict[str, Callable[[str, Settings], bool]] = {"regex": _regex, "json": _json, "tags": _tags}
