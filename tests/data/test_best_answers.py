"""Which answer's reward joins a group: its own prompt's best among those that pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data.best_answers import best_answers
from data.contract import TABLES
from data.lake import Key, Lake
from data.manifest import Slice
from data.refusal import Refusal
from data.selection import Candidates

ANSWERS = [(7, 0, 1.0), (7, 1, 3.0), (7, 2, 9.0), (5, 0, None), (6, 0, 2.0), (6, 1, None)]
GROUPS = {30: 5, 10: 6, 20: 7, 40: 8}  # group → prompt; no prompt 8 was answered


@pytest.fixture
def source(tmp_path: Path) -> tuple[Lake, Candidates]:
    lake = Lake.open(tmp_path / "lake")

    def publish(table: str, rows: list[dict[str, Any]], *parents: Slice) -> Slice:
        for row in rows:
            for column in TABLES[table].columns:
                if column.required and column.name not in row:
                    row[column.name] = (
                        [1] if pa.types.is_list(column.type) else "x" if column.type == pa.string() else 1
                    )
        with lake.publish(table, Key({}, parents, {}, () if parents else ("c",)), label="t") as publisher:
            for shard in publisher.pending():
                publisher.write(shard, pa.Table.from_pylist(rows, schema=TABLES[table].schema))
            return publisher.finish()

    groups = publish("groups", [{"group_id": g, "prompt_id": p, "prompt_token_ids": [1]} for g, p in GROUPS.items()])
    keys = [{"prompt_id": p, "candidate": c} for p, c, _ in ANSWERS]
    answers = publish("answers", [dict(key) for key in keys])
    tokens = publish("answer_tokens", [dict(key) for key in keys], answers)
    valued = [{**k, "value": v, "valid": v is not None} for k, (_, _, v) in zip(keys, ANSWERS, strict=True)]
    rewards = publish("answer_rewards", valued, answers)
    return lake, Candidates(groups, groups, {"points": rewards}, answers, tokens, {"points": rewards})


def test_the_best_answer_that_passes_is_found_by_the_groups_prompt(source: tuple[Lake, Candidates]) -> None:
    of = best_answers(*source, "2*points", "points < 5")
    asked = np.array([20, 40, 10, 30], np.uint64)
    np.testing.assert_array_equal(of(asked), [6.0, np.nan, 4.0, np.nan])
    np.testing.assert_array_equal(of(asked[::-1]), [np.nan, 4.0, np.nan, 6.0])
    np.testing.assert_array_equal(best_answers(*source, "points", "points > 5")(asked), [9.0, np.nan, np.nan, np.nan])


def test_a_component_that_answers_do_not_have_scores_none(source: tuple[Lake, Candidates]) -> None:
    lake, candidates = source
    both = Candidates(candidates.samples, candidates.groups, {"points": candidates.samples, "other": candidates.samples},
                      candidates.answers, candidates.answer_tokens, candidates.answer_rewards)  # fmt: skip
    assert np.isnan(best_answers(lake, both, "points + other", "points > 0")(np.array([20], np.uint64))).all()


def test_functions_of_a_group_and_unknown_groups_are_refused(source: tuple[Lake, Candidates]) -> None:
    for reward, where in (("rank_group(points)", "points > 0"), ("points", "points > mean_group(points)")):
        with pytest.raises(Refusal, match="worth the same alone"):
            best_answers(*source, reward, where)
    with pytest.raises(Refusal, match="holds groups that"):
        best_answers(*source, "points", "points > 0")(np.array([99], np.uint64))
