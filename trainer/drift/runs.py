"""A finished or interrupted run as its run.json tells it: its recipe again, its weights, and what it trained on.

Reads runs/NAME and, through sources.py, manifests of the lake. Writes nothing. Refuses unknown runs, runs of another version and
runs without weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.refusal import Refusal, nearest
from data.structured import thawed, with_open_mappings
from trainer import checkpoint
from trainer.config import Losses, Probe, TrainerRecipe
from trainer.journal import RECORD, Run, read_metrics

if TYPE_CHECKING:
    import pyarrow as pa

    from trainer.sources import Reading

Row = tuple[tuple[int, ...], tuple[int, ...]]  # prompt and completion, as ids


def known_run(name: str, runs: str) -> tuple[Run, dict[str, Any]]:
    """The run and its record. Refuses a name that is none, with the nearest, and an average, which read no pool."""
    run = Run(name, Path(runs) / name)
    record = run.record
    if record is None:
        known = [path.parent.name for path in Path(runs).glob(f"*/{RECORD}")]
        hint = f": {nearest(name, known)}" if known else ""
        raise Refusal(f"no run named {name} in {runs}{hint}", 'python -m data sql "SELECT run, status FROM runs"')
    if "average" in record.get("configuration", {}):
        raise Refusal(f"run {name} is an average of others and read no pool", "python -m trainer.drift run=ITS_PARENT")
    return run, record


def recipe_of(name: str, record: Mapping[str, Any], lake: str, runs: str) -> TrainerRecipe:
    """The recipe that the run was started from. Refuses one that this version does not read."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    with thawed(TrainerRecipe):
        try:
            given = OmegaConf.create({**record["configuration"], "lake": lake, "runs": runs, "factory": None})
            recipe: Any = OmegaConf.to_object(OmegaConf.merge(with_open_mappings(TrainerRecipe), given))
        except (OmegaConfBaseException, KeyError, TypeError) as error:
            raise Refusal(
                f"run {name} has no configuration that this version reads: {str(error).splitlines()[0]}",
                "train it again: python -m trainer recipe=… run=ANOTHER_NAME",
            ) from error
    found: TrainerRecipe = recipe
    return found


def pool_only(recipe: TrainerRecipe, *, answers: bool) -> TrainerRecipe:
    """The recipe with nothing to resolve but the pool and its rewards and, if asked for, the answers that were copied."""
    losses = Losses(rl=1.0, bc=1.0 if answers else 0.0, pt=0.0, kl=0.0)
    settings = dataclasses.replace(recipe.trainer, losses=losses, probe=Probe(), stop=[], objective="grpo")
    return dataclasses.replace(recipe, trainer=settings)


def weights_folder(run: Run) -> tuple[Path, int | None]:
    """The final weights, or the newest checkpoint with its step."""
    if (run.folder / "final").is_dir():
        return run.folder / "final", None
    found = checkpoint.newest(run.folder)
    if found is None:
        raise Refusal(
            f"run {run.name} has neither final weights nor a checkpoint",
            f"python -m trainer recipe=… resume={run.name}",
        )
    return found, checkpoint.steps(run.folder)[-1]


def steps_with(run: Run, term: str, until: int | None) -> int:
    """Steps in which a term of the loss had a weight, by the run's own metrics, up to the checkpoint's."""
    lines = [line for line in read_metrics(run) if until is None or line["step"] <= until]
    return sum(line.get(f"weight/{term}", 0) > 0 for line in lines)


def seen_groups(reading: Reading, recipe: TrainerRecipe, steps: int) -> np.ndarray:
    """Bool (groups,): those that so many steps read, by the stream's own order. Reads no tokens."""
    from data.zip import row_groups
    from trainer.sources import pool_source
    from trainer.stream import Source, Stream

    assert reading.pool is not None
    starts = reading.pool.advantages.group_starts
    seen = np.zeros(len(starts), bool)
    kept = pool_source(reading.pool, reading.pool.advantages.advantages.vector).kept
    first = np.searchsorted(starts, [block.ordinal for block in row_groups(reading.pool.pool.samples)])
    bounds = [*first.tolist(), len(starts)]

    def numbers(order: Iterable[int]) -> Iterator[Sequence[int]]:
        for block in order:
            yield range(bounds[block], bounds[block + 1])

    source = Source("pool", kept, numbers)
    taken = min(steps * recipe.trainer.replay.prompts, source.count)
    seen[Stream(source, recipe.seed).take(taken)] = True
    return seen


def copied_rows(answers: pa.Table, recipe: TrainerRecipe, steps: int | None) -> set[Row]:
    """Prompts and completions that so many steps of behaviour cloning copied; None: all that it may copy."""
    from trainer.replay import table_source
    from trainer.stream import Stream

    taken = answers.num_rows if steps is None else min(steps * recipe.trainer.replay.answers, answers.num_rows)
    texts = Stream(table_source("answers", answers), recipe.seed).take(taken)
    return {(tuple(text.prompt), tuple(text.completion)) for text in texts}
