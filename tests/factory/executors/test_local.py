"""Workers in processes: the same bytes and sums, whatever dies."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress

import pytest

from data.config import ModelSettings
from data.lake import Lake
from data.refusal import Refusal
from factory.config import ExecutorSettings, FactoryRecipe
from factory.executors.scheduling import TRIES
from factory.stages import run

from .conftest import alive, costs, descendants, finished, shards, until, workers

TWO = ExecutorSettings(name="local", workers=2)


@pytest.mark.slow
def test_two_processes_make_the_bytes_of_one(whole, reference, hashes):
    """Every stage, with the tokens that were counted; shards without train prompts or held-out documents are among them."""
    run(dataclasses.replace(whole, executor=TWO))
    assert hashes(Lake.open(whole.lake)) == hashes(Lake.open(reference.lake))
    assert costs(whole.lake) == costs(reference.lake)
    assert Lake.open(whole.lake).slices("samples")[0].notes["executor"] == "local"
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_killed_workers_are_replaced_and_a_shard_that_kills_them_all_is_refused(long, start, hashes):
    """One death costs nothing. With every further worker killed, a shard is given up, and what is finished stays for the rerun."""
    process = start(long, "executor=local", "executor.workers=1")
    until(lambda: shards(long.lake, "samples"))
    [first] = workers(process)
    os.kill(first, signal.SIGKILL)
    there = shards(long.lake, "samples")
    until(lambda: shards(long.lake, "samples") > there)  # by another worker
    assert process.poll() is None and not alive(first)
    while process.poll() is None:
        for pid in workers(process):
            with suppress(ProcessLookupError):  # it may have ended since it was listed
                os.kill(pid, signal.SIGKILL)
    _, err = finished(process, code=2)
    assert f"{TRIES} workers died over it, the last one by SIGKILL" in err and "next: " in err, err
    said = err[err.index("error: ") :].splitlines()  # progress of a slow machine stands before it
    assert said[0].startswith("error: samples/tiny-") and " shard " in said[0] and len(said) <= 3
    kept = hashes(Lake.open(long.lake))
    run(long)
    made = hashes(Lake.open(long.lake))
    assert shards(long.lake, "samples") > there and kept.items() <= made.items() and made == hashes_of_one(long, hashes)


@pytest.mark.slow
def test_a_killed_driver_leaves_no_worker_and_a_rerun_goes_on(long, start, hashes):
    process = start(long, "executor=local", "executor.workers=2")
    until(lambda: shards(long.lake, "samples") and len(workers(process)) == 2)
    left = descendants(process.pid)
    process.kill()
    until(lambda: not any(map(alive, left)), seconds=10)
    kept = hashes(Lake.open(long.lake))
    run(long)
    made = hashes(Lake.open(long.lake))
    assert len(kept) < len(made) and kept.items() <= made.items() and made == hashes_of_one(long, hashes)


@pytest.mark.slow
def test_a_workers_refusal_is_the_readers(recipe, change, tiny_model, write_rows, prompt_rows):
    """The same sentence as without workers; what was finished before it stays."""
    prompt_rows[4]["messages"] = "the sun shines " * 40
    source = dataclasses.replace(recipe.prompts, path=write_rows(prompt_rows))
    teacher = ModelSettings(path=tiny_model("llama", seed=7, max_position_embeddings=64))
    recipe = change(recipe, prompts=source, teacher=teacher, stages=["prompts", "answers"])
    with pytest.raises(Refusal) as ours:
        run(change(recipe, lake=f"{recipe.lake}-alone"))
    with pytest.raises(Refusal) as theirs:
        run(change(recipe, executor=ExecutorSettings(name="local", workers=1)))
    assert theirs.value.args == ours.value.args and "positions of" in theirs.value.args[0]
    assert shards(recipe.lake, "answers") == shards(f"{recipe.lake}-alone", "answers") == 2
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["executor.name=locl"], "did you mean 'local'"),
        (["executor=lokal"], "did you mean 'local'"),
        (["executor.name=local", "engine.device=cuda:1"], "engine.device is cuda:1"),
        (["executor.workers=0"], "executor.workers=0 is outside"),
    ],
)
def test_an_executor_that_there_is_not_is_refused(command, words, says):
    code, out, err = command("stages=[prompts]", *words)
    assert code == 2 and says in err and "next: " in err and out == ""


def hashes_of_one(recipe: FactoryRecipe, hashes: Callable[..., dict[str, str]]) -> dict[str, str]:
    """What the command's own process makes of a recipe, in a lake of its own."""
    alone = dataclasses.replace(recipe, lake=f"{recipe.lake}-alone")
    run(alone)
    return hashes(Lake.open(alone.lake))
