"""The two models' folders as text: configuration and tokenizer, no weights.

Reads words.py, writes nothing (files.py does). The head size is 32: vLLM on a CPU refuses smaller ones."""

from __future__ import annotations

from typing import Any

from data.demo.words import vocabulary

PAD, END, UNKNOWN, SEPARATOR = "<pad>", "<end>", "<unk>", "<sep>"
SPECIAL = (PAD, END, UNKNOWN, SEPARATOR)
HEAD_SIZE = 32
HEADS = {"teacher": 3, "student": 2}
CONTEXT = 64

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<sep> ' + message['content'] + ' <end>' }}"
    "{% else %}{{ message['content'] + ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<sep>' }}{% endif %}"
)
"""A prompt is the question's words and the separator; an answer is its words and the end."""


def folder(name: str) -> dict[str, Any]:
    """File name → JSON content of the folder of `teacher` or `student`; transformers and vLLM read it."""
    return {
        "config.json": _config(HEADS[name]),
        "generation_config.json": {"eos_token_id": SPECIAL.index(END), "pad_token_id": SPECIAL.index(PAD)},
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": _tokenizer_config(),
    }


def _config(heads: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(SPECIAL) + len(vocabulary()),
        "hidden_size": HEAD_SIZE * heads,
        "intermediate_size": 2 * HEAD_SIZE * heads,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": HEAD_SIZE,
        "max_position_embeddings": CONTEXT,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": SPECIAL.index(END),
        "pad_token_id": SPECIAL.index(PAD),
        "dtype": "float32",
    }


def _tokenizer() -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": place, "content": token, **flags} for place, token in enumerate(SPECIAL)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: place for place, word in enumerate((*SPECIAL, *vocabulary()))},
            "unk_token": UNKNOWN,
        },
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": END,
        "unk_token": UNKNOWN,
        "sep_token": SEPARATOR,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
