"""A run in memory before its first step: the model, the optimiser, where its streams stand. Writes nothing.

Reads the model's folder, the newest checkpoint of a resumed run, and what sources.py found. Refuses a model that does not load."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from data.fingerprint import loading
from data.lake import Lake
from data.refusal import Refusal
from data.typed import first_time
from trainer import checkpoint, memory
from trainer.adapter import adapted, wanted, with_adapter
from trainer.config import TrainerRecipe
from trainer.distributed import World
from trainer.ema import Average
from trainer.forward import Policy, checkpoint_activations, context_length, load
from trainer.fsdp import spread
from trainer.guard import Guard, parse_guard
from trainer.imitation import fitting
from trainer.journal import Run
from trainer.method import Method
from trainer.objectives import TOKEN_REWARDS, needs, support_kind
from trainer.optimiser import build
from trainer.pool_reading import pool_source
from trainer.probe import prober
from trainer.references import PROX, REFERENCE, Copies
from trainer.replay import Documents, table_source
from trainer.schedule import ever
from trainer.soft import soft_source
from trainer.sources import Reading
from trainer.state import Training
from trainer.stop import Stopper, parse, refuse_unmeasured
from trainer.stream import Stream

ADVANTAGES = "advantages.npy"


def prepare(
    recipe: TrainerRecipe, reading: Reading, run: Run, here: World, *, resumed: bool
) -> tuple[Training, dict[str, Any]]:
    """The run in memory, and where its streams stand; nothing is written. A resumed run is at its newest checkpoint."""
    settings = recipe.trainer
    saved = checkpoint.newest(run.folder) if resumed else None
    _estimated(recipe, reading, here)
    policy = ready(_load(recipe, reading, here), recipe, here)
    if policy.reason and first_time(said := f"layout {policy.layout}: {policy.reason}"):
        here.say(said)
    if reading.answers is not None:
        reading.answers = fitting(reading.answers, context_length(policy), reading.notes)
    probe = prober(Lake.open(recipe.lake), recipe, reading, policy)
    watched = [*(rule.metric for rule in parse(settings.stop)), settings.checkpoint.best]
    refuse_unmeasured(watched, probe.metrics if probe else [])
    if saved is not None and not adapted(policy.model):
        with checkpoint.readable(saved):
            loaded = load(str(saved), **_how(recipe, here))
        policy = ready(loaded, recipe, here)
    state = checkpoint.read_state(saved) if saved else {}
    training = Training(
        recipe=recipe,
        reading=reading,
        run=run,
        world=here,
        policy=policy,
        optimiser=build(settings.optimiser, policy.model),
        average=Average(policy.model, settings.optimiser.ema) if settings.optimiser.ema else None,
        method=_method(recipe, reading, policy, here),
        prober=probe,
        stopper=Stopper(parse(settings.stop), **state.get("stop", {})),
        guard=Guard(parse_guard(settings.probe.guard), **state.get("guard", {})),
        copies=Copies(settings.losses.reference, _copies(recipe, reading)),
        beta=state.get("beta"),
        steps=step_count(recipe, reading),
        step=state.get("step", 0),
        seconds=state.get("seconds", 0.0),
        tokens=state.get("tokens", 0),
        best=tuple(state["best"]) if state.get("best") else None,
    )
    if state.get("ended") is not None:
        training.ended = training.stopper.rules[state["ended"]]
    if reading.soft is not None:
        source = soft_source(reading.soft, context_length(policy), reading.notes)
        training.soft = Stream(
            source, recipe.seed, **state.get("cursors", {}).get("soft", {}), prefetch=_prefetch(recipe)
        )
    if saved is not None:
        checkpoint.restore(saved, policy, training.optimiser, training.average, training.copies)
    return training, state.get("cursors", {})


def ready(policy: Policy, recipe: TrainerRecipe, here: World) -> Policy:
    """The loaded policy as it is trained: with adapters, recomputing its layers, or spread over processes, as the recipe says."""
    settings = recipe.trainer.optimiser
    if wanted(settings.lora, sum(p.numel() for p in policy.model.parameters())):
        _refuse_frozen_embeddings(recipe)
        with_adapter(policy, settings.lora, seed=recipe.seed)
    if settings.compute.activation_checkpointing:
        checkpoint_activations(policy)
    return spread(policy, here) if _spreads(recipe, here) else policy


def _refuse_frozen_embeddings(recipe: TrainerRecipe) -> None:
    """Adapters leave the embeddings frozen: a phase that moves these alone would move nothing."""
    losses = recipe.trainer.losses
    if any(dict(phase).get("trainable", "all") == "embeddings" for phase in losses.phases):
        raise Refusal(
            "losses.phases: trainable=embeddings under LoRA, which freezes the embeddings, would train nothing",
            "optimiser.lora.enabled=false; with too little memory for that, optimiser.compute.parallel=fsdp under torchrun",
        )


def _estimated(recipe: TrainerRecipe, reading: Reading, here: World) -> None:
    """Say what memory the run will take, before any of it is; Refusal where that is more than there is."""
    settings, model, folder = recipe.trainer, reading.start.settings, str(reading.start.folder)
    origin = {"gguf_file": model.gguf_file} if model.gguf_file else {}
    try:
        shape = memory.shape_of(folder, trust_remote_code=model.trust_remote_code, **origin)
    except (OSError, ValueError):  # a folder without a model: loading it, next, says so
        return
    half = model.dtype in ("bfloat16", "float16")
    if half and not wanted(settings.optimiser.lora, shape.parameters):
        reading.notes.append(
            f"student.dtype={model.dtype}: small updates are lost in rounding; float32 with optimiser.compute.autocast=bfloat16"
            " computes in half precision and keeps them"
        )
    active = ever(settings.losses, settings.steps)
    alone = (
        active["rl"] and support_kind(reading.objective, settings.clip) is not None
    )  # a token's own KL, beside the kernel
    load = memory.Load(
        tokens=settings.replay.micro_batch_tokens,
        copies=len(_copies(recipe, reading)) + settings.probe.kl,
        terms=max(1, sum(bool(active[name]) for name in ("rl", "bc", "pt", "soft")) + alone),
        processes=here.size,
        width=2 if half else 4,
    )
    sizes = memory.estimate(shape, settings.optimiser, load)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    free = memory.free_memory(device)
    if first_time(f"memory {sizes}"):  # what is free differs from job to job
        here.say(memory.line(sizes, free))
    memory.refuse_too_much(sizes, settings.optimiser, load.tokens, free)


def _spreads(recipe: TrainerRecipe, here: World) -> bool:
    return here.size > 1 and recipe.trainer.optimiser.compute.parallel == "fsdp"


def _how(recipe: TrainerRecipe, here: World) -> dict[str, Any]:
    """How weights are loaded. What will be spread is loaded on the CPU: no device holds all of it."""
    model, layout = recipe.student, recipe.trainer.optimiser.compute.layout
    how: dict[str, Any] = {"dtype": model.dtype, "trust_remote_code": model.trust_remote_code, "layout": layout}
    if _spreads(recipe, here) and here.device.type != "cpu":
        how |= {"device": "cpu", "layout": "plain" if layout in ("auto", "split", "kv") else layout}
    return how


def _load(recipe: TrainerRecipe, reading: Reading, here: World) -> Policy:
    import transformers

    transformers.utils.logging.disable_progress_bar()  # a refusal stands alone on stderr
    model, how = reading.start.settings, _how(recipe, here)
    if (line := loading(model, reading.start.folder)) is not None:
        here.say(line)
    try:
        return load(
            str(reading.start.folder), gguf_file=model.gguf_file, initial=model.initial, seed=recipe.seed, **how
        )
    except ValueError as error:
        raise Refusal(f"model {model.path}: {error}", "student.path=FOLDER_OR_HUB_ID") from error


def _method(recipe: TrainerRecipe, reading: Reading, policy: Policy, here: World) -> Method:
    """What every step optimises."""
    settings, pool = recipe.trainer, reading.pool
    wanted = needs(reading.objective)
    deaf = sorted(set(reading.objective) - TOKEN_REWARDS)
    if settings.replay.shaping.token_reward and deaf:
        raise Refusal(
            f"replay.shaping.token_reward says nothing to {', '.join(deaf)}, whose coefficient is one for a whole sample",
            "replay.shaping.token_reward=null, or another objective",
        )
    special = sorted(set(policy.tokenizer.all_special_ids)) if "special" in wanted else None
    return Method(
        reading.objective,
        settings.clip,
        settings.losses,
        pool.temperature if pool else 1.0,
        behaviour_is_reference=pool is not None and pool.rescored is None and pool.rescored_behaviour,
        start_without_adapters=_start_without_adapters(recipe, reading, policy),
        special_n=None if special is None else torch.tensor(special),
        autocast=settings.optimiser.compute.autocast,
        sharded=here.size > 1 and settings.optimiser.compute.parallel == "fsdp",
    )


def _start_without_adapters(recipe: TrainerRecipe, reading: Reading, policy: Policy) -> bool:
    """Whether the reference is the model without its adapters: it is the start, and no other log π of the start is there."""
    pool = reading.pool
    unscored = pool is not None and pool.rescored is None and not pool.rescored_behaviour
    return unscored and recipe.trainer.losses.reference.kind == "initial" and adapted(policy.model)


def _copies(recipe: TrainerRecipe, reading: Reading) -> frozenset[str]:
    """Which copies of the policy the steps compare with."""
    settings, found = recipe.trainer, set()
    wanted = needs(reading.objective)
    leashed = reading.pool is not None and ever(settings.losses, settings.steps)["kl"]
    if settings.losses.reference.kind != "initial" and (leashed or "reference" in wanted):
        found.add(REFERENCE)
    if "prox" in wanted:
        found.add(PROX)
    return frozenset(found)


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
    if reading.soft is not None:
        return math.ceil(replay.epochs * reading.soft.targets.rows / replay.answers)
    return recipe.trainer.steps


def streams(training: Training, cursors: Mapping[str, Any]) -> None:
    """Open the streams where they stood."""
    reading, seed = training.reading, training.recipe.seed
    if reading.pool is not None:
        vector = np.load(training.run.folder / ADVANTAGES, mmap_mode="r")
        source = pool_source(reading.pool, vector)
        training.groups = Stream(source, seed, **cursors.get("groups", {}), prefetch=_prefetch(training.recipe))
    if reading.answers is not None:
        training.answers = Stream(table_source("answers", reading.answers), seed, **cursors.get("answers", {}))
    if reading.corpus is not None:
        limit = context_length(training.policy)
        ahead = _prefetch(training.recipe)
        training.documents = Documents(reading.corpus, seed, limit, **cursors.get("documents", {}), prefetch=ahead)


def _prefetch(recipe: TrainerRecipe) -> int:
    return recipe.trainer.optimiser.compute.prefetch
