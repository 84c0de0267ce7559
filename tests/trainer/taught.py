"""The tests' lake with a teacher that it knows, and the groups that a run reads of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from data.config import ModelSettings, model_settings
from data.lake import Key
from data.manifest import Slice
from data.pool import Pool, scores_key
from trainer.pool_reading import pool_source
from trainer.replay import Group
from trainer.sources import Reading
from trainer.stream import Stream

POOL = {"losses__bc": 0.0, "losses__pt": 0.0, "losses__kl": 0.0, "steps": 1}
TEACHER = ModelSettings(path="teacher")
Publish = Callable[..., Slice]


def groups_of(reading: Reading) -> dict[int, Group]:
    assert reading.pool is not None
    source = pool_source(reading.pool, reading.pool.advantages.advantages.vector)
    return {group.group_id: group for group in Stream(source, 0).take(source.count)}


def slices(made: Any) -> Pool:
    samples = made.lake.slices("samples")[0]
    groups = made.lake.slice(samples.parent("groups"))
    return Pool(made.lake.slice(groups.parent("prompts")), groups, samples)


def sample_rows(made: Any) -> list[dict[str, Any]]:
    return made.lake.read(slices(made).samples).to_pylist()


def name_teacher(made: Any, publish: Publish) -> None:
    """The teacher's row of `models`, id-t."""
    model = {"model_id": "id-t", "name": "teacher", "weights": "w", "tokenizer": "t", "chat_template": "c"}
    model |= {"dtype": "float32", "head_dtype": "float32"}
    publish(
        made.lake,
        "models",
        Key({"model": model_settings(TEACHER)}, (), {"model": "id-t"}, ("t",)),
        [[model]],
        "teacher",
    )


def teach(made: Any, publish: Publish, change: Callable[[dict[str, Any], int], None] = lambda row, i: None) -> None:
    """Scores of a teacher that the lake knows: −(i + t/10) at token t of sample i."""
    name_teacher(made, publish)
    rows = []
    for i, sample in enumerate(sample_rows(made)):
        row = {key: sample[key] for key in ("group_id", "sample_index")}
        row |= {"scorer": "id-t", "logprobs": [-(i + t / 10) for t in range(sample["n_tokens"])]}
        row |= {"alignment": "same_tokenizer", "total": 0.0}
        change(row, i)
        rows.append(row)
    publish(made.lake, "scores", scores_key(slices(made), "id-t"), [rows[:12], rows[12:]], "tiny-teacher")
