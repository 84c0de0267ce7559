"""What comes out of the lake for a step, against the rows that went in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data.contract import TABLES
from data.lake import Key
from data.manifest import Slice
from data.refusal import Refusal
from data.zip import row_groups
from trainer.config import Replay
from trainer.normalise import normalised
from trainer.pool_groups import pool_source, refuse_behaviour
from trainer.replay import Beside, Documents, Group, Vectors, corpus_source, lists, table_source
from trainer.stream import Stream


def vectors(made: Any, **changes: Any) -> Vectors:
    rows = made.lake.slices("samples")[0].rows
    starts, random = np.arange(0, rows, 4), np.random.default_rng(1)
    plain = Vectors(starts, np.ones(rows, bool), random.normal(size=rows).astype(np.float32))
    return dataclasses.replace(plain, **changes)


def groups_of(made: Any, given: Vectors, *, rescored: bool = True) -> list[Group]:
    slices = {table: made.lake.slices(table)[0] for table in ("samples", "groups", "scores")}
    beside = Beside(slices["scores"] if rescored else None)
    source = pool_source(slices["samples"], slices["groups"], beside, given)
    return Stream(source, seed=0).take(source.count)


def test_groups_come_with_their_own_prompt_tokens_and_numbers(made: Any) -> None:
    given = vectors(made)
    found = {group.group_id: group for group in groups_of(made, given)}
    samples = made.lake.read(made.lake.slices("samples")[0]).to_pylist()
    prompts = {
        row["group_id"]: row["prompt_token_ids"] for row in made.lake.read(made.lake.slices("groups")[0]).to_pylist()
    }
    assert len(found) == len(prompts) == 6
    for ordinal, row in enumerate(samples):
        group, place = found[row["group_id"]], row["sample_index"]
        assert group.prompt == prompts[row["group_id"]]
        assert group.completions[place] == row["token_ids"]
        np.testing.assert_array_equal(group.behaviour[place], np.float32(row["behaviour_logprobs"]))
        assert group.old is not None
        np.testing.assert_array_equal(group.old[place], np.float32(row["behaviour_logprobs"]))
        assert group.advantages[place] == given.advantages[ordinal]


def test_samples_and_groups_out_of_the_loss_do_not_come(made: Any) -> None:
    in_loss = np.ones(24, bool)
    in_loss[4:8], in_loss[[0, 2, 20]] = False, False
    found = groups_of(made, vectors(made, in_loss=in_loss), rescored=False)
    rows = made.lake.read(made.lake.slices("samples")[0], ["group_id", "token_ids"]).to_pylist()
    kept = sorted((row["group_id"], tuple(row["token_ids"])) for row, ok in zip(rows, in_loss, strict=True) if ok)
    assert sorted((g.group_id, tuple(c)) for g in found for c in g.completions) == kept
    assert len(found) == 5 and all(group.old is None for group in found)


def test_advantages_divided_by_the_steps_spread_are_those_of_the_formula(made: Any) -> None:
    rewards = np.random.default_rng(3).normal(size=24)
    settings = Replay(advantage="mean_batch_std")
    step = normalised(groups_of(made, vectors(made, rewards=rewards))[:3], settings)
    sigma = np.concatenate([group.rewards for group in step]).std()
    for group in step:
        assert group.rewards is not None
        np.testing.assert_allclose(group.advantages, (group.rewards - group.rewards.mean()) / sigma, rtol=1e-5)


def altered(made: Any, publish: Callable[..., Slice], change: Callable[[dict[str, Any]], None]) -> Slice:
    slice_ = made.lake.slices("samples")[0]
    rows = made.lake.read(slice_).to_pylist()
    for row in rows:
        change(row)
    key = Key({"altered": change.__name__}, (made.lake.slice(slice_.parent("groups")),), {"policy": "p"})
    return publish(made.lake, "samples", key, [rows[:12], rows[12:]], "altered")


def zeroed(row: dict[str, Any]) -> None:
    row["behaviour_logprobs"] = [0.0] * row["n_tokens"]


def missing(row: dict[str, Any]) -> None:
    row["behaviour_logprobs"] = None


def one_missing(row: dict[str, Any]) -> None:
    if row["sample_index"] == 2:
        row["behaviour_logprobs"] = None


@pytest.mark.parametrize(("change", "said"), [(zeroed, "all zero"), (missing, "missing"), (one_missing, "missing")])
def test_a_missing_or_zero_behaviour_is_refused(
    made: Any, publish_rows: Callable[..., Slice], change: Callable[[dict[str, Any]], None], said: str
) -> None:
    with pytest.raises(Refusal, match=said):
        refuse_behaviour(altered(made, publish_rows, change))
    samples = made.lake.slices("samples")[0]
    assert refuse_behaviour(samples) == row_groups(samples)


def shortened(row: dict[str, Any]) -> None:
    row["behaviour_logprobs"] = row["behaviour_logprobs"][:-1] or [-1.0, -1.0]


def test_a_behaviour_of_another_length_is_refused(made: Any, publish_rows: Callable[..., Slice]) -> None:
    samples, groups = altered(made, publish_rows, shortened), made.lake.slices("groups")[0]
    source = pool_source(samples, groups, Beside(), vectors(made))
    with pytest.raises(Refusal, match=r"tokens and \d+ behaviour"):
        Stream(source, seed=0).take(6)


def test_groups_of_another_slice_are_refused(made: Any, publish_rows: Callable[..., Slice]) -> None:
    samples, groups = made.lake.slices("samples")[0], made.lake.slices("groups")[0]
    rows = made.lake.read(groups).to_pylist()[::-1]
    key = Key({"other": True}, (made.lake.slice(groups.parent("prompts")),), {"policy": "p"})
    other = publish_rows(made.lake, "groups", key, [rows[:3], rows[3:]], "other")
    with pytest.raises(Refusal, match="other groups"):
        Stream(pool_source(samples, other, Beside(), vectors(made)), seed=0).take(6)


def test_lists_of_a_slice_are_its_own_rows() -> None:
    column = pa.chunked_array([pa.array([[1, 2], [3], None, [4, 5, 6]]), pa.array([[7]])]).slice(1, 4)
    assert [row.tolist() for row in lists(column)] == [[3], [], [4, 5, 6], [7]]


def test_held_out_documents_are_never_given_out(made: Any) -> None:
    source = corpus_source(made.lake.slices("corpus"))
    rows = made.lake.read(made.lake.slices("corpus")[0]).to_pylist()
    wanted = sorted(row["token_ids"] for row in rows if row["split"] == "train")
    assert sorted(ids.tolist() for ids in Stream(source, 0).take(source.count)) == wanted


def documents(made: Any, context: int, **state: int) -> Documents:
    return Documents(corpus_source(made.lake.slices("corpus")), 0, context, **state)


def test_a_document_longer_than_the_context_is_cut_and_each_token_is_predicted_once(made: Any) -> None:
    found = documents(made, 4).take(200)
    assert max(len(text.prompt) + len(text.completion) for text in found) == 4
    rows = made.lake.read(made.lake.slices("corpus")[0]).to_pylist()
    per_epoch = sum(len(row["token_ids"]) - 1 for row in rows if row["split"] == "train")
    once = documents(made, 4).take(per_epoch)
    predicted = sorted(token for text in once for token in text.completion)
    assert predicted == sorted(t for row in rows if row["split"] == "train" for t in row["token_ids"][1:])


@pytest.mark.parametrize("taken", [1, 5, 12, 33, 90])
def test_documents_go_on_from_their_state_even_within_a_document(made: Any, taken: int) -> None:
    whole = documents(made, 4)
    whole.take(taken)
    again = documents(made, 4, **whole.state)
    assert again.take(40) == whole.take(40)


def test_answers_come_with_their_prompts() -> None:
    schema = TABLES["answer_tokens"].schema
    rows = [{"prompt_id": i, "candidate": 0, "prompt_token_ids": [i, i], "token_ids": [i + 1]} for i in range(300)]
    source = table_source("answers", pa.Table.from_pylist(rows, schema=schema))
    found = Stream(source, 0).take(300)
    assert sorted((t.prompt[0], t.completion[0]) for t in found) == [(i, i + 1) for i in range(300)]
