"""Answers with the teacher's distributions, against the rows that went in."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.lake import Key
from data.pool import soft_targets_key
from data.refusal import Refusal
from trainer.config import Losses
from trainer.replay import SoftText
from trainer.soft import soft_source
from trainer.sources import Reading, resolve
from trainer.stream import Stream

sys.path.append(str(Path(__file__).parent))

from taught import TEACHER, Publish, name_teacher

SPECS = {
    "sampled": {"kind": "sampled", "draws": 8, "seed": 0},
    "top_k": {"kind": "top_k", "k": 2},
    "student_m": {"kind": "student_m", "k": 2},
}


def soften(
    made: Any, publish: Publish, kind: str = "sampled", change: Callable[[list[Any]], None] = lambda rows: None
) -> None:
    """Targets of 1 + t % 3 ids at token t of each answer, in another order than the answers."""
    name_teacher(made, publish)
    base, random = made.lake.slices("answer_tokens")[0], np.random.default_rng(0)
    shards = []
    for index in range(2):
        rows = []
        for answer in made.lake.read_shard(base, index).to_pylist()[::-1]:
            sizes = [1 + t % 3 for t in range(len(answer["token_ids"]))]
            row = {key: answer[key] for key in ("prompt_id", "candidate")} | {"sizes": sizes, "kind": kind}
            row["ids"] = random.integers(5, 290, sum(sizes)).tolist()
            row["counts"] = random.integers(1, 9, sum(sizes)).tolist() if kind == "sampled" else None
            row["logprobs"] = (-random.random(sum(sizes))).tolist()
            rows.append(row)
        shards.append(rows)
    change([row for rows in shards for row in rows])
    spec = dict(SPECS[kind]) | ({"policy": resolve(soft(made, "none")).start.model_id} if kind == "student_m" else {})
    publish(made.lake, "answer_soft_targets", soft_targets_key(base, "id-t", spec), shards, "tiny")


def soft(made: Any, target: str) -> Any:
    """The recipe that trains on soft targets alone; "none" trains on the corpus."""
    weights = {"rl": 0.0, "bc": 0.0, "kl": 0.0, "pt": float(target == "none"), "soft": float(target != "none")}
    losses = Losses(**weights, soft_target="counts" if target == "none" else target)
    return dataclasses.replace(made.with_(losses=losses), teacher=TEACHER)


def texts_of(reading: Reading, context: int | None = None, notes: list[str] | None = None) -> list[SoftText]:
    assert reading.soft is not None
    source = soft_source(reading.soft, context, [] if notes is None else notes)
    return Stream(source, 0).take(source.count)


@pytest.mark.parametrize(
    ("target", "kind"),
    [("counts", "sampled"), ("renormalised", "sampled"), ("top_k", "top_k"), ("student_m", "student_m")],
)
def test_each_token_of_an_answer_has_its_own_support(made: Any, publish_rows: Publish, target: str, kind: str) -> None:
    soften(made, publish_rows, kind)
    reading = resolve(soft(made, target))
    assert reading.pool is None and reading.answers is None
    assert [path.split("/")[0] for path in reading.paths] == [
        "prompts",
        "answers",
        "answer_tokens",
        "answer_soft_targets",
    ]
    answers = {row["prompt_id"]: row for row in made.lake.read(made.lake.slices("answer_tokens")[0]).to_pylist()}
    found = {tuple(text.completion): text for text in texts_of(reading)}
    rows = made.lake.read(made.lake.slices("answer_soft_targets")[0]).to_pylist()
    assert len(found) == len(rows) == 6
    for row in rows:
        answer = answers[row["prompt_id"]]
        text = found[tuple(answer["token_ids"])]
        assert text.prompt == answer["prompt_token_ids"] and len(text.support) == len(text.completion)
        at = 0
        for size, support in zip(row["sizes"], text.support, strict=True):
            here = slice(at, at + size)
            assert support.ids.tolist() == row["ids"][here] and support.ids.dtype == np.int64
            assert (support.counts is None) == (kind != "sampled")
            if support.counts is not None:
                assert support.counts.tolist() == row["counts"][here] and support.counts.dtype == np.float32
            assert support.logprobs is not None and support.logprobs.dtype == np.float32
            np.testing.assert_allclose(support.logprobs, row["logprobs"][here], rtol=1e-4)
            at += size


@pytest.mark.parametrize(("target", "kind"), [("counts", "top_k"), ("top_k", "sampled"), ("student_m", "top_k")])
def test_targets_of_another_kind_are_refused_with_the_stage(
    made: Any, publish_rows: Publish, target: str, kind: str
) -> None:
    soften(made, publish_rows, kind)
    with pytest.raises(Refusal, match=r"(?s)no soft targets of kind .*stages=\[soft_targets\]"):
        resolve(soft(made, target))


def test_without_a_teacher_there_are_no_soft_targets(made: Any) -> None:
    with pytest.raises(Refusal, match="has nothing by the teacher"):
        resolve(soft(made, "counts"))
    with pytest.raises(Refusal, match="the recipe has no teacher"):
        resolve(dataclasses.replace(soft(made, "counts"), teacher=None))


def one_less(rows: list[Any]) -> None:
    row = rows[2]
    row["ids"], row["counts"], row["logprobs"] = (row[n][: -row["sizes"][-1]] for n in ("ids", "counts", "logprobs"))
    row["sizes"] = row["sizes"][:-1]


def ids_missing(rows: list[Any]) -> None:
    rows[2]["ids"] = rows[2]["ids"][:-1]


def empty_position(rows: list[Any]) -> None:
    rows[2]["sizes"][1] -= 2
    rows[2]["sizes"][0] += 2


def no_counts(rows: list[Any]) -> None:
    rows[2]["counts"] = None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (one_less, "tokens and soft targets at"),
        (ids_missing, "ids for"),
        (empty_position, "tokens and soft targets at"),
        (no_counts, "0 counts for"),
    ],
)
def test_targets_that_are_not_those_of_the_tokens_are_refused(
    made: Any, publish_rows: Publish, change: Callable[[list[Any]], None], said: str
) -> None:
    soften(made, publish_rows, "sampled", change)
    reading = resolve(soft(made, "counts"))
    with pytest.raises(Refusal, match=rf"the answer to prompt [0-9a-f]{{16}} .*{said}"):
        texts_of(reading)


def renamed(rows: list[Any]) -> None:
    rows[0]["prompt_id"] = 1


def test_targets_of_answers_that_are_not_there_are_refused(made: Any, publish_rows: Publish) -> None:
    soften(made, publish_rows, "sampled", renamed)
    with pytest.raises(Refusal, match="does not hold every answer"):
        texts_of(resolve(soft(made, "counts")))


def lengthen(made: Any, publish: Publish) -> None:
    """The first answer's prompt is three tokens longer."""
    import shutil

    old = made.lake.slices("answer_tokens")[0]
    rows = made.lake.read(old).to_pylist()
    rows[0]["prompt_token_ids"] += [7, 7, 7]
    shutil.rmtree(made.lake.root / "answer_tokens")
    key = Key(old.settings, tuple(made.lake.slice(path) for path in old.parents), old.models)
    publish(made.lake, "answer_tokens", key, [rows[:3], rows[3:]], "tiny")


def test_answers_beyond_the_context_are_left_out_and_counted(made: Any, publish_rows: Publish) -> None:
    lengthen(made, publish_rows)
    soften(made, publish_rows)
    reading, notes = resolve(soft(made, "counts")), list[str]()
    assert len(texts_of(reading, 12, notes)) == 6 and not notes
    found = texts_of(reading, 11, notes)
    assert len(found) == 5 and all(len(text.prompt) + len(text.completion) == 9 for text in found)
    assert notes == ["answers with soft targets left out: 1 empty or longer than the context of 11"]
    with pytest.raises(Refusal, match="none of 6 answers"):
        texts_of(reading, 8, notes)
