"""What behaviour cloning copies, and what it refuses to copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from data.lake import Key
from data.manifest import Slice
from data.refusal import Refusal
from trainer.imitation import fitting
from trainer.replay import Text, table_source
from trainer.sources import Reading, resolve
from trainer.stream import Stream

BC = {"losses__rl": 0.0, "losses__bc": 1.0, "losses__pt": 0.0, "losses__kl": 0.0}


def copied(made: Any, **changes: Any) -> tuple[list[Text], Reading]:
    reading = resolve(made.with_(**{**BC, **changes}))
    assert reading.answers is not None
    source = table_source("answers", reading.answers)
    return Stream(source, 0).take(source.count), reading


def score_answers(made: Any, publish: Callable[..., Slice], value: float | None) -> None:
    """Give every teacher answer the same points."""
    answers = made.lake.slices("answers")[0]
    rows = [{k: row[k] for k in ("prompt_id", "candidate")} for row in made.lake.read(answers).to_pylist()]
    rows = [{**row, "value": value, "valid": value is not None} for row in rows]
    for name in ("points", "length"):
        spec = made.recipe.components[name]
        key = Key({"spec": spec, "identity": {"use": spec["use"]}}, (answers, made.lake.slices("prompts")[0]))
        publish(made.lake, "answer_rewards", key, [rows[:3], rows[3:]], name)


def by_group(made: Any) -> dict[int, list[tuple[float, dict[str, Any]]]]:
    samples = made.lake.read(made.lake.slices("samples")[0]).to_pylist()
    points = made.lake.read(made.lake.slices("rewards", label="points")[0], ["value"]).column(0).to_pylist()
    found: dict[int, list[tuple[float, dict[str, Any]]]] = {}
    for row, value in zip(samples, points, strict=True):
        found.setdefault(row["group_id"], []).append((value, row))
    return found


def test_the_best_sample_of_each_prompt_is_copied(made: Any, publish_rows: Callable[..., Slice]) -> None:
    score_answers(made, publish_rows, -100.0)
    texts, reading = copied(made)
    wanted = sorted(max(rows, key=lambda pair: pair[0])[1]["token_ids"] for rows in by_group(made).values())
    assert sorted(text.completion for text in texts) == wanted
    prompts = made.lake.read(made.lake.slices("groups")[0], ["prompt_token_ids"]).column(0).to_pylist()
    assert sorted(text.prompt for text in texts) == sorted(prompts)
    assert any(note.startswith("best of n: 6 of 6 prompts") for note in reading.notes)


def test_a_better_answer_is_copied_in_place_of_the_samples(made: Any, publish_rows: Callable[..., Slice]) -> None:
    score_answers(made, publish_rows, 100.0)
    tokens = made.lake.read(made.lake.slices("answer_tokens")[0]).to_pylist()
    texts, _ = copied(made)
    assert sorted(text.completion for text in texts) == sorted(row["token_ids"] for row in tokens)
    assert sorted(text.prompt for text in texts) == sorted(row["prompt_token_ids"] for row in tokens)


def test_the_filter_comes_before_the_ranking(made: Any, publish_rows: Callable[..., Slice]) -> None:
    score_answers(made, publish_rows, 100.0)
    texts, _ = copied(made, where="points < 50")
    wanted = sorted(max(rows, key=lambda pair: pair[0])[1]["token_ids"] for rows in by_group(made).values())
    assert sorted(text.completion for text in texts) == wanted


def test_an_answer_that_was_not_scored_is_not_copied(made: Any, publish_rows: Callable[..., Slice]) -> None:
    score_answers(made, publish_rows, None)
    texts, _ = copied(made, where="points > -50")
    assert len(texts) == 6
    wanted = sorted(max(rows, key=lambda pair: pair[0])[1]["token_ids"] for rows in by_group(made).values())
    assert sorted(text.completion for text in texts) == wanted


def test_a_filter_that_nothing_passes_is_refused(made: Any, publish_rows: Callable[..., Slice]) -> None:
    score_answers(made, publish_rows, 0.0)
    with pytest.raises(Refusal, match="no candidate of 6 prompts passes where='points > 1000'"):
        copied(made, where="points > 1000")


def test_every_teacher_answer_is_copied_without_a_reward(made: Any) -> None:
    texts, _ = copied(made, replay__bc="teacher", reward=None)
    tokens = made.lake.read(made.lake.slices("answer_tokens")[0]).to_pylist()
    assert sorted(text.completion for text in texts) == sorted(row["token_ids"] for row in tokens)


def test_answers_in_other_tokens_are_refused(made: Any) -> None:
    import shutil

    shutil.rmtree(made.lake.root / "answer_tokens")
    with pytest.raises(Refusal, match="another tokenizer, chat template or end of turn"):
        copied(made, replay__bc="teacher")


def test_without_answers_the_command_that_makes_them_is_named(made: Any) -> None:
    import shutil

    shutil.rmtree(made.lake.root / "answers")
    with pytest.raises(Refusal, match=r"(?s)no teacher answers.*stages=\[answers\]"):
        copied(made, replay__bc="teacher")


def test_answers_that_no_forward_pass_can_read_are_left_out_and_counted() -> None:
    rows = {"prompt_token_ids": [[1, 2], [3], [4] * 5, [5]], "token_ids": [[7], [], [8] * 4, [9] * 7]}
    notes: list[str] = []
    kept = fitting(pa.table(rows), 8, notes)
    assert kept["token_ids"].to_pylist() == [[7], [9] * 7]
    assert notes == ["answers left out: 1 empty, 1 longer than the context of 8"]
    assert len(fitting(pa.table(rows), None, [])) == 3
    with pytest.raises(Refusal, match="no answer to copy: of 4, 1 are empty, 3 longer"):
        fitting(pa.table(rows), 2, [])
