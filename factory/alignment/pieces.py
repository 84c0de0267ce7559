"""What each id of a tokenizer adds to a text, in bytes: one table a tokenizer, read from its strings and its decoder.

Byte-level BPE spells bytes as letters (GPT-2, Qwen, Llama 3); SentencePiece marks spaces with ▁, in BPE and Unigram alike, and may
fall back to single bytes <0x41> (Llama 2, Mistral, Gemma); WordPiece marks what continues a word with ## (BERT). Reads and writes
no file. Refuses a tokenizer that is not one of the `tokenizers` library: its rules cannot be read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.refusal import Refusal

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Pieces:
    """Bytes by id. Axis v: ids, and one place more for every id beyond the vocabulary (heads are padded)."""

    bytes_v: list[bytes]
    """Empty for special tokens: decoding drops them. A first piece may bring a space that the text does not have."""
    size_v: np.ndarray
    """int64, bytes."""

    @classmethod
    def of(cls, tokenizer: Any) -> Pieces:
        """The table of a transformers tokenizer. Raises Refusal where it has no decoder that can be read."""
        piece = _reader(_decoders(tokenizer))
        vocabulary = tokenizer.get_vocab()
        bytes_v = [b""] * (max(vocabulary.values()) + 2)
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(
            tokenizer.all_special_ids
        )
        for token, id_ in vocabulary.items():
            if id_ not in special:
                bytes_v[id_] = piece(token)
        return cls(bytes_v, np.array([len(b) for b in bytes_v], np.int64))

    def known(self, ids: Sequence[int]) -> Sequence[int]:
        """The ids, those beyond the vocabulary replaced by the last, empty place."""
        last = len(self.bytes_v) - 1
        return ids if max(ids, default=0) <= last else [min(i, last) for i in ids]

    def spelt(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each id."""
        return [self.bytes_v[i] for i in self.known(ids)]


def _decoders(tokenizer: Any) -> list[dict[str, Any]]:
    """The steps of the decoder as the library writes them down; none where tokens are words."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        raise Refusal(
            f"{tokenizer.name_or_path}: {type(tokenizer).__name__} tells no byte offsets of its tokens",
            "save it as a fast tokenizer (tokenizer.json), or score with a model of the student's tokenizer",
        )
    if core.decoder is None:
        return []
    decoder = json.loads(core.decoder.__getstate__())
    return list(decoder["decoders"]) if decoder["type"] == "Sequence" else [decoder]


def _reader(steps: Sequence[dict[str, Any]]) -> Callable[[str], bytes]:
    """token string → bytes. What a decoder does to whole texts (Strip, Fuse, clean-up) is left to `ends`."""
    kinds = {step["type"]: step for step in steps}
    if "ByteLevel" in kinds:
        return _byte_level
    replaced = [
        (s["pattern"]["String"], s["content"]) for s in steps if s["type"] == "Replace" and "String" in s["pattern"]
    ]
    if "Metaspace" in kinds:
        replaced.append((kinds["Metaspace"]["replacement"], " "))
    if "BPEDecoder" in kinds:
        replaced.append((kinds["BPEDecoder"]["suffix"], " "))
    words = not kinds or "WordPiece" in kinds  # joined by spaces
    prefix = kinds["WordPiece"]["prefix"] if "WordPiece" in kinds else None

    def piece(token: str) -> bytes:
        if "ByteFallback" in kinds and (byte := BYTE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        if prefix and token.startswith(prefix):
            return token[len(prefix) :].encode()
        for old, new in replaced:
            token = token.replace(old, new)
        return (" " + token if words else token).encode()

    return piece


def _byte_level(token: str) -> bytes:
    """Bytes of a byte-level token; one with another letter is an added token, in plain text."""
    if all(letter in LETTERS for letter in token):
        return bytes(LETTERS[letter] for letter in token)
    return token.encode()


def _letters() -> dict[str, int]:
    """GPT-2's letter of each byte, turned round: printable bytes stand for themselves, the others from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(hidden)}


LETTERS = _letters()
