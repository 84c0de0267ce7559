"""A large pool imported, rewarded and selected from, without a model's weights: `factory_importing.py SAMPLES`.

Writes a JSONL of prompts with eight completions each (text, ids, log-probabilities, a reward), then runs the factory's own stages
over it. Prints one line of JSON: the largest memory above what the process held at its start, libraries included, by stage."""

from __future__ import annotations

import contextlib
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from figures import peak, reset_peak, resident

if TYPE_CHECKING:
    from factory.config import FactoryRecipe

GROUP, TOKENS, WORDS = 8, 16, 60
STAGES = ("prompts", "import", "rewards", "selections")


def main(samples: int) -> None:
    """Make the source, then measure; each stage as `python -m factory` runs it."""
    before, found = resident(), {}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        recipe = recipe_of(Path(folder), samples)
        for stage in STAGES:
            reset_peak()
            began = time.perf_counter()
            run_stage(recipe, stage)
            found[stage] = {"bytes": peak() - before, "seconds": time.perf_counter() - began}
    print(json.dumps({"bytes": max(stage["bytes"] for stage in found.values()), "stages": found}))


def recipe_of(folder: Path, samples: int) -> FactoryRecipe:
    """A recipe whose prompts and pool are one file; two components, a reward that compares within a group."""
    from data.config import ModelSettings, PromptSource
    from factory.config import FactoryRecipe, FactorySettings, ImportSource

    path = folder / "pool.jsonl"
    write_pool(path, samples // GROUP)
    return FactoryRecipe(
        name="large",
        lake=str(folder / "lake"),
        runs=str(folder / "runs"),
        student=ModelSettings(path=write_model(folder / "model"), initial="random"),
        prompts=PromptSource(path=str(path)),
        components={
            "similarity": {"use": "similarity", "metric": "edit"},
            "length": {"use": "length", "unit": "tokens"},
        },
        reward="zscore_group(similarity) + score - 0.01*length",
        factory=FactorySettings(imports={"pool": ImportSource(kind="samples", path=str(path), rewards=["score"])}),
    )


def run_stage(recipe: FactoryRecipe, stage: str) -> None:
    """One stage of the recipe."""
    import dataclasses

    from factory.stages import run

    run(dataclasses.replace(recipe, factory=dataclasses.replace(recipe.factory, stages=[stage])))


def write_pool(path: Path, prompts: int) -> None:
    """A line a prompt, its completions in lists."""
    source = random.Random(0)
    with path.open("w", encoding="utf-8") as lines:
        for number in range(prompts):
            ids = [[source.randrange(2, WORDS) for _ in range(TOKENS)] for _ in range(GROUP)]
            row = {
                "prompt": f"w{number % 50} {number}",
                "references": " ".join(f"w{i}" for i in ids[0]),
                "completion": [" ".join(f"w{i}" for i in own) for own in ids],
                "token_ids": ids,
                "logprobs": [[round(-source.random(), 4) for _ in own] for own in ids],
                "score": [source.random() for _ in ids],
            }
            lines.write(json.dumps(row) + "\n")


def write_model(folder: Path) -> str:
    """Configuration and tokenizer of a model whose weights nobody asks for."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    LlamaConfig(vocab_size=WORDS, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
                num_key_value_heads=1, eos_token_id=1).save_pretrained(folder)  # fmt: skip
    words = Tokenizer(
        models.WordLevel({"<unk>": 0, "<end>": 1, **{f"w{i}": i for i in range(2, WORDS)}}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="<unk>")
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(folder)
    return str(folder)


if __name__ == "__main__":
    main(int(sys.argv[1]))
