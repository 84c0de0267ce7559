"""A name belongs to one run: of the processes that claim it, and of the folders that one lake knows."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from data.refusal import Refusal
from trainer import loop
from trainer.loop import train

POOL = {"losses__bc": 0.0, "losses__pt": 0.0, "steps": 1}


def test_a_run_that_another_process_finished_meanwhile_is_not_trained_over(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, prepare = made.with_(run="y", **POOL), loop.prepare

    def slow(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(loop, "prepare", prepare)
        prepared = prepare(*arguments, **named)
        train(recipe)  # the other process
        return prepared

    monkeypatch.setattr(loop, "prepare", slow)
    with pytest.raises(Refusal, match="run y exists"):
        train(recipe)
    assert made.lake.sql("SELECT status FROM runs").to_pylist() == [{"status": "finished"}]


def test_a_name_that_the_lake_knows_from_another_folder_is_refused(made: Any, tmp_path: Path) -> None:
    recipe = made.with_(run="x", **POOL)
    train(recipe)
    elsewhere = dataclasses.replace(recipe, runs=str(tmp_path / "elsewhere"), seed=3)
    with pytest.raises(Refusal, match=r"run x exists in this lake"):
        train(elsewhere)
    assert not (tmp_path / "elsewhere" / "x").exists()
    shutil.rmtree(tmp_path / "runs" / "x")
    train(elsewhere)  # a run that was thrown away is no obstacle
