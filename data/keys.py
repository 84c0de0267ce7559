"""Identity: what a shard, a slice, a prompt, a group and a seed are named by. Pure functions of values; no clock, no path."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of a value, hexadecimal.

    >>> digest({"b": 1, "a": [2]}) == digest({"a": [2], "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def id64(*parts: Any) -> int:
    """An unsigned 64-bit id of the parts."""
    return int(digest(list(parts))[:16], 16)


def hex_id(value: int) -> str:
    """How a 64-bit id is shown: 16 hex digits, since JSON loses digits beyond 2^53.

    >>> hex_id(255)
    '00000000000000ff'
    """
    return f"{value:016x}"


def nfc(text: str) -> str:
    """Unicode NFC: two spellings of one letter are one text."""
    return unicodedata.normalize("NFC", text)


def prompt_id(messages: Sequence[Mapping[str, str]]) -> int:
    """Id of a prompt: hash of its NFC messages."""
    return id64("prompt", [[m["role"], nfc(m["content"])] for m in messages])


def sample_seed(pool_seed: int, group_id: int, sample_index: int) -> int:
    """The seed of one sample: the same whatever batch, process or rerun draws it."""
    return id64("sample", pool_seed, group_id, sample_index)
