"""What a server's answer says: its text, why it ended, what it is billed as; and whether the model asked for gave it.

Reads bytes, writes nothing. Raises Transient for what is no chat completion; refuses another model's answer."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from data.refusal import Refusal
from factory.engines.api.limits import Transient

DATED = re.compile(
    r"-(\d{4}|\d{6}|\d{8}|\d{4}-\d{2}-\d{2}|00\d)"
)  # gpt-4-0613, …-2024-08-06, …-20241022, gemini-1.5-pro-002


@dataclass(frozen=True)
class Reply:
    """One answer. `text` is null where the model refused or a filter cut it: no answer, not an empty one."""

    text: str | None
    finish_reason: str | None
    served_by: str | None
    prompt_tokens: int | None
    answer_tokens: int | None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None


def read_reply(raw: bytes, asked: str, alias: str | None) -> Reply:
    """The one choice of a chat completion."""
    try:
        body = json.loads(raw)
        choice, usage = body["choices"][0], body.get("usage") or {}
        message, served = choice["message"], body["model"]
        content, reason = message.get("content"), choice.get("finish_reason")
        if not isinstance(served, str) or not isinstance(content, str | None) or not isinstance(reason, str | None):
            raise TypeError("content, finish_reason or model is no text")
        tokens = [_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")]
        ids, logprobs = _ids(choice.get("token_ids")), _logprobs(choice.get("logprobs"))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise Transient(f"no chat completion but {_start(raw)}", billed=True) from error
    if not is_model(served, asked, alias):
        raise Refusal(
            f"{asked} was asked, {_plain(served)[:80]} answered",
            f"name that one as path, or factory.endpoints.NAME.aliases={{'{asked}': NAME}} if both are one model",
        )
    filtered = reason == "content_filter" or message.get("refusal") is not None
    reason = "refusal" if message.get("refusal") is not None else reason
    text = None if filtered or content is None else _plain(content).strip()
    named = asked if served == alias else served
    if text is None:  # what was cut is no answer, and neither are its tokens
        return Reply(None, reason, named, tokens[0], tokens[1])
    if ids is not None and logprobs is not None and len(ids) != len(logprobs):  # one of them is of another answer
        ids = logprobs = None
    return Reply(text, reason, named, tokens[0], tokens[1], ids, logprobs)


def is_model(served: str, asked: str, alias: str | None) -> bool:
    """Whether a server's name for the model is the one asked for, a dated form of it, or its alias.

    >>> [is_model(name, "gpt-4", None) for name in ("gpt-4", "gpt-4-0613", "gpt-4-32k", "gpt-4o", "gpt-4-turbo-2024-04-09")]
    [True, True, False, False, False]
    >>> is_model("mistral-large-2411", "mistral-large-latest", None)
    True
    """
    base = asked.removesuffix("-latest")
    dated = served.startswith(base) and DATED.fullmatch(served.removeprefix(base)) is not None
    return served in (asked, alias) or dated


def _count(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise TypeError("usage is no count")
    return value


def _logprobs(given: Any) -> list[float] | None:
    """log p of the answer's tokens; None unless every token has a finite one."""
    if not given or not given.get("content"):
        return None
    values = [float(token["logprob"]) for token in given["content"]]
    return values if all(math.isfinite(v) for v in values) else None


def _ids(given: Any) -> list[int] | None:
    return given if isinstance(given, list) and all(isinstance(i, int) and 0 <= i < 2**31 for i in given) else None


def _plain(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON may hold and UTF-8 may not."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _start(raw: bytes) -> str:
    text = " ".join(raw[:200].decode("utf-8", "replace").split())
    return repr(text[:80]) if text else "an empty body"
