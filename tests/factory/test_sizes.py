"""Sizes that an estimate takes where no hub is asked: what transformers counts of these architectures, whose shapes are public."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from data.command import CONF
from factory.sizes import PARAMETERS

MISTRAL = {"intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "mistralai/Mistral-7B-v0.1": ("Mistral", {"vocab_size": 32000, "hidden_size": 4096, **MISTRAL}),
    "mistralai/Mistral-7B-Instruct-v0.3": ("Mistral", {"vocab_size": 32768, "hidden_size": 4096, **MISTRAL}),
    "meta-llama/Llama-2-7b-chat-hf": (
        "Llama",
        {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    ),
    "meta-llama/Llama-2-13b-chat-hf": (
        "Llama",
        {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
    ),
    "meta-llama/Llama-2-70b-chat-hf": (
        "Llama",
        {
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
        },
    ),
    "google/gemma-3-27b-it": (  # its part that reads text; head and embedding are one
        "Gemma3Text",
        {
            "vocab_size": 262208,
            "hidden_size": 5376,
            "intermediate_size": 21504,
            "num_hidden_layers": 62,
            "num_attention_heads": 32,
            "num_key_value_heads": 16,
            "head_dim": 128,
        },
    ),
    "AI-Sweden-Models/gpt-sw3-6.7b-v2-instruct": (
        "GPT2",
        {"vocab_size": 64000, "n_embd": 4096, "n_layer": 32, "n_head": 32, "n_positions": 2048},
    ),
    "bigscience/bloomz-7b1": ("Bloom", {"vocab_size": 250880, "hidden_size": 4096, "n_layer": 30, "n_head": 32}),
}


@pytest.mark.parametrize("path", PARAMETERS)
def test_a_known_size_is_what_transformers_counts(path: str) -> None:
    import torch
    import transformers

    name, fields = SHAPES[path]
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{name}Config")(**fields))
    assert PARAMETERS[path] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("file", sorted((CONF / "model").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_model_that_runs_here_has_a_known_size(file: Any) -> None:
    told = OmegaConf.load(file)
    assert ("endpoint" in told) != (told.path in PARAMETERS)
