"""What a run reads of its pool: samples, the reward and what shapes it, scores of the policy and of the teacher.

Reads manifests, scalars and footers. Writes nothing. Refuses what the objectives need and the lake lacks: a reward, scores of the
teacher, its soft targets, values a token, answers that may join; and a pool whose μ is missing or that no group can teach
anything."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data import pool as pools
from data.lake import Lake
from data.manifest import Slice
from data.refusal import Refusal, nearest
from trainer.components import component_names, find_components, imported_rewards
from trainer.config import TrainerRecipe
from trainer.objectives import needs, support_kind
from trainer.pool_notes import sampling, say_counts, say_weights, why_none_is_left

if TYPE_CHECKING:
    from data.pool_advantages import PoolAdvantages
    from data.zip import RowGroup
    from trainer.replay import Group
    from trainer.sources import Reading
    from trainer.stream import Source


@dataclass(frozen=True)
class PoolReading:
    """The pool with everything that training reads beside it."""

    pool: pools.Pool
    advantages: PoolAdvantages
    in_loss: np.ndarray
    """Bool by ordinal: samples that count, of groups that are kept."""
    chosen: np.ndarray | None
    """Bool by ordinal: samples that pass `where`, for raft; None: the best of each group."""
    rescored: Slice | None
    temperature: float
    max_tokens: int
    rescored_behaviour: bool
    normalised_by_step: bool
    """Whether advantages depend on what else is in the step (`mean_batch_std`)."""
    teacher: Slice | None = None
    """Scores of the recipe's teacher, where an objective asks for them."""
    soft: Slice | None = None
    """The teacher's log p at several ids of each token, where an objective asks for it."""
    token_reward: tuple[Slice, float] | None = None
    """The component with values a token, and its weight."""
    token_valid: np.ndarray | None = None
    """Bool by ordinal: samples whose token rewards are in their group's mean."""
    blocks: Sequence[RowGroup] = ()
    """The samples' row groups, read from thousands of footers once."""


def read_pool(lake: Lake, recipe: TrainerRecipe, reading: Reading, leash: bool) -> PoolReading:
    """Everything of the pool. `leash`: whether the KL has a weight in any step."""
    from trainer.pool_groups import refuse_behaviour

    wanted, replay = needs(reading.objective), recipe.trainer.replay
    rewarded = bool(wanted & {"reward", "raw_reward"})
    _refuse_settings(recipe, rewarded)
    pool = pools.find_pool(lake, recipe, reading.start.model_id)
    reading.use(pool.prompts)
    for slice_ in (pool.groups, pool.samples):
        reading.use(slice_, read_now=True)
    blocks = refuse_behaviour(pool.samples)
    found = _rewarded(lake, recipe, reading, pool) if rewarded else _unrewarded(pool, replay.truncated)
    for path in found.slices:
        reading.use(lake.slice(path), read_now=True)
    token_slice, token_valid = _token_reward(lake, recipe, reading, pool, found)
    in_loss, length = _in_loss(found, pool, recipe, token_valid)
    raft = recipe.where if "raft" in reading.objective else None
    if raft and not (found.passed & in_loss).any():
        raise Refusal(
            f"where={raft!r}: no sample of {pool.samples.path} passes it, and raft imitates those that do",
            f"python -m data inspect {raft!r} --lake {recipe.lake}",
        )
    say_counts(reading, pool, found, int(in_loss.sum()))
    temperature, max_tokens, rescored_behaviour = sampling(lake, pool, reading)
    initial = recipe.trainer.losses.reference.kind == "initial"
    compared = initial and (leash or "reference" in wanted) and not rescored_behaviour
    compared = compared and not recipe.trainer.optimiser.lora.enabled  # the model without its adapters is the start
    rescored = _rescored(lake, recipe, reading, pool, compared)
    say_weights(reading, pool, rescored, length)
    teacher = _teacher(lake, recipe, reading, pool) if "teacher" in wanted else None
    return PoolReading(
        pool,
        found,
        in_loss,
        found.passed & in_loss if raft else None,
        rescored,
        temperature,
        max_tokens,
        rescored_behaviour,
        normalised_by_step=rewarded and replay.advantage == "mean_batch_std",
        teacher=teacher,
        soft=_soft(lake, recipe, reading, pool, teacher),
        token_reward=None if token_slice is None else (token_slice, replay.shaping.token_weight),
        token_valid=token_valid,
        blocks=blocks,
    )


def _refuse_settings(recipe: TrainerRecipe, rewarded: bool) -> None:
    shaping = recipe.trainer.replay.shaping
    if rewarded and not recipe.reward:
        raise Refusal("the recipe has no reward: losses.rl is above 0", "'reward=NAME_OF_A_COMPONENT', or losses.rl=0")
    if not rewarded and (shaping.answers_join or shaping.token_reward):
        raise Refusal(
            f"replay.shaping changes advantages, and objective={recipe.trainer.objective} reads none",
            "replay.shaping.answers_join=false replay.shaping.token_reward=null, or another objective",
        )
    if shaping.answers_join and not recipe.where:
        raise Refusal(
            "replay.shaping.answers_join: without a where no sample fails it, and no answer would ever join",
            "'where=EXPRESSION', or replay.shaping.answers_join=false",
        )


def _unrewarded(pool: pools.Pool, truncated: str) -> PoolAdvantages:
    from data.pool_advantages import without_reward

    return without_reward(pool.samples, truncated)


def _rewarded(lake: Lake, recipe: TrainerRecipe, reading: Reading, pool: pools.Pool) -> PoolAdvantages:
    from data.pool_advantages import pool_advantages

    replay, reward = recipe.trainer.replay, str(recipe.reward)
    joins = replay.shaping.answers_join
    where = recipe.where if joins or "raft" in reading.objective else None
    names = component_names(lake, recipe, pool.samples, [reward, where])
    components = find_components(lake, recipe, pool.samples, names)
    answers = None
    if joins:
        from trainer.imitation import answer_rewards

        answers = answer_rewards(lake, recipe, reading, pool, components)
    return pool_advantages(
        pool.samples,
        components,
        reward,
        where=where,
        method=replay.advantage,
        min_spread=replay.min_spread,
        zero_variance=replay.zero_variance,
        on_truncated=replay.truncated,
        penalty=replay.penalty,
        best_answers=answers,
        raw=True,  # a step says what reward its samples have, whatever its objective reads
    )


def _token_reward(
    lake: Lake, recipe: TrainerRecipe, reading: Reading, pool: pools.Pool, found: PoolAdvantages
) -> tuple[Slice | None, np.ndarray | None]:
    """The component with values a token, and which samples are in its group means. Refuses one that has none."""
    name = recipe.trainer.replay.shaping.token_reward
    if name is None:
        return None, None
    from data.advantages import column_values
    from data.scalars import read_scalars
    from trainer.pool_groups import has_values

    known = {*recipe.components, *imported_rewards(lake, pool.samples)}
    if name not in known:
        raise Refusal(
            f"replay.shaping.token_reward={name}: no such component: {nearest(name, known)}", "python -m data tables"
        )
    slice_ = reading.use(find_components(lake, recipe, pool.samples, [name])[name])
    if not has_values(slice_):
        raise Refusal(
            f"replay.shaping.token_reward={name}: {slice_.path} has one value a sample, and none a token",
            "replay.shaping.token_reward=null, or a component that fills `values`",
        )
    scored = ~np.isnan(column_values(read_scalars(pool.samples, {name: slice_}, columns=[])[name]))
    return slice_, scored if found.reward is None else scored & ~np.isnan(found.reward)


def _in_loss(
    found: PoolAdvantages, pool: pools.Pool, recipe: TrainerRecipe, token_valid: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """Which samples count, and their mean length. Refuses a pool that none of its groups can teach anything."""
    advantages, figures = found.advantages, found.advantages.figures
    kept = np.repeat(advantages.group_kept, np.diff(found.group_starts, append=len(advantages.in_loss)))
    in_loss = (
        advantages.in_loss & kept & (found.lengths > 0)
    )  # an imported sample may be empty: nothing of it can be predicted
    if token_valid is not None:
        in_loss &= token_valid
    if not in_loss.any():
        if found.sql is None:
            raise Refusal(
                f"{pool.samples.path} has no sample to learn from: {figures['truncated']} of {figures['samples']} were cut",
                "replay.truncated=keep, or a pool with a larger sampling.max_tokens",
            )
        raise Refusal(
            f"reward {recipe.reward!r} leaves no group of {pool.samples.path} to learn from: of {figures['groups']} groups "
            + why_none_is_left(found, recipe.trainer.replay.zero_variance),
            f"python -m data inspect {shlex.quote(recipe.reward or '')} --pool {pool.samples.label} --lake {recipe.lake}",
        )
    return in_loss, float(found.lengths[in_loss].mean())


def _rescored(lake: Lake, recipe: TrainerRecipe, reading: Reading, pool: pools.Pool, needed: bool) -> Slice | None:
    """The policy's own scores: π_old, and the reference where that is the start. Refuses to lack them as a reference."""
    imported = pool.samples.settings.get("import")
    drawn_at = float(imported["temperature"]) if imported else recipe.sampling.temperature
    found = lake.find("scores", pools.scores_key(pool, pool.policy, drawn_at))
    if found is not None:
        return reading.use(found)
    if needed:
        raise Refusal(
            f"{pool.samples.path} has no scores by the policy itself, which the KL is measured from",
            pools.command(recipe, "scores") + ", or losses.kl=0",
        )
    return None


def _teacher(lake: Lake, recipe: TrainerRecipe, reading: Reading, pool: pools.Pool) -> Slice:
    """The teacher's scores of exactly these samples, made token by token."""
    from trainer.pool_groups import refuse_unscored

    scorer, next_command = pools.find_model(lake, recipe.teacher), pools.command(recipe, "scores")
    if recipe.teacher is None:
        raise Refusal(
            f"objective={recipe.trainer.objective} compares with a teacher, and the recipe has none",
            "teacher.path=FOLDER_OR_HUB_ID, or another objective",
        )
    if scorer is None:
        raise Refusal(f"{recipe.lake} has nothing by the teacher {recipe.teacher.path}", next_command)
    found = pools.find_scores(lake, recipe, pool, scorer, 1.0, pools.shown_to_teacher(lake, pool.prompts))
    refuse_unscored(found, next_command)
    return reading.use(found)


def _soft(lake: Lake, recipe: TrainerRecipe, reading: Reading, pool: pools.Pool, teacher: Slice | None) -> Slice | None:
    """The teacher's log p at several ids of each token of exactly these samples; None where no objective reads it."""
    kind = support_kind(reading.objective, recipe.trainer.clip)
    if kind is None or teacher is None:
        return None
    scorer, without = teacher.models["scorer"], "clip.teacher.single=observed"
    return reading.use(pools.find_soft_targets(lake, recipe, pool.samples, scorer, kind, pool.policy, without))


def pool_source(reading: PoolReading, vector: np.ndarray) -> Source[Group]:
    """The pool as a source of groups; `vector` is the advantages' memory-mapped file."""
    from trainer.pool_groups import pool_source as source
    from trainer.replay import Beside, Vectors

    found = reading.advantages
    vectors = Vectors(
        starts=found.group_starts,
        in_loss=reading.in_loss,
        advantages=vector,
        chosen=reading.chosen,
        rewards=found.values if reading.normalised_by_step else None,
        joined=found.joined,
        reward=found.reward,
        baseline=found.baseline,
        token_valid=reading.token_valid,
    )
    values, weight = reading.token_reward or (None, 1.0)
    beside = Beside(reading.rescored, reading.teacher, values, weight, reading.soft)
    return source(reading.pool.samples, reading.pool.groups, beside, vectors, reading.blocks)
