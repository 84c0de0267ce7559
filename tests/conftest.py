"""Fixtures shared by all tests: tiny random models with tokenizers trained on the spot. No model hub is asked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SPECIAL = ["<s>", "<end>", "<|system|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXT = [
    "the little boat sails to the big island and the sun shines",
    "what is the capital of the country, and how many people live there?",
    "báturin siglir til oynna og sólin skínur, men kvøldið er kalt",
    "hvat eitur høvuðsstaðurin, og hvussu nógv fólk búgva har?",
    "0123456789 + - = . : ; ! ? æ ø á ð í ó ú ý",
]
# the weights are drawn wide, so that attention really looks at its context and a wrong mask shows in log π
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.15}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 512}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", GROUPED),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 8}),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": 6}),
    "gemma3": (
        "Gemma3TextConfig",
        {**GROUPED, "head_dim": 8, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.15}),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.15}),
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`tiny_model(family, tmp_path=None, **overrides)`: the folder of a random model with its tokenizer.

    Families: llama, qwen3, mistral, gemma3, gpt2, bloom. Overrides are configuration fields, `seed`, and what the
    tokenizer is trained on (`text`, a list) and grows to (`tokens`). Without `tmp_path` the folder is shared by the session (do not
    write into it); with it the test gets its own copy."""
    root = tmp_path_factory.mktemp("models")

    def make(family: str, tmp_path: Path | None = None, **overrides: Any) -> str:
        digest = hashlib.sha256(json.dumps(overrides, sort_keys=True).encode()).hexdigest()[:8]
        folder = root / f"{family}-{digest}"
        if not folder.exists():
            _write_model(family, folder, dict(overrides))
        return str(folder if tmp_path is None else shutil.copytree(folder, tmp_path / folder.name, dirs_exist_ok=True))

    return make


WHOLE_BODIES = """
import localbucket
from http import HTTPStatus

handler = localbucket.S3Handler
read_body = handler._read_body


def whole_body(self):
    body, length = read_body(self), self.headers.get("Content-Length")
    if length is not None and "aws-chunked" not in self.headers.get("Content-Encoding", "") and len(body) < int(length):
        raise localbucket.S3Error(HTTPStatus.BAD_REQUEST, "IncompleteBody", "fewer bytes than Content-Length says")
    return body


handler._read_body = whole_body
localbucket.main()
"""


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Endpoint and folder of a real server that speaks S3 (conditional put, multipart), with the bucket `lakes`.

    localbucket 1.2.1 keeps the part of a body that came before a connection was cut; S3 keeps nothing, and so does WHOLE_BODIES."""
    root = tmp_path_factory.mktemp("s3")
    (root / "lakes").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", WHOLE_BODIES, "--port", str(port), str(root)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", root
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def s3(s3_server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address of no lake yet, with the environment that a user would set and a folder of copies of its own."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server[0])
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-5f1c")
    monkeypatch.setenv("GRPO_KD_CACHE", str(tmp_path / "copies"))
    return f"s3://lakes/{tmp_path.name}"


def _write_model(family: str, folder: Path, overrides: dict[str, Any]) -> None:
    import torch
    import transformers

    text, marked = overrides.pop("text", TEXT), family in ("mistral", "gemma3")
    tokens = overrides.pop("tokens", 360 if marked else 300)
    tokenizer = _sentencepiece_like(text, tokens) if marked else _byte_level(text, tokens)
    name, fields = CONFIGS[family]
    seed = overrides.pop("seed", 0)
    ids = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    config = getattr(transformers, name)(**{**fields, **ids, **overrides})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _byte_level(text: list[str], tokens: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        text,
        trainers.BpeTrainer(vocab_size=tokens, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return _wrapped(core)


def _sentencepiece_like(text: list[str], tokens: int) -> Any:
    """Words marked with ▁, bytes where a character is unknown: decoding is not a plain join, as with Llama 2 and Gemma."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    every_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    first = [*SPECIAL, "<unk>", *every_byte]
    core.train_from_iterator(text, trainers.BpeTrainer(vocab_size=tokens, special_tokens=first, show_progress=False))
    trained = json.loads(core.to_str())["model"]
    merges = [tuple(pair) for pair in trained["merges"]]
    whole = Tokenizer(models.BPE(vocab=trained["vocab"], merges=merges, byte_fallback=True, unk_token="<unk>"))
    whole.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    whole.pre_tokenizer = core.pre_tokenizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    whole.decoder = decoders.Sequence(steps)
    return _wrapped(whole)


def _wrapped(core: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="<end>",
        additional_special_tokens=SPECIAL[2:],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
