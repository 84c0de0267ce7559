"""Parameters of the models in conf/model whose weights are public, for an estimate where no hub can be asked. Reads nothing.

Each is what transformers counts of that architecture without memory; tests/factory/test_sizes.py counts again."""

from __future__ import annotations

PARAMETERS = {
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "meta-llama/Llama-2-7b-chat-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-chat-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-chat-hf": 68_976_648_192,
    "google/gemma-3-27b-it": 27_009_346_304,
    "AI-Sweden-Models/gpt-sw3-6.7b-v2-instruct": 6_714_695_680,
    "bigscience/bloomz-7b1": 7_069_016_064,
}
