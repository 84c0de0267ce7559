"""Scalars of a pool side by side: sample columns and one column a component, by position, their keys compared.

Reads `samples` without its lists, and `rewards`. Writes nothing. Refuses slices that are partitioned otherwise or hold other
samples: a positional join of those misaligns silently."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from data.contract import SAMPLE_KEYS, SAMPLES
from data.manifest import Slice
from data.refusal import Refusal
from data.storage import read_shard

KEYS = SAMPLE_KEYS
SCALARS = ("n_tokens", "finish_reason", "origin")


def read_scalars(
    samples: Slice, rewards: Mapping[str, Slice], *, columns: Sequence[str] = SCALARS, keys: Sequence[str] = KEYS
) -> pa.Table:
    """Keys, `columns` and one float64 column a component label, a row a sample in the slice's order.

    A value whose `valid` is false is null. Texts come as dictionary codes. `keys` are those of answers for answer slices."""
    texts = [
        name for name in columns if name in SAMPLES.schema.names and SAMPLES.schema.field(name).type == pa.string()
    ]
    names = [*keys, *(c for c in columns if c not in keys)]
    for label, slice_ in rewards.items():
        if len(slice_.shards) != len(samples.shards):
            raise Refusal(
                f"component {label} ({slice_.path}) is not partitioned like {samples.path}",
                "run the factory's stage rewards again for this pool",
            )

    def shard(index: int) -> pa.Table:
        part = _read(samples, index, names, texts)
        for label, slice_ in rewards.items():
            part = part.append_column(label, _values(part, slice_, index, samples, keys))
        return part

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as threads:
        parts = list(threads.map(shard, range(len(samples.files))))
    return pa.concat_tables(parts).unify_dictionaries()


def _values(base: pa.Table, slice_: Slice, index: int, samples: Slice, keys: Sequence[str]) -> pa.ChunkedArray:
    rows = _read(slice_, index, [*keys, "value", "valid"])
    if not all(rows[key].equals(base[key]) for key in keys):
        raise Refusal(f"{slice_.path} holds other rows than {samples.path} in shard {index}", "python -m data verify")
    if pc.all(rows["valid"]).as_py() is False:
        return pc.if_else(rows["valid"], rows["value"], None)
    return rows["value"]


def _read(slice_: Slice, index: int, columns: Sequence[str], texts: Sequence[str] = ()) -> pa.Table:
    return read_shard(slice_.files[index], slice_.shards[index].key, columns, texts=texts, threads=False)
