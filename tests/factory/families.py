"""Tokenizers of every family, trained on the spot on the texts of the tests: what alignment must read. No hub is asked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

END = "<end>"
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<s>", END, "<|system|>", "<|user|>", "<|assistant|>"]
TEXTS = [
    "báturin siglir til oynna og sólin skínur, men kvøldið er kalt",
    "hvat eitur høvuðsstaðurin, og hvussu nógv fólk búgva har?",
    "Maðurin á Ísoy segði: «Eg havi 1.234,50 krónur»!",
    "the little boat sails to the big island – it isn't far",
    "Привет, мир! 你好 👩‍👩‍👧 \n\tnext  line ",
    "a\u0301 e\u0301 o\u0308 ﬁ … ½ ＡＢ",
]
EVERY_BYTE = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(vocab: int = 340, normalizer: Any = None) -> Tokenizer:
    """GPT-2, Qwen (which composes letters first), Llama 3."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if normalizer is not None:
        core.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXTS[:5],
        trainers.BpeTrainer(vocab_size=vocab, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return core


def llama() -> Tokenizer:
    """SentencePiece BPE with byte fallback, a ▁ put before every text (Llama 2, Mistral)."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    first = [*SPECIAL, "<unk>", *EVERY_BYTE]
    core.train_from_iterator(TEXTS[:4], trainers.BpeTrainer(vocab_size=400, special_tokens=first, show_progress=False))
    trained = json.loads(core.to_str())["model"]
    whole = Tokenizer(
        models.BPE(
            vocab=trained["vocab"],
            merges=[tuple(pair) for pair in trained["merges"]],
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    whole.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = decoders.Strip(" ", 1, 0)
    whole.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    return _special(whole)


def unigram(fallback: bool) -> Tokenizer:
    """Unigram: with byte fallback and no ▁ put before (as Gemma), or NFKC and <unk> (as T5)."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never" if fallback else "always")
    core.train_from_iterator(
        TEXTS[:4],
        trainers.UnigramTrainer(vocab_size=140, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False),
    )
    vocab = [tuple(pair) for pair in json.loads(core.to_str())["model"]["vocab"]]
    if fallback:
        core = Tokenizer(models.Unigram([*vocab, *((byte, -20.0) for byte in EVERY_BYTE)], 0, True))
        core.normalizer = normalizers.Replace(" ", "▁")
        core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    else:
        core.normalizer = normalizers.NFKC()
        core.decoder = decoders.Metaspace(prepend_scheme="always")
    return _special(core)


def wordpiece(lowercase: bool) -> Tokenizer:
    """BERT: ## before what continues a word, white space lost, [UNK]; lower case without accents, or as written."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.train_from_iterator(
        TEXTS[:4], trainers.WordPieceTrainer(vocab_size=220, special_tokens=["[UNK]"], show_progress=False)
    )
    return _special(core)


def _special(core: Tokenizer) -> Tokenizer:
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return core


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": byte_level,
    "byte_level_short": lambda: byte_level(270),
    "qwen": lambda: byte_level(330, normalizers.NFC()),
    "llama": llama,
    "gemma": lambda: unigram(True),
    "t5": lambda: unigram(False),
    "bert": lambda: wordpiece(False),
    "bert_lower": lambda: wordpiece(True),
}
SPELLING = ("byte_level", "byte_level_short", "qwen", "llama", "gemma")  # no letter is lost


@cache
def family(name: str) -> Any:
    """transformers' tokenizer of a family, with one chat template for all."""
    from transformers import PreTrainedTokenizerFast

    unknown = {"t5": "<unk>", "gemma": "<unk>", "llama": "<unk>", "bert": "[UNK]", "bert_lower": "[UNK]"}.get(name)
    return PreTrainedTokenizerFast(
        tokenizer_object=FAMILIES[name](),
        bos_token="<s>",
        eos_token=END,
        unk_token=unknown,
        additional_special_tokens=SPECIAL[2:],
        chat_template=CHAT,
        clean_up_tokenization_spaces=False,
    )


def two_hundred(kind: str) -> list[str]:
    """200 texts: "made up" of the sentences above, or "real" Faroese ones; skips where those are not there."""
    import pytest

    if kind == "made up":
        return [f"{a} {b} {i}" for i in range(50) for a, b in zip(TEXTS[:4], [*TEXTS[1:4], TEXTS[0]], strict=True)]
    folder = Path(__file__).parents[2] / os.environ.get("FAROESE_TEXT", "../shared/faroese")
    if not (folder / "lid" / "fo.txt").is_file():
        pytest.skip(f"no lid/fo.txt below FAROESE_TEXT ({folder})")
    return (folder / "lid" / "fo.txt").read_text(encoding="utf-8").splitlines()[:200]


def drawn(name: str, texts: Sequence[str], ended: bool = True) -> tuple[list[str], list[list[int]]]:
    """(texts, ids) as a student of that family would have said them: the text is what its ids decode to."""
    tokenizer = family(name)
    asked = {"add_special_tokens": False, "split_special_tokens": True}  # <end> in a text is text
    ids = [list(tokenizer(t, **asked).input_ids) for t in texts]
    if ended:
        ids = [[*own, tokenizer.eos_token_id] for own in ids]
    return [tokenizer.decode(own, skip_special_tokens=True) for own in ids], ids
