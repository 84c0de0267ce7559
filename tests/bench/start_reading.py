"""The start of a run on a large pool, without its model: `start_reading.py [samples]`. Prints one line of JSON.

Makes a lake in a temporary folder first: scalars as large as real ones, samples of one or two tokens. Measured is resolve(), the
advantages' file, and the first group. Reading is warm: the files were written a moment ago."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from figures import peak, reset_peak, resident

from data.config import ModelSettings, PromptSource, Sampling
from data.contract import TABLES
from data.fingerprint import identity
from data.lake import Key, Lake, Slice
from data.pool import Pool, groups_key, prompts_settings, samples_key, scores_key
from trainer.config import Losses, TrainerRecipe, TrainerSettings

GROUP, SHARD_GROUPS = 16, 512  # the factory's own shard
COMPONENTS = {name: {"use": "length", "unit": name} for name in "ab"}


def main(samples: int) -> None:
    """Make the lake, then measure."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe_of(Path(folder))
        shards = make(Lake.open(recipe.lake), recipe, samples)
        print(json.dumps({**measured(recipe, Path(folder) / "advantages.npy"), "shards": shards}))


def measured(recipe: TrainerRecipe, vector: Path) -> dict[str, float]:
    """Seconds of each part, and the largest memory above what was held before."""
    from trainer.pool_reading import pool_source
    from trainer.sources import resolve
    from trainer.stream import Stream

    before, worked = resident(), time.process_time()
    reset_peak()
    times = [time.perf_counter()]
    reading = resolve(recipe)
    assert reading.pool is not None
    times.append(time.perf_counter())
    np.save(vector, reading.pool.advantages.advantages.vector)
    times.append(time.perf_counter())
    next(Stream(pool_source(reading.pool, np.load(vector, mmap_mode="r")), recipe.seed))
    times.append(time.perf_counter())
    parts = dict(zip(("resolve", "save", "first"), np.diff(times).tolist(), strict=True))
    total = {"seconds": times[-1] - times[0], "cpu": time.process_time() - worked}
    return {**total, "bytes": peak() - before, **parts}


def recipe_of(folder: Path) -> TrainerRecipe:
    """A recipe over a model that is a folder of random weights."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    model = folder / "model"
    LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
                num_key_value_heads=1).save_pretrained(model)  # fmt: skip
    words = models.WordLevel({"<unk>": 0, "<end>": 1}, unk_token="<unk>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), eos_token="<end>", unk_token="<unk>")
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(model)
    settings = TrainerSettings(steps=1, losses=Losses(bc=0.0, pt=0.0))
    return TrainerRecipe(
        name="large",
        lake=str(folder / "lake"),
        runs=str(folder / "runs"),
        student=ModelSettings(path=str(model), initial="random"),
        prompts=PromptSource(path="prompts.jsonl"),
        sampling=Sampling(n=GROUP),
        components=COMPONENTS,
        reward="zscore_group(a) + 0.5*b",
        trainer=dataclasses.replace(settings),
    )


def make(lake: Lake, recipe: TrainerRecipe, samples: int) -> int:
    """Prompts, groups, samples, the policy's scores and two components; the number of shards."""
    shards = max(samples // (GROUP * SHARD_GROUPS), 1)
    row = identity(recipe.student, recipe.runs, recipe.seed)
    key = Key(prompts_settings(recipe), contents=tuple(map(str, range(shards))))
    prompts = publish(lake, "prompts", key, prompt_rows)
    groups = publish(lake, "groups", groups_key(recipe, prompts, row, [1]), group_rows)
    pool = Pool(prompts, groups, publish(lake, "samples", samples_key(recipe, groups), sample_rows))
    publish(lake, "scores", scores_key(pool, row["model_id"], 1.0), score_rows)
    for name, spec in COMPONENTS.items():
        publish(lake, "rewards", Key({"spec": spec}, (pool.samples, groups, prompts)), reward_rows, name)
    return shards


def publish(lake: Lake, table: str, key: Key, rows: Any, label: str = "large") -> Slice:
    """One slice, a shard at a time."""
    with lake.publish(table, key, label=label) as publisher:
        for shard in publisher.pending():
            columns = rows(shard.index)
            count = len(next(iter(columns.values())))
            for column in TABLES[table].columns:
                if column.required and column.name not in columns:
                    columns[column.name] = pa.array(["x"] * count)
            publisher.write(shard, pa.table(columns))
        return publisher.finish()


def ids(shard: int) -> np.ndarray:
    """Group ids of a shard, spread as hashes are."""
    numbers = np.arange(shard * SHARD_GROUPS, (shard + 1) * SHARD_GROUPS, dtype=np.uint64)
    return numbers * np.uint64(0x9E3779B97F4A7C15)


def prompt_rows(shard: int) -> dict[str, pa.Array]:
    """Messages of a word."""
    messages = [[{"role": "user", "content": "hvat"}]] * SHARD_GROUPS
    return {
        "prompt_id": pa.array(ids(shard)),
        "messages": pa.array(messages, TABLES["prompts"].schema.field("messages").type),
        "split": pa.array(["train"] * SHARD_GROUPS),
    }


def group_rows(shard: int) -> dict[str, pa.Array]:
    """Prompts of four tokens."""
    one = np.ones(SHARD_GROUPS)
    return {
        "group_id": pa.array(ids(shard)),
        "prompt_id": pa.array(ids(shard)),
        "prompt_token_ids": lists(np.full(4 * SHARD_GROUPS, 3, np.int32), np.full(SHARD_GROUPS, 4)),
        "temperature": pa.array(one.astype(np.float32)),
        "max_tokens": pa.array((2 * one).astype(np.int32)),
        "logprobs_mode": pa.array(["processed"] * SHARD_GROUPS),
        "support": pa.array(["full"] * SHARD_GROUPS),
    }


def keys(shard: int) -> dict[str, pa.Array]:
    """The samples' keys."""
    index = np.tile(np.arange(GROUP, dtype=np.uint8), SHARD_GROUPS)
    return {"group_id": pa.array(np.repeat(ids(shard), GROUP)), "sample_index": pa.array(index)}


def lengths(shard: int) -> np.ndarray:
    """One or two tokens a sample."""
    return np.random.default_rng(shard).integers(1, 3, GROUP * SHARD_GROUPS)


def lists(values: np.ndarray, sizes: np.ndarray) -> pa.ListArray:
    """Flat values as lists."""
    return pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(sizes)).astype(np.int32)), pa.array(values))


def sample_rows(shard: int) -> dict[str, pa.Array]:
    """Samples; one in twenty was cut."""
    sizes, source = lengths(shard), np.random.default_rng([1, shard])
    cut = pa.array((source.random(len(sizes)) < 0.05).astype(np.int32))
    return keys(shard) | {
        "token_ids": lists(source.integers(2, 60, sizes.sum(), dtype=np.int32), sizes),
        "n_tokens": pa.array(sizes.astype(np.int32)),
        "text": pa.array(["x"] * len(sizes)),
        "behaviour_logprobs": logprobs(shard),
        "finish_reason": pa.array(["stop", "length"]).take(cut),
        "origin": pa.array(["student"] * len(sizes)),
    }


def logprobs(shard: int) -> pa.ListArray:
    """The same for engine and trainer."""
    sizes = lengths(shard)
    return lists(-np.random.default_rng([2, shard]).random(sizes.sum(), np.float32) - np.float32(0.01), sizes)


def score_rows(shard: int) -> dict[str, pa.Array]:
    """The policy's own scores."""
    return keys(shard) | {"logprobs": logprobs(shard)}


def reward_rows(shard: int) -> dict[str, pa.Array]:
    """Normal values, all valid."""
    rows = GROUP * SHARD_GROUPS
    values = np.random.default_rng([3, shard]).normal(size=rows)
    return keys(shard) | {"value": pa.array(values), "valid": pa.array(np.ones(rows, bool))}


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 16_000_000)
