"""The samples' soft targets beside the pool: read by minillm over several ids alone, token by token, refused where they do
not fit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.pool import soft_targets_key
from data.refusal import Refusal
from trainer import memory, prepare
from trainer.distributed import World
from trainer.objective_config import ObjectiveSettings, Teacher
from trainer.objectives import support_kind
from trainer.sources import resolve

sys.path.append(str(Path(__file__).parent))

from taught import POOL, TEACHER, Publish, groups_of, sample_rows, slices, teach


def soften(
    made: Any, publish: Publish, kind: str, change: Callable[[dict[str, Any], int], None] = lambda row, i: None
) -> None:
    """Targets of the samples: 1 + t % 3 ids at token t, the first of them i, its log p −(i + 1)."""
    spec = {"kind": kind, "k": 3} | ({"policy": slices(made).policy} if kind == "student_m" else {})
    rows = []
    for i, sample in enumerate(sample_rows(made)):
        sizes = [1 + t % 3 for t in range(sample["n_tokens"])]
        row = {key: sample[key] for key in ("group_id", "sample_index")} | {"kind": kind, "sizes": sizes}
        row |= {"ids": [i + n for n in range(sum(sizes))], "logprobs": [-(i + 1.0 + n) for n in range(sum(sizes))]}
        change(row, i)
        rows.append(row)
    key = soft_targets_key(slices(made).samples, "id-t", spec)
    publish(made.lake, "soft_targets", key, [rows[:12], rows[12:]], f"tiny-{kind}")


@pytest.mark.parametrize(("single", "kind"), [("coarse", "top_k"), ("student_topk", "student_m")])
def test_minillm_over_several_ids_reads_them_with_the_teachers_log_p_token_by_token(
    made: Any, publish_rows: Publish, single: str, kind: str
) -> None:
    teach(made, publish_rows)
    soften(made, publish_rows, kind)
    asked = {"objective": "minillm", "reward": None, "teacher": TEACHER, **POOL}
    reading = resolve(made.with_(clip__teacher=Teacher(single=single), **asked))
    assert sum(path.startswith(f"soft_targets/tiny-{kind}") for path in reading.paths) == 1
    found = groups_of(reading)
    for i, row in enumerate(sample_rows(made)):
        support = found[row["group_id"]].support
        assert support is not None
        own, start = support[row["sample_index"]], 0
        assert len(own) == row["n_tokens"]
        for t, at in enumerate(own):
            want = np.arange(start, start := start + 1 + t % 3)
            assert at.ids.tolist() == (i + want).tolist() and at.counts is None and at.logprobs is not None
            np.testing.assert_allclose(at.logprobs, -(i + 1.0 + want), rtol=1e-4)
    for silent in (resolve(made.with_(**asked)), resolve(made.with_(**asked | {"objective": "opd"}))):
        assert all(group.support is None for group in groups_of(silent).values())
        assert not any(path.startswith("soft_targets/") for path in silent.paths)


@pytest.mark.parametrize(
    ("single", "kind", "other"), [("coarse", "top_k", "student_m"), ("student_topk", "student_m", "top_k")]
)
def test_supports_of_another_kind_are_refused_with_the_command_that_makes_them(
    made: Any, publish_rows: Publish, single: str, kind: str, other: str
) -> None:
    teach(made, publish_rows)
    soften(made, publish_rows, other)
    said = rf"(?s)no soft targets of kind {kind} by id-t.*stages=\[soft_targets\]' soft_targets.of=samples soft_targets.kind={kind}"
    with pytest.raises(Refusal, match=said + ", or clip.teacher.single=observed"):
        resolve(made.with_(objective="minillm", clip__teacher=Teacher(single=single), teacher=TEACHER, **POOL))


def a_token_less(row: dict[str, Any], i: int) -> None:
    if i == 13:
        count = row["sizes"].pop()
        row["ids"], row["logprobs"] = row["ids"][:-count], row["logprobs"][:-count]


def an_id_less(row: dict[str, Any], i: int) -> None:
    row["ids"] = row["ids"][:-1] if i == 13 else row["ids"]


@pytest.mark.parametrize(("change", "said"), [(a_token_less, "tokens and soft targets at"), (an_id_less, "ids for")])
def test_supports_that_are_not_those_of_the_tokens_are_refused(
    made: Any, publish_rows: Publish, change: Any, said: str
) -> None:
    teach(made, publish_rows)
    soften(made, publish_rows, "top_k", change)
    reading = resolve(made.with_(objective="minillm", clip__teacher=Teacher(single="coarse"), teacher=TEACHER, **POOL))
    with pytest.raises(Refusal, match=rf"soft_targets/\S+: a sample of group [0-9a-f]{{16}} .*{said}"):
        groups_of(reading)


def test_only_a_sum_that_weighs_minillm_asks_for_supports() -> None:
    coarse = ObjectiveSettings(teacher=Teacher(single="coarse"))
    assert support_kind({"grpo": 1.0, "minillm": 0.1}, coarse) == "top_k"
    assert support_kind({"opd": 1.0}, coarse) is None
    assert support_kind({"minillm": 1.0}, ObjectiveSettings()) is None
    with pytest.raises(Refusal, match="did you mean 'coarse'"):
        Teacher(single="corse")


def test_their_gradient_of_the_head_is_in_the_memory_that_is_foretold(
    made: Any, publish_rows: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(made, publish_rows)
    soften(made, publish_rows, "top_k")
    loads: list[memory.Load] = []
    monkeypatch.setattr(memory, "estimate", lambda shape, settings, load: loads.append(load) or {"weights": 1})
    for single in ("observed", "coarse"):
        recipe = made.with_(objective="minillm", clip__teacher=Teacher(single=single), teacher=TEACHER, **POOL)
        prepare._estimated(recipe, resolve(recipe), World())
    assert [load.terms for load in loads] == [1, 2]
