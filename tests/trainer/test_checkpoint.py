"""A folder that appears at once or not at all, and lines that a kill cut short."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from data.refusal import Refusal
from trainer.checkpoint import appearing, clear, newest, prune, steps
from trainer.journal import Metrics, Run, read_metrics


def test_a_folder_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-3"
    with appearing(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a").write_text("1", encoding="utf-8")
        assert not path.exists()
    assert (path / "inner" / "a").read_text(encoding="utf-8") == "1"
    with pytest.raises(KeyboardInterrupt), appearing(tmp_path / "checkpoint-4") as temporary:
        (temporary / "a").write_text("1", encoding="utf-8")
        raise KeyboardInterrupt
    assert steps(tmp_path) == [3] and not list(tmp_path.glob(".*"))


def test_a_full_disk_is_a_sentence_and_leaves_the_older_folder(tmp_path: Path) -> None:
    path = tmp_path / "final"
    with appearing(path) as temporary:
        (temporary / "a").write_text("old", encoding="utf-8")
    with pytest.raises(Refusal, match="No space left"), appearing(path) as temporary:
        raise OSError(errno.ENOSPC, "full")
    assert (path / "a").read_text(encoding="utf-8") == "old"


def test_leftovers_of_a_kill_are_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-9.tmp").mkdir()
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "checkpoint-9").mkdir()
    assert newest(tmp_path) == tmp_path / "checkpoint-10"
    assert (tmp_path / ".checkpoint-9.tmp").exists()  # it may be a live run's, which whoever only looks leaves alone
    clear(tmp_path)
    assert not (tmp_path / ".checkpoint-9.tmp").exists() and (tmp_path / "checkpoint-9").exists()


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    prune(tmp_path, 2, 4)
    assert steps(tmp_path) == [4, 8, 10]


def test_a_line_cut_short_by_a_kill_and_those_after_the_checkpoint_are_gone(tmp_path: Path) -> None:
    run = Run("r", tmp_path)
    run.metrics_path.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a"', encoding="utf-8")
    assert [line["step"] for line in read_metrics(run)] == [1, 2]
    with Metrics(run, 1) as metrics:
        metrics.write(2, {"a": 5.0})
    assert read_metrics(run) == [{"step": 1, "a": 1}, {"step": 2, "a": 5.0}]
