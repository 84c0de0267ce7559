"""Alignment across tokenizers: a student's tokens a second on one core, the scorer's encoding measured beside it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from figures import ROOT, Figure, interleaved

CASES = (  # what, student, scorer, words a sample
    ("byte-level BPE from SentencePiece", "byte_level", "llama", 100),
    ("the same, short samples", "byte_level", "llama", 5),
    ("SentencePiece from byte-level BPE", "llama", "qwen", 100),
    ("byte-level BPE from WordPiece, placed by offsets", "byte_level", "bert", 100),
    ("WordPiece from byte-level BPE, walked", "bert", "qwen", 100),
)
SAMPLES = 20_000  # words in all: a shard's worth of tokens


def measure() -> list[Figure]:
    """A figure a pair of families."""
    sys.path.append(str(ROOT / "tests" / "factory"))
    return [_measured(*case) for case in CASES]


def _measured(what: str, student: str, scorer: str, words: int) -> Figure:
    from families import TEXTS, drawn, family

    from factory.alignment import Pieces, align, ends, runs
    from factory.alignment import Reading as Read

    said = " ".join(TEXTS[:4]).split()
    told = [" ".join(said[i % 20 :][:10] * (words // 5))[: words * 6] for i in range(SAMPLES // words)]
    texts, ids = drawn(student, told)
    ours, theirs, tokenizer = Pieces.of(family(student)), Pieces.of(family(scorer)), family(scorer)
    ended, bytes_x = [True] * len(texts), np.array([len(text.encode()) for text in texts])

    def encode() -> Sequence[object]:
        return list(tokenizer(texts, add_special_tokens=False, split_special_tokens=True).encodings)

    encodings = encode()
    read = [[*e.ids, tokenizer.eos_token_id] for e in encodings]
    logprob_m = -np.ones(sum(map(len, read)))

    def aligned() -> None:
        mine = ends(ours, texts, ids, ended)
        its = ends(theirs, texts, read, ended, lambda x: encodings[x].offsets)
        align(Read(read, mine, its, runs(mine, its, bytes_x)), logprob_m)

    count = sum(map(len, ids))
    (_, seconds), (_, encoding) = interleaved({"align": aligned, "encode": lambda: encode() and None}).values()
    beside = f"{count:,} tokens, {count / len(ids):.0f} a sample; the scorer's encoding {count / encoding / 1e6:.2g} M tokens/s"
    return Figure(f"alignment, {what}: CPU", count / seconds / 1e6, 1.0, "M tokens/s", at_least=True, beside=beside)
