"""Samples of a model by vLLM, with the μ that it records: `vllm_measuring.py FOLDER DTYPE`, in vLLM's environment.

Prints one line of JSON. Reads docs/examples/prompts.jsonl."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from data.config import ModelSettings
from factory.config import VllmSettings
from factory.engines import GroupRequest, TokenSampling
from factory.engines.tokens import Tokens
from factory.engines.vllm import VllmEngine

PROMPTS, SAMPLES, TOKENS, TEMPERATURE = 16, 4, 32, 0.7


def main(folder: str, dtype: str) -> None:
    """Draw the groups and print them."""
    model = ModelSettings(path=folder, dtype=dtype)
    tokens = Tokens.open(model, Path(folder))
    lines = Path("docs/examples/prompts.jsonl").read_text(encoding="utf-8").splitlines()[:PROMPTS]
    prompts = [tokens.prompt_ids([{"role": "user", "content": json.loads(line)["question"]}]) for line in lines]
    sampling = TokenSampling(temperature=TEMPERATURE, max_tokens=TOKENS, stop_ids=tuple(tokens.end))
    requests = [GroupRequest(i, p, range(SAMPLES * i, SAMPLES * (i + 1)), sampling) for i, p in enumerate(prompts)]
    began = time.monotonic()
    with VllmEngine(Path(folder), model, {}, tokens, VllmSettings(max_num_seqs=64, max_model_len=512)) as engine:
        loaded = time.monotonic()
        groups = sorted(engine.generate(requests), key=lambda group: group.group_id)
        drawn = time.monotonic()
    texts = [[(draw.token_ids, draw.logprobs) for draw in group.samples] for group in groups]
    print(json.dumps({"prompts": prompts, "groups": texts, "load": loaded - began, "draw": drawn - loaded}))


if __name__ == "__main__":
    main(*sys.argv[1:])
