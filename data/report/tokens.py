"""A sample's text cut into the pieces its tokens wrote. Reads a tokenizer's file; asks no network and loads no model.

Refuses nothing: where the tokenizer is not at hand, is another one, or writes another text, there are no pieces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.fingerprint import tokenizer_fingerprint
from data.refusal import Refusal
from data.report.source import Source

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
