"""One training run from start to end: resolve, claim the name, step, probe, stop, save.

Reads what sources.py found. Writes the run's folder and its journal rows. Everything that can be refused is refused before the
folder is made. A run of one process opens no socket; under torchrun every process runs this, and the first one writes."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from data.lake import Lake
from data.refusal import Refusal
from data.typed import first_time, words
from trainer import checkpoint, schedule
from trainer.config import TrainerRecipe
from trainer.distributed import world
from trainer.ema import replaced
from trainer.final import finish, row_of
from trainer.journal import Metrics, Run, claim, disk, held, publish, refuse_unknown
from trainer.losses import next_beta
from trainer.normalise import normalised
from trainer.optimiser import embeddings, hold, move
from trainer.plan import Items, StepPlan, plan_step
from trainer.prepare import ADVANTAGES, prepare, streams
from trainer.progress import progress
from trainer.sources import Reading, configuration, configuration_hash, resolve
from trainer.state import Training
from trainer.step import run_step
from trainer.trackers import Tracked, check, new_id, tracking, without_secrets


def train(recipe: TrainerRecipe) -> Run:
    """Train one run, or find it finished; the run by its folder. The body of `python -m trainer`."""
    here = world()
    torch.manual_seed(recipe.seed)
    # together: the first process makes no folder before the others have looked, and a refusal of one ends all
    reading, hash_, run, how = here.together(lambda: _claimed(recipe))
    if how == "found":
        here.say(f"found run {run.name} of this configuration: nothing to train")
        return run
    training, cursors = here.together(lambda: prepare(recipe, reading, run, here, resumed=how == "resumed"))
    for note in filter(first_time, reading.notes if how == "new" else []):
        here.say(note)
    record = {
        "configuration": configuration(recipe),
        "configuration_hash": hash_,
        "recipe": recipe.name,
        "slices": reading.paths,
        "reward_sql": reading.reward_sql,
        "policy": reading.start.model_id,
        "words": words(),
        "status": "running",
    }
    if recipe.trackers:
        record["tracker"] = (run.record or {}).get("tracker") or new_id(run.name)
    with ExitStack() as stack:
        here.together(lambda: _hold(stack, recipe, run, hash_, how) if here.first else None)
        _open(training, record, resumed=how == "resumed")
        streams(training, cursors)
        _steps(training, record, resumed=how == "resumed")
        if here.first or training.method.sharded:
            finish(training, record)
    here.barrier()
    del training
    gc.collect()
    torch.cuda.empty_cache()  # the next job of a sweep loads its own model
    return run


def _claimed(recipe: TrainerRecipe) -> tuple[Reading, str, Run, str]:
    """What the run reads, the hash of its configuration, its name, and whether it is new, found or resumed."""
    refuse_unknown(recipe)
    check(recipe.trackers)
    reading = resolve(recipe)
    hash_ = configuration_hash(recipe, reading)
    return reading, hash_, *claim(recipe, hash_)


def _hold(stack: ExitStack, recipe: TrainerRecipe, run: Run, hash_: str, how: str) -> None:
    """Lock the run's folder until the stack ends."""
    stack.enter_context(held(run))
    if claim(recipe, hash_)[1] != how:  # another process was quicker while the model was loaded
        raise Refusal(f"run {run.name} was trained by another process meanwhile", "run=ANOTHER_NAME")


def _open(training: Training, record: Mapping[str, Any], *, resumed: bool) -> None:
    """Make the run's folder; the advantages lie in it as they were trained on."""
    run = training.run
    if training.world.first:
        checkpoint.clear(run.folder)
        run.write_record(record)
        if training.reading.pool is not None:
            with disk(run.folder):
                np.save(run.folder / ADVANTAGES, training.reading.pool.advantages.advantages.vector)
    training.world.barrier()
    verb = f"resumed at step {training.step}" if resumed else "started"
    training.world.say(f"run {run.name} {verb}: {training.steps} steps in {run.folder}")


def _tracked(training: Training, record: Mapping[str, Any], resumed: bool) -> Tracked:
    """What trackers are told of the run."""
    run, recipe = training.run, training.recipe
    plain = without_secrets(record["configuration"])
    return Tracked(run.name, record["tracker"], recipe.name, run.folder, plain, training.step, resumed)


def _steps(training: Training, record: Mapping[str, Any], *, resumed: bool) -> None:
    """All steps that are left, up to the last or the one whose metrics end the run."""
    first, run = training.world.first, training.run
    with ExitStack() as stack:
        names = training.recipe.trackers if first else []
        trackers = stack.enter_context(tracking(names, lambda: _tracked(training, record, resumed), training.world.say))
        metrics = stack.enter_context(Metrics(run, training.step)) if first else None
        show = stack.enter_context(progress(run.name, training.step, training.steps, first))
        if metrics is not None:
            training.latest = metrics.last
        while training.step < training.steps and training.ended is None:
            begun = time.monotonic()
            training.step += 1
            one_step(training)
            training.seconds += time.monotonic() - begun
            if metrics is not None:
                metrics.write(training.step, training.latest)
                trackers.log(training.step, training.latest)
                show(training.step, training.latest)
            if metrics is not None or training.method.sharded:  # shares of the weights lie with every process
                _checkpoint(training, metrics, record)
        if metrics is not None:
            metrics.sync()
        trackers.close(training.ended.status if training.ended else "finished")


def one_step(training: Training) -> None:
    """Plan, forward, backward, move the weights, look: the step's metrics and the rule that ends the run stand in `training`."""
    settings, step = training.recipe.trainer, training.step
    begun = time.monotonic()
    plan = next_plan(training)
    training.copies.before(training.policy.model, step)
    values = run_step(training.policy, plan, training.method, training.world, training.copies)
    values |= _moved(training, plan, values)
    values["tokens_per_second"] = plan.tokens / max(time.monotonic() - begun, 1e-9)
    every = settings.probe.every
    due = every is not None and step % every == 0 and step >= settings.probe.start
    if due:
        values |= _probe(training)
    values = training.world.agreed(values)  # rates differ between processes; all of them must stop at the same step
    training.ended = training.stopper.seen(step, values)
    if every is not None and not due and (training.ended is not None or step == training.steps):
        values |= training.world.agreed(_probe(training))
    training.guard.seen(values)
    # null is not zero: what has no finite value was not measured
    training.latest = {name: value for name, value in values.items() if math.isfinite(value)}


def _moved(training: Training, plan: StepPlan, values: Mapping[str, float]) -> dict[str, float]:
    """Move the weights by the step's gradients; averages, copies and β follow. What the log says of it."""
    settings, model = training.recipe.trainer, training.policy.model
    rate = schedule.learning_rate(settings.optimiser, training.step, training.steps)
    scale = _rate_scale(training, values)
    if schedule.trainable(settings.losses, training.step) == "embeddings":
        hold(model, embeddings(model))
    norm = move(training.optimiser, model, rate * scale, settings.optimiser.clip, training.step)
    if training.average is not None:
        training.average.update(model)
    training.copies.after(model)
    training.tokens += plan.tokens
    leash = settings.losses.leash
    measured = values.get("kl_k3", math.nan)
    if leash.target is not None and plan.weights.kl and math.isfinite(measured):
        training.beta = next_beta(plan.weights.kl, measured, leash.target, leash.rate)
    told = {f"weight/{name}": getattr(plan.weights, name) for name in schedule.TERMS}
    told |= {"lr": rate * scale, "gradient_norm": norm}
    return told if settings.optimiser.lr_scale is None else told | {"lr_scale": scale}


def _rate_scale(training: Training, values: Mapping[str, float]) -> float:
    """√(ESS/n) of the step's samples, by token where every coefficient is a token's own, else by sequence; 1 without samples."""
    if training.recipe.trainer.optimiser.lr_scale is None:
        return 1.0
    unit = "token" if training.method.scope == "token" else "sequence"
    return math.sqrt(values.get(f"drift/{unit}_ess", 1.0))


def next_plan(training: Training) -> StepPlan:
    """The next step's items and counts, the same on every process."""
    settings, reading = training.recipe.trainer, training.reading
    weights = training.guard.changed(schedule.weights(settings.losses, training.step))
    if training.beta is not None and weights.kl:
        weights = weights.with_({"kl": training.beta})
    if not weights.any:
        raise Refusal(
            f"step {training.step}: rl, bc, pt and soft all have weight 0", "give one of them a weight in losses"
        )
    replay = settings.replay
    groups = training.groups.take(replay.prompts) if training.groups and weights.rl else []
    if reading.pool and reading.pool.normalised_by_step and groups:
        groups = normalised(groups, replay)
    items = Items(
        groups,
        training.answers.take(replay.answers) if training.answers and weights.bc else [],
        training.documents.take(replay.corpus_tokens) if training.documents and weights.pt else [],
        training.soft.take(replay.answers) if training.soft and weights.soft else [],
    )
    return plan_step(
        weights,
        items,
        max_tokens=reading.pool.max_tokens if reading.pool else 1,
        budget=replay.micro_batch_tokens,
        layout=training.policy.layout,
        processes=training.world.size,
    )


def _probe(training: Training) -> dict[str, float]:
    """The probe's figures under the weights that would be saved. Only the first process asks, or all where weights are sharded."""
    if training.prober is None or not (training.world.first or training.method.sharded):
        return {}
    with replaced(training.policy.model, training.average.weights if training.average else None):
        return training.prober.measure(training.policy, training.step)


def _checkpoint(training: Training, metrics: Metrics | None, record: Mapping[str, Any]) -> None:
    settings = training.recipe.trainer.checkpoint
    value = training.latest.get(settings.best) if settings.best else None
    better = value is not None and (training.best is None or value > training.best[0])
    due = settings.every is not None and training.step % settings.every == 0
    if not due and not better:
        return
    if better and value is not None:
        training.best = (value, training.step)
    if metrics is not None:
        metrics.sync()
    checkpoint.write(
        training.run.folder,
        training.step,
        training.policy,
        training.optimiser,
        training.average,
        training.state,
        copies=training.copies.tensors,
        first=training.world.first,
    )
    if metrics is None:
        return
    checkpoint.prune(training.run.folder, settings.keep, training.best[1] if training.best else None)
    publish(Lake.open(training.recipe.lake), training.run, row_of(training, record))
