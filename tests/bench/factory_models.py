"""Models of SmolLM2-135M's shape with random weights, in folders as the factory reads them, and their tokenizers.

A tokenizer is byte-level BPE with a token for every id: words of two and three letters, with and without a space before, so that
random ids are text. Two kinds cut the same text differently. Nothing is downloaded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from shapes import LAYERS, VOCABULARY, config

SPECIAL = ("<begin>", "<end>", "<pad>")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_model(folder: Path, kind: str = "threes", layers: int = LAYERS) -> str:
    """A model's folder without weights: `initial: random` draws them. Its path."""
    from transformers import PreTrainedTokenizerFast

    config(layers).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_bpe(kind), eos_token="<end>", pad_token="<pad>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %} "
    tokenizer.save_pretrained(folder)
    return str(folder)


def _bpe(kind: str):
    """`threes`: tokens of up to three letters; `twos`: pairs first, and four letters as two pairs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = dict.fromkeys([*SPECIAL, *alphabet])
    merges = []
    for first, second in _merges(kind):
        if len(names) == VOCABULARY:
            break
        if first + second not in names:
            names[first + second] = None
            merges.append((first, second))
    core = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=merges))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL))
    return core


def _merges(kind: str) -> Iterator[tuple[str, str]]:
    pairs = ["".join(pair) for pair in itertools.product(LETTERS, repeat=2)]
    yield from itertools.product(LETTERS, repeat=2)
    if kind == "threes":
        yield from itertools.product(pairs, LETTERS)
        yield from (("Ġ", token) for token in [*LETTERS, *pairs])
        yield from ((f"Ġ{pair}", letter) for pair, letter in itertools.product(pairs, LETTERS))
    yield from itertools.product(pairs, pairs)
