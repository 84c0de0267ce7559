"""What is known of a sample's tokens: the text that each wrote, the teacher's scores, rewards by token.

Reads a tokenizer's file, `scores` and `rewards`; asks no network and loads no model.

Refuses nothing: where the tokenizer is not at hand, is another one, or writes another text, there are no pieces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.fingerprint import tokenizer_fingerprint
from data.inspection import Judged, rows_at
from data.manifest import Slice
from data.refusal import Refusal
from data.report.source import Source, policy_of

FILE = "tokenizer.json"


def tokenizer_of(source: Source, model_id: str | None) -> Any:
    """A model's tokenizer, by its fingerprint: of its run's folder, the folder its name is, or another run's. None: not at hand."""
    model = source.models.get(model_id or "", {})
    name, wanted = str(model.get("name") or ""), model.get("tokenizer")
    if not name or wanted is None:
        return None
    run = source.runs_folder / name.removeprefix("run:") / "final"
    others = sorted(source.runs_folder.glob("*/final"))
    for folder in dict.fromkeys([run if name.startswith("run:") else Path(name), *others]):
        if (folder / FILE).is_file() and _fingerprint(folder) == wanted:
            import tokenizers

            return tokenizers.Tokenizer.from_file(str(folder / FILE))
    return None


def _fingerprint(folder: Path) -> str | None:
    try:
        return tokenizer_fingerprint(folder)
    except (Refusal, OSError):
        return None


def pieces_of(tokenizer: Any, ids: Sequence[int], text: str) -> list[tuple[str, slice]] | None:
    """(text, which tokens wrote it) in order, which together are `text`; None where they are not.

    Bytes of one letter may lie in several tokens, which then are one piece. The last piece is empty where end tokens follow."""
    from tokenizers.decoders import DecodeStream

    stream, found, first = DecodeStream(skip_special_tokens=True), [], 0
    for place, token in enumerate(ids):
        try:
            piece = stream.step(tokenizer, token)
        except Exception:  # the package raises nothing narrower, e.g. for bytes that are no UTF-8
            return None
        if piece is not None:
            found.append((piece, slice(first, place + 1)))
            first = place + 1
    if "".join(piece for piece, _ in found) != text:
        return None
    return [*found, *([("", slice(first, len(ids)))] if first < len(ids) else [])]


def teacher_scores(source: Source, judged: Judged) -> Slice | None:
    """The newest scores of exactly these samples by another model than the policy; the pool's own teacher comes first."""
    policy, samples = policy_of(judged.pool), judged.pool.samples
    found = [
        s for s in source.lake.slices("scores")
        if samples.path in s.parents and s.models.get("scorer") not in (None, policy) and len(s.shards) == len(samples.shards)
    ]  # fmt: skip
    return max(found, key=lambda s: (s.label == f"{judged.label}-teacher", s.created), default=None)


def token_rewards(source: Source, judged: Judged, ordinals: np.ndarray) -> tuple[str | None, list[np.ndarray | None]]:
    """The first component with values by token, and v_t minus the mean of the group's v for each sample (MATH §3)."""
    ends = np.append(judged.starts[1:], len(judged.values))
    groups = np.searchsorted(judged.starts, ordinals, "right") - 1
    members = np.unique(np.concatenate([np.arange(judged.starts[g], ends[g]) for g in groups]))
    for label, slice_ in sorted(judged.pool.rewards.items()):
        if not any(row["values"] for row in rows_at(source.lake, slice_, ordinals, ["values"])):
            continue
        rows = rows_at(source.lake, slice_, members, ["values"])
        held = {m: _array(row["values"]) for m, row in zip(members.tolist(), rows, strict=True)}
        spans = zip(ordinals.tolist(), judged.starts[groups].tolist(), ends[groups].tolist(), strict=True)
        return label, [centred([held[m] for m in range(first, end)], at - first) for at, first, end in spans]
    return None, [None] * len(ordinals)


def centred(group: Sequence[np.ndarray | None], place: int) -> np.ndarray | None:
    """v_t − v̄ of one sample of a group; v̄ is the mean over all tokens of the group that have a value. NaN: it has none.

    >>> centred([np.array([1.0, 3.0]), None, np.array([2.0, np.nan])], 0)
    array([-1.,  1.])
    """
    values = group[place]
    held = [row[~np.isnan(row)] for row in group if row is not None]
    return None if values is None else values - np.concatenate(held).mean() if any(len(row) for row in held) else None


def _array(values: Sequence[float | None] | None) -> np.ndarray | None:
    return np.array([math.nan if v is None else v for v in values]) if values else None
