"""One training run from start to end: resolve, claim the name, step, probe, stop, save.

Reads what sources.py found. Writes the run's folder and its journal rows. Everything that can be refused is refused before the
folder is made. A run of one process opens no socket; under torchrun every process runs this, and the first one writes."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from typing import Any

import numpy as np
import torch

from data.lake import Lake
from data.refusal import Refusal
from trainer import checkpoint, schedule
from trainer.config import TrainerRecipe
from trainer.distributed import World, world
from trainer.ema import Average, replaced
from trainer.final import finish, row_of
from trainer.forward import Policy, context_length, load
from trainer.imitation import fitting
from trainer.journal import Metrics, Run, claim, disk, held, publish, refuse_unknown
from trainer.normalise import normalised
from trainer.optimiser import build, move
from trainer.plan import StepPlan, plan_step
from trainer.probe import prober
from trainer.progress import progress
from trainer.replay import Documents, table_source
from trainer.sources import Reading, configuration, configuration_hash, pool_source, resolve
from trainer.state import Training
from trainer.step import Method, run_step
from trainer.stop import Stopper, parse, refuse_unmeasured
from trainer.stream import Stream

ADVANTAGES = "advantages.npy"


def train(recipe: TrainerRecipe) -> None:
    """Train one run, or find it finished. The body of `python -m trainer`."""
    here = world()
    torch.manual_seed(recipe.seed)
    refuse_unknown(recipe)
    reading = resolve(recipe)
    hash_ = configuration_hash(recipe, reading)
    run, how = claim(recipe, hash_)
    here.barrier()  # before the first process makes the folder that the others look at
    if how == "found":
        _say(here, f"found run {run.name} of this configuration: nothing to train")
        return
    training, cursors = prepare(recipe, reading, run, here, resumed=how == "resumed")
    for note in reading.notes if how == "new" else []:
        _say(here, note)
    record = {
        "configuration": configuration(recipe),
        "configuration_hash": hash_,
        "recipe": recipe.name,
        "slices": reading.paths,
        "reward_sql": reading.reward_sql,
        "policy": reading.start.model_id,
        "status": "running",
    }
    with held(run) if here.first else nullcontext():
        if here.first and claim(recipe, hash_)[1] != how:  # another process was quicker while the model was loaded
            raise Refusal(f"run {run.name} was trained by another process meanwhile", "run=ANOTHER_NAME")
        _open(training, record, resumed=how == "resumed")
        _streams(training, cursors)
        _steps(training, record)
        if here.first:
            finish(training, record)
    here.barrier()
    del training
    gc.collect()
    torch.cuda.empty_cache()  # the next job of a sweep loads its own model


def prepare(
    recipe: TrainerRecipe, reading: Reading, run: Run, here: World, *, resumed: bool
) -> tuple[Training, dict[str, Any]]:
    """The run in memory, and where its streams stand; nothing is written. A resumed run is at its newest checkpoint."""
    settings = recipe.trainer
    saved = checkpoint.newest(run.folder) if resumed else None
    policy = _load(recipe, reading)
    if policy.reason:
        _say(here, f"layout plain: {policy.reason}")
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
        steps=_step_count(recipe, reading),
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


def _step_count(recipe: TrainerRecipe, reading: Reading) -> int:
    replay = recipe.trainer.replay
    if replay.epochs is None:
        return recipe.trainer.steps
    if reading.pool is not None:
        starts, in_loss = reading.pool.advantages.group_starts, reading.pool.in_loss
        return math.ceil(replay.epochs * np.count_nonzero(np.logical_or.reduceat(in_loss, starts)) / replay.prompts)
    if reading.answers is not None:
        return math.ceil(replay.epochs * len(reading.answers) / replay.answers)
    return recipe.trainer.steps


def _streams(training: Training, cursors: Mapping[str, Any]) -> None:
    reading, seed = training.reading, training.recipe.seed
    if reading.pool is not None:
        vector = np.load(training.run.folder / ADVANTAGES, mmap_mode="r")
        training.groups = Stream(pool_source(reading.pool, vector), seed, **cursors.get("groups", {}))
    if reading.answers is not None:
        training.answers = Stream(table_source("answers", reading.answers), seed, **cursors.get("answers", {}))
    if reading.corpus is not None:
        limit = context_length(training.policy)
        training.documents = Documents(reading.corpus, seed, limit, **cursors.get("documents", {}))


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
    _say(training.world, f"run {run.name} {verb}: {training.steps} steps in {run.folder}")


def _steps(training: Training, record: Mapping[str, Any]) -> None:
    """All steps that are left, up to the last or the one whose metrics end the run."""
    first, run = training.world.first, training.run
    with ExitStack() as stack:
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
                show(training.step, training.latest)
                _checkpoint(training, metrics, record)
        if metrics is not None:
            metrics.sync()


def one_step(training: Training) -> None:
    """Plan, forward, backward, move the weights, look: the step's metrics and the rule that ends the run stand in `training`."""
    settings, step = training.recipe.trainer, training.step
    begun = time.monotonic()
    plan = next_plan(training)
    rate = schedule.learning_rate(settings.optimiser, step, training.steps)
    values = run_step(training.policy, plan, training.method, training.world)
    norm = move(training.optimiser, training.policy.model, rate, settings.optimiser.clip, step)
    if training.average is not None:
        training.average.update(training.policy.model)
    training.tokens += plan.tokens
    weights = {f"weight/{name}": getattr(plan.weights, name) for name in schedule.TERMS}
    values |= {"lr": rate, "gradient_norm": norm, **weights}
    values["tokens_per_second"] = plan.tokens / max(time.monotonic() - begun, 1e-9)
    every = settings.probe.every
    due = every is not None and step % every == 0 and step >= settings.probe.start
    if due:
        values |= _probe(training)
    values = training.world.agreed(values)  # rates differ between processes; all of them must stop at the same step
    training.ended = training.stopper.seen(step, values)
    if every is not None and not due and (training.ended is not None or step == training.steps):
        values |= _probe(training)
    # null is not zero: what has no finite value was not measured
    training.latest = {name: value for name, value in values.items() if math.isfinite(value)}


def next_plan(training: Training) -> StepPlan:
    """The next step's items and counts, the same on every process."""
    settings = training.recipe.trainer
    weights = schedule.weights(settings.losses, training.step)
    if not (weights.rl or weights.bc or weights.pt):
        raise Refusal(f"step {training.step}: rl, bc and pt all have weight 0", "give one of them a weight in losses")
    replay = settings.replay
    groups = training.groups.take(replay.prompts) if training.groups and weights.rl else []
    if training.reading.pool and training.reading.pool.normalised_by_step and groups:
        groups = normalised(groups, replay)
    answers = training.answers.take(replay.answers) if training.answers and weights.bc else []
    documents = training.documents.take(replay.corpus_tokens) if training.documents and weights.pt else []
    return plan_step(
        weights,
        groups,
        answers,
        documents,
        max_tokens=training.reading.pool.max_tokens if training.reading.pool else 1,
        budget=replay.micro_batch_tokens,
        layout=training.policy.layout,
        processes=training.world.size,
    )


def _probe(training: Training) -> dict[str, float]:
    """The probe's figures under the weights that would be saved; only the first process asks."""
    if not training.world.first or training.prober is None:
        return {}
    with replaced(training.policy.model, training.average.weights if training.average else None):
        return training.prober.measure(training.policy, training.step)


def _checkpoint(training: Training, metrics: Metrics, record: Mapping[str, Any]) -> None:
    settings = training.recipe.trainer.checkpoint
    value = training.latest.get(settings.best) if settings.best else None
    better = value is not None and (training.best is None or value > training.best[0])
    due = settings.every is not None and training.step % settings.every == 0
    if not due and not better:
        return
    if better and value is not None:
        training.best = (value, training.step)
    metrics.sync()
    checkpoint.write(
        training.run.folder, training.step, training.policy, training.optimiser, training.average, training.state
    )
    checkpoint.prune(training.run.folder, settings.keep, training.best[1] if training.best else None)
    publish(Lake.open(training.recipe.lake), training.run, row_of(training, record))


def _say(here: World, text: str) -> None:
    if here.first:
        print(text, flush=True)
