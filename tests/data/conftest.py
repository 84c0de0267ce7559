"""A small lake of two pools, made by the lake's own publishers: what every test of data/ reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data import Key, Lake, Slice
from data.contract import TABLES
from data.intervals import interval_rows
from data.keys import hex_id, id64, prompt_id

Publish = Callable[..., Slice]


def _publish(
    lake: Lake,
    table: str,
    shards: Sequence[Mapping[str, list[Any]]],
    *,
    label: str,
    parents: tuple[Slice, ...] = (),
    content: str = "",
    models: Mapping[str, str] | None = None,
) -> Slice:
    """Publish columns as shards; the key holds the label, so that labels never share content by accident."""
    contents = tuple(f"{label}{content}-{i}" for i in range(len(shards))) if not parents else ()
    key = Key({"label": label}, parents=parents, contents=contents, models=models or {})
    schema = TABLES[table].schema
    with lake.publish(table, key, label=label) as publisher:
        for shard in publisher.pending():
            columns = shards[shard.index]
            rows = {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
            publisher.write(shard, pa.table(rows))
        return publisher.finish()


@pytest.fixture(scope="session")
def publish() -> Publish:
    return _publish


QUESTIONS = ["Hvussu eitur staðurin?", "Hvat er klokkan?", "Hvør á bátin?"]
PROMPT_IDS = [prompt_id([{"role": "user", "content": q}]) for q in QUESTIONS]
SIZES = [4, 3, 1]  # samples of each prompt; a one-row group has no spread


def _prompts(lake: Lake) -> Slice:
    rows = {
        "prompt_id": PROMPT_IDS,
        "messages": [[{"role": "system", "content": "Svara."}, {"role": "user", "content": q}] for q in QUESTIONS],
        "references": [["Tórshavn"], ["tólv"], None],
        "split": ["train"] * 3,
        "topic": ["a", "a", "b"],
        "language": ["fo"] * 3,
    }
    shards = [{k: v[:2] for k, v in rows.items()}, {k: v[2:] for k, v in rows.items()}]
    return _publish(lake, "prompts", shards, label="prompts")


def _keys(pool: str, prompts: Sequence[int]) -> dict[str, list[Any]]:
    return {
        "group_id": [id64(pool, PROMPT_IDS[p]) for p in prompts for _ in range(SIZES[p])],
        "sample_index": [i for p in prompts for i in range(SIZES[p])],
    }


SHARD_PROMPTS = [[0, 1], [2]]
CHRF = {0: [0.1, 0.4, 0.4, None], 1: [0.2, 0.2, 0.2], 2: [0.9]}
LENGTH = {0: [1.0, 2.0, 3.0, 4.0], 1: [5.0, 1.0, 1.0], 2: [2.0]}


def _pool(lake: Lake, label: str, prompts: Slice) -> tuple[Slice, Slice]:
    groups, samples = [], []
    for members in SHARD_PROMPTS:
        groups.append(
            {
                "group_id": [id64(label, PROMPT_IDS[p]) for p in members],
                "prompt_id": [PROMPT_IDS[p] for p in members],
                "policy": ["m0"] * len(members),
                "prompt_token_ids": [[p, 7] for p in members],
            }
        )
        n = [i % 3 + 1 for p in members for i in range(SIZES[p])]
        samples.append(
            _keys(label, members)
            | {
                "token_ids": [list(range(k)) for k in n],
                "n_tokens": n,
                "text": [f"svar {p}.{i} ð" for p in members for i in range(SIZES[p])],
                "behaviour_logprobs": [[-0.5] * k for k in n],
                "finish_reason": ["length" if k == 3 else "stop" for k in n],
                "origin": ["student"] * len(n),
                "round": [0] * len(n),
            }
        )
    group_slice = _publish(lake, "groups", groups, label=label, parents=(prompts,))
    return group_slice, _publish(lake, "samples", samples, label=label, parents=(group_slice,))


def _rewards(lake: Lake, pool: str, samples: Slice, label: str, values: Mapping[int, list[float | None]]) -> Slice:
    shards = [
        _keys(pool, members)
        | {
            "value": (flat := [v for p in members for v in values[p]]),
            "valid": [v is not None for v in flat],
            "detail": [None if v is not None else "empty" for v in flat],
        }
        for members in SHARD_PROMPTS
    ]
    return _publish(lake, "rewards", shards, label=label, parents=(samples,))


def _answers(lake: Lake, prompts: Slice) -> None:
    answers, tokens, rewards = [], [], []
    for members in SHARD_PROMPTS:
        keys = {"prompt_id": [PROMPT_IDS[p] for p in members for _ in (0, 1)], "candidate": [0, 1] * len(members)}
        answers.append(
            keys
            | {"text": [f"answer {p}.{i}" for p in members for i in (0, 1)], "method": ["direct"] * len(members) * 2}
        )
        tokens.append(
            keys
            | {
                "prompt_token_ids": [[p, 7] for p in members for _ in (0, 1)],
                "token_ids": [[50 + p, i, 2] for p in members for i in (0, 1)],
            }
        )
        rewards.append(keys | {"value": [0.4, 0.3] * len(members), "valid": [True, True] * len(members)})
    slice_ = _publish(lake, "answers", answers, label="teacher", parents=(prompts,))
    _publish(lake, "answer_tokens", tokens, label="teacher", parents=(slice_,))
    _publish(lake, "answer_rewards", rewards, label="chrf", parents=(slice_,))


def _journals(lake: Lake) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    metrics = [("r1", 0, "loss", 2.0), ("r1", 5, "probe/exact_match", 0.25), ("r1", 10, "probe/exact_match", 0.5)]
    metrics += [("r1", 10, "probe/language", 0.75), ("r1", 12, "loss", 1.0), ("r2", 3, "probe/exact_match", 0.125)]
    names = ("run", "step", "name", "value")
    for run in ("r1", "r2"):
        rows = [m for m in metrics if m[0] == run]
        lake.append("metrics", pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), run)
    run_row = {"run": ["r1"], "recipe": ["demo"], "status": ["finished"], "configuration": ["{}"]}
    run_row |= {"configuration_hash": ["h"], "slices": ["{}"], "created_at": [now]}
    lake.append("runs", pa.table(run_row), "r1")
    costs = {"stage": ["samples", "samples", "rewards"], "recipe": ["demo"] * 3, "produced": ["x", "y", "z"]}
    costs |= {"items": [8, 8, 24], "tokens_in": pa.array([100, 50, None], pa.int64())}
    costs |= {"tokens_out": pa.array([20, 30, None], pa.int64()), "seconds": [2.0, 3.0, 1.0], "created_at": [now] * 3}
    lake.append("costs", pa.table(costs), "one")


def _judgements(lake: Lake) -> None:
    """One page of one pair, which one person has judged."""
    shared = {"page": ["0a1b"], "pair": [1], "benchmark": ["demo"], "item": [hex_id(0)]}
    shared["created_at"] = [datetime(2026, 1, 1, tzinfo=UTC)]
    shown = {"first": ["student"], "second": ["r1"], "first_model_id": ["m0"], "second_model_id": ["m1"]}
    shown |= {"first_slice": ["demo-1"], "second_slice": ["demo-2"], "question": ["?"], "items": [3], "identical": [1]}
    lake.append("pairs", pa.table(shared | shown), "0a1b")
    verdict = {"policy_a": ["r1"], "policy_b": ["student"], "verdict": ["a"], "rater": ["Anna"]}
    lake.append("ratings", pa.table(shared | verdict), "0a1b-1")


def _evaluations(lake: Lake) -> None:
    def rows(policy: str, benchmark: str, metrics: list[dict[str, float]]) -> dict[str, list[Any]]:
        n = len(metrics)
        items = [hex_id(i) for i in range(n)]
        return {
            "policy": [policy] * n,
            "model_id": ["m0"] * n,
            "benchmark": [benchmark] * n,
            "item": items,
            "prediction": ["x"] * n,
            "gold": [["x"]] * n,
            "metrics": [list(m.items()) for m in metrics],
        }

    _publish(
        lake,
        "evaluations",
        [rows("student", "demo", [{"exact_match": 1.0}, {"exact_match": 0.0}])],
        label="demo",
        content="old",
    )
    newer = [{"exact_match": 1.0}, {"exact_match": 1.0, "f1": 0.5}, {"exact_match": 0.0}]
    _publish(lake, "evaluations", [rows("student", "demo", newer)], label="demo", content="new")
    fit = [{"bits": 30.0, "bytes": 10.0}, {"bits": 10.0, "bytes": 30.0}]
    _publish(lake, "evaluations", [rows("student", "fit", fit)], label="other")
    right = {"r1": [0.0, 0.0, 1.0, 0.0], "r2": [0.0, 1.0, 1.0, 1.0]}
    quiz = [
        _publish(lake, "evaluations", [rows(p, "quiz", [{"exact": v} for v in right[p]])], label="demo", content=p)
        for p in right
    ]
    found = interval_rows(pa.concat_tables([lake.read(slice_) for slice_ in quiz]))
    columns = {name: [row[name] for row in found] for name in found[0]}
    _publish(lake, "intervals", [columns], label="demo", parents=tuple(quiz))


def _make(root: Path) -> Lake:
    return _fill(Lake.open(root))


@pytest.fixture(scope="session")
def make_lake() -> Callable[[Lake], Lake]:
    """Fills a lake that lies anywhere."""
    return _fill


def _fill(lake: Lake) -> Lake:
    prompts = _prompts(lake)
    for pool in ("demo", "round1"):
        _, samples = _pool(lake, pool, prompts)
        _rewards(lake, pool, samples, "chrf", CHRF)
        if pool == "demo":
            _rewards(lake, pool, samples, "length", LENGTH)
    _answers(lake, prompts)
    _evaluations(lake)
    _journals(lake)
    _judgements(lake)
    return lake


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Read-only: a test that damages it copies it first (`lake_copy`)."""
    return _make(tmp_path_factory.mktemp("lake"))


@pytest.fixture
def lake_copy(tmp_path: Path) -> Lake:
    return _make(tmp_path / "lake")


@pytest.fixture
def empty_lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "empty")
