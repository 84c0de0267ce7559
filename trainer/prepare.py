"""A run in memory before its first step: the model, the optimiser, where its streams stand. Writes nothing.

Reads the model's folder, the newest checkpoint of a resumed run, and what sources.py found. Refuses a model that does not load."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from data.lake import Lake
from data.refusal import Refusal
from trainer import checkpoint
from trainer.config import TrainerRecipe
from trainer.distributed import World
from trainer.ema import Average
from trainer.forward import Policy, context_length, load
from trainer.imitation import fitting
from trainer.journal import Run
from trainer.optimiser import build
from trainer.probe import prober
from trainer.replay import Documents, table_source
from trainer.sources import Reading, pool_source
from trainer.state import Training
from trainer.step import Method
from trainer.stop import Stopper, parse, refuse_unmeasured
from trainer.stream import Stream

ADVANTAGES = "advantages.npy"


def prepare(
    recipe: TrainerRecipe, reading: Reading, run: Run, here: World, *, resumed: bool
) -> tuple[Training, dict[str, Any]]:
    """The run in memory, and where its streams stand; nothing is written. A resumed run is at its newest checkpoint."""
    settings = recipe.trainer
    saved = checkpoint.newest(run.folder) if resumed else None
    policy = _load(recipe, reading)
    if policy.reason:
        here.say(f"layout plain: {policy.reason}")
    if reading.answers is not None:
        reading.answers = fitting(reading.answers, context_length(policy), reading.notes)
    probe = prober(Lake.open(recipe.lake), recipe, reading, policy)
    watched = [*(rule.metric for rule in parse(settings.stop)), settings.checkpoint.best]
    refuse_unmeasured(watched, probe.metrics if probe else [])
    if saved is not None:
        start = reading.start.settings
        with checkpoint.readable(saved):
            policy = load(str(saved), dtype=start.dtype, trust_remote_code=start.trust_remote_code)
    state = checkpoint.read_state(saved) if saved else {}
    pool = reading.pool
    training = Training(
        recipe=recipe,
        reading=reading,
        run=run,
        world=here,
        policy=policy,
        optimiser=build(settings.optimiser, policy.model),
        average=Average(policy.model, settings.optimiser.ema) if settings.optimiser.ema else None,
        method=Method(
            reading.objective,
            settings.clip,
            settings.losses.aggregation,
            pool.temperature if pool else 1.0,
            behaviour_is_reference=pool is not None and pool.rescored is None and pool.rescored_behaviour,
        ),
        prober=probe,
        stopper=Stopper(parse(settings.stop), **state.get("stop", {})),
        steps=step_count(recipe, reading),
        step=state.get("step", 0),
        seconds=state.get("seconds", 0.0),
        tokens=state.get("tokens", 0),
        best=tuple(state["best"]) if state.get("best") else None,
    )
    if state.get("ended") is not None:
        training.ended = training.stopper.rules[state["ended"]]
    if saved is not None:
        checkpoint.restore(saved, policy, training.optimiser, training.average)
    return training, state.get("cursors", {})


def _load(recipe: TrainerRecipe, reading: Reading) -> Policy:
    import transformers

    transformers.utils.logging.disable_progress_bar()  # a refusal stands alone on stderr
    model = reading.start.settings
    try:
        return load(
            str(reading.start.folder),
            dtype=model.dtype,
            gguf_file=model.gguf_file,
            trust_remote_code=model.trust_remote_code,
            initial=model.initial,
            seed=recipe.seed,
        )
    except ValueError as error:
        raise Refusal(f"model {model.path}: {error}", "student.path=FOLDER_OR_HUB_ID") from error


def step_count(recipe: TrainerRecipe, reading: Reading) -> int:
    """Steps of the run: as the recipe says, or as many as its epochs take."""
    replay = recipe.trainer.replay
    if replay.epochs is None:
        return recipe.trainer.steps
    if reading.pool is not None:
        starts, in_loss = reading.pool.advantages.group_starts, reading.pool.in_loss
        return math.ceil(replay.epochs * np.count_nonzero(np.logical_or.reduceat(in_loss, starts)) / replay.prompts)
    if reading.answers is not None:
        return math.ceil(replay.epochs * len(reading.answers) / replay.answers)
    return recipe.trainer.steps


def streams(training: Training, cursors: Mapping[str, Any]) -> None:
    """Open the streams where they stood."""
    reading, seed = training.reading, training.recipe.seed
    if reading.pool is not None:
        vector = np.load(training.run.folder / ADVANTAGES, mmap_mode="r")
        training.groups = Stream(pool_source(reading.pool, vector), seed, **cursors.get("groups", {}))
    if reading.answers is not None:
        training.answers = Stream(table_source("answers", reading.answers), seed, **cursors.get("answers", {}))
    if reading.corpus is not None:
        limit = context_length(training.policy)
        training.documents = Documents(reading.corpus, seed, limit, **cursors.get("documents", {}))
