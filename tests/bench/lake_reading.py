"""The lake's speed, in a process of its own: `lake_reading.py advantages|streaming`. Prints one line of JSON.

Both make a lake in a temporary folder first; only the reading is measured, after one warm-up."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from figures import peak, reset_peak, resident

from data.lake import Key, Lake, Slice

GROUP, SHARDS = 16, 16
SAMPLES = 16_000_000
STREAM_SAMPLES, STREAM_LENGTH = 64_000, 256
REPETITIONS = 5
REWARD = "zscore_group(a) + 0.5*b - 0.2*c"


def main(kind: str) -> None:
    """Measure one kind."""
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"advantages": advantages, "streaming": streaming}[kind](Lake.open(folder))))


def advantages(lake: Lake) -> dict[str, float]:
    """Seconds (median) and peak memory of three components to one vector, normalised per group."""
    from data.pool_advantages import pool_advantages

    before = resident()
    samples = _samples(lake, SAMPLES, length=1, logprobs=False)
    rewards = {name: _component(lake, samples, name, seed) for seed, name in enumerate("abc")}
    pool_advantages(samples, rewards, REWARD)
    taken = []
    reset_peak()
    for _ in range(REPETITIONS):
        begin = time.perf_counter()
        found = pool_advantages(samples, rewards, REWARD)
        taken.append(time.perf_counter() - begin)
        assert len(found.advantages.vector) == SAMPLES
        del found
    return {"seconds": statistics.median(taken), "bytes": peak() - before, "samples": SAMPLES}


def streaming(lake: Lake) -> dict[str, float]:
    """Tokens a second through `zip_groups` with a scorer beside, shuffled; bytes a token of the two log-probability streams."""
    from data.zip import row_groups, shuffled, zip_groups

    samples = _samples(lake, STREAM_SAMPLES, length=STREAM_LENGTH, logprobs=True)
    scores = _scores(lake, samples)
    order = shuffled(len(row_groups(samples)), seed=0, epoch=0)
    taken = []
    for _ in range(REPETITIONS + 1):
        begin, tokens = time.perf_counter(), 0
        columns = ["token_ids", "behaviour_logprobs"]
        for part in zip_groups(samples, {"teacher": (scores, ["logprobs"])}, columns=columns, order=order):
            tokens += len(part["token_ids"].combine_chunks().values)
        taken.append(time.perf_counter() - begin)
    stored = sum(_column_bytes(f, "behaviour_logprobs") for f in samples.files) + sum(
        _column_bytes(f, "logprobs") for f in scores.files
    )
    return {
        "tokens_per_second": tokens / statistics.median(taken[1:]),
        "bytes_per_token": stored / tokens,
        "tokens": tokens,
    }


def _samples(lake: Lake, count: int, *, length: int, logprobs: bool) -> Slice:
    key = Key({"bench": count}, contents=tuple(str(i) for i in range(SHARDS)))
    with lake.publish("samples", key, label="bench") as publisher:
        for shard in publisher.pending():
            rows = count // SHARDS
            source = np.random.default_rng(shard.index)
            ids = np.repeat(np.arange(rows // GROUP, dtype=np.uint64) + shard.index * rows, GROUP)
            table = {
                "group_id": pa.array(ids),
                "sample_index": pa.array(np.tile(np.arange(GROUP, dtype=np.uint8), rows // GROUP)),
                "token_ids": _lists(source.integers(0, 50_000, rows * length, dtype=np.int32), length),
                "n_tokens": pa.array(np.full(rows, length, np.int32)),
                "text": pa.array(["x"]).take(pa.array(np.zeros(rows, np.int32))),
                "finish_reason": pa.array(["stop", "length"]).take(
                    pa.array((source.random(rows) < 0.05).astype(np.int32))
                ),
                "origin": pa.array(["student"]).take(pa.array(np.zeros(rows, np.int32))),
            }
            if logprobs:
                table["behaviour_logprobs"] = _lists(_logprobs(source, rows * length), length)
            publisher.write(shard, pa.table(table))
        return publisher.finish()


def _logprobs(source: np.random.Generator, count: int) -> np.ndarray:
    """As models give them: mostly near 0, with a long tail."""
    return (-source.exponential(1.0, count) * source.random(count) ** 3).astype(np.float32)


def _lists(values: np.ndarray, length: int) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, length, dtype=np.int32)), pa.array(values))


def _component(lake: Lake, samples: Slice, name: str, seed: int) -> Slice:
    with lake.publish("rewards", Key({"bench": name}, (samples,)), label=name) as publisher:
        for shard in publisher.pending():
            keys = shard.parent_rows(["group_id", "sample_index"])
            value = np.random.default_rng([seed, shard.index]).normal(size=keys.num_rows)
            rows = keys.append_column("value", pa.array(value)).append_column(
                "valid", pa.array(np.ones(len(value), bool))
            )
            publisher.write(shard, rows)
        return publisher.finish()


def _scores(lake: Lake, samples: Slice) -> Slice:
    with lake.publish("scores", Key({"bench": 1}, (samples,)), label="teacher") as publisher:
        for shard in publisher.pending():
            rows = shard.parent_rows(["group_id", "sample_index"])
            values = _logprobs(np.random.default_rng([9, shard.index]), rows.num_rows * STREAM_LENGTH)
            rows = rows.append_column("scorer", pa.array(["t"] * rows.num_rows)).append_column(
                "logprobs", _lists(values, STREAM_LENGTH)
            )
            publisher.write(shard, rows)
        return publisher.finish()


def _column_bytes(path: Path, column: str) -> int:
    import pyarrow.parquet as pq

    metadata = pq.ParquetFile(path).metadata
    groups = (metadata.row_group(g) for g in range(metadata.num_row_groups))
    chunks = (group.column(c) for group in groups for c in range(group.num_columns))
    return sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema.startswith(f"{column}."))


if __name__ == "__main__":
    main(sys.argv[1])
