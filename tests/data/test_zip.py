"""Streams of whole groups: every row once, in any order, beside the right rows of the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from data import Key, Lake, Refusal, Slice, storage
from data.zip import row_groups, shuffled, zip_groups

GROUPS, SHARDS = 10, 2


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lake, Slice, Slice, Slice]]:
    """Samples of uneven groups, scores with the same row groups, rewards with others; a row's number is in each."""
    lake = Lake.open(tmp_path_factory.mktemp("zip"))
    sizes = [[(i * 7 + s) % 4 + 1 for i in range(GROUPS)] for s in range(SHARDS)]
    before = storage.TOKEN_ROW_GROUP, storage.SCALAR_ROW_GROUP
    storage.TOKEN_ROW_GROUP, storage.SCALAR_ROW_GROUP = 3, 8
    with lake.publish("samples", Key({}, contents=("a", "b")), label="p") as publisher:
        for shard in publisher.pending():
            n = sum(sizes[shard.index])
            number = [100 * shard.index + i for i in range(n)]
            ids = np.repeat(np.arange(GROUPS, dtype=np.uint64) + 2**63 + 50 * shard.index, sizes[shard.index])
            rows = {"group_id": ids, "sample_index": [i for k in sizes[shard.index] for i in range(k)]}
            rows |= {
                "token_ids": [[i] for i in number],
                "n_tokens": [1] * n,
                "text": [""] * n,
                "origin": ["student"] * n,
            }
            publisher.write(shard, pa.table(rows | {"seed": number}))
        samples = publisher.finish()
    made = []
    for table, column in (("scores", "total"), ("rewards", "value")):
        with lake.publish(table, Key({}, (samples,)), label="x") as publisher:
            for shard in publisher.pending():
                parent = shard.parent_rows(["group_id", "sample_index", "seed"])
                rows = parent.rename_columns(["group_id", "sample_index", column])
                more = {"scorer": ["t"] * len(rows)} if table == "scores" else {"valid": [True] * len(rows)}
                publisher.write(shard, pa.table(dict(zip(rows.column_names, rows.columns, strict=True)) | more))
            made.append(publisher.finish())
    storage.TOKEN_ROW_GROUP, storage.SCALAR_ROW_GROUP = before
    yield lake, samples, made[0], made[1]


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_every_row_comes_once_beside_its_own(pool: tuple[Lake, Slice, Slice, Slice], seed: int | None) -> None:
    lake, samples, scores, rewards = pool
    count = len(row_groups(samples))
    assert count == 8
    order = list(range(count)) if seed is None else shuffled(count, seed, 0)
    others = {"s": (scores, ["total"]), "r": (rewards, ["value"])}
    rows = pa.concat_tables(list(zip_groups(samples, others, columns=["seed", "token_ids"], order=order)))
    assert rows.column_names == ["group_id", "sample_index", "seed", "token_ids", "ordinal", "s.total", "r.value"]
    assert rows["s.total"].to_pylist() == rows["seed"].to_pylist() == rows["r.value"].to_pylist()
    whole = lake.read(samples, ["seed"])["seed"].to_pylist()
    assert [whole[i] for i in rows["ordinal"].to_pylist()] == rows["seed"].to_pylist()
    assert sorted(rows["ordinal"].to_pylist()) == list(range(samples.rows))


def test_groups_are_never_cut(pool: tuple[Lake, Slice, Slice, Slice]) -> None:
    _, samples, _, _ = pool
    seen: set[int] = set()
    for part in zip_groups(samples, {}, columns=[], order=shuffled(8, 3, 1)):
        ids = set(part["group_id"].to_pylist())
        assert not ids & seen
        seen |= ids
    assert len(seen) == GROUPS * SHARDS


def test_a_shuffle_is_a_permutation_of_seed_and_epoch() -> None:
    assert sorted(shuffled(50, 7, 2)) == list(range(50))
    assert shuffled(50, 7, 2) == shuffled(50, 7, 2)
    assert shuffled(50, 7, 2) != shuffled(50, 7, 3) != shuffled(50, 8, 3)


def _with_files(slice_: Slice, files: tuple[int, ...], of: Slice) -> Slice:
    return replace(slice_, shards=tuple(of.shards[i] for i in files))


def test_other_samples_and_other_shards_are_refused(pool: tuple[Lake, Slice, Slice, Slice]) -> None:
    _, samples, scores, _ = pool
    with pytest.raises(Refusal, match="holds other samples than samples/p"):
        list(zip_groups(samples, {"s": (_with_files(scores, (1, 0), scores), ["total"])}, columns=[], order=[0]))
    with pytest.raises(Refusal, match="is not partitioned like"):
        list(zip_groups(samples, {"s": (_with_files(scores, (0,), scores), ["total"])}, columns=[], order=[0]))


def test_a_foreign_or_missing_shard_is_refused(pool: tuple[Lake, Slice, Slice, Slice]) -> None:
    _, samples, scores, rewards = pool
    shards = tuple(replace(a, file=b.file) for a, b in zip(scores.shards, rewards.shards, strict=True))
    mixed = replace(scores, shards=shards)
    with pytest.raises(Refusal, match="is a file of another slice"):
        list(zip_groups(samples, {"s": (mixed, ["scorer"])}, columns=[], order=[0]))
    gone = replace(scores, shards=tuple(replace(a, file="no.parquet") for a in scores.shards))
    with pytest.raises(Refusal, match=r"no\.parquet is no readable shard"):
        list(zip_groups(samples, {"s": (gone, ["total"])}, columns=[], order=[0]))
