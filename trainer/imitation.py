"""What behaviour cloning copies: the best candidate of each prompt that passes the filter, or every answer of the teacher.

Reads `answers`, `answer_tokens`, `samples`, `groups` and the components that the recipe's expressions name. Refuses answers in
another tokenizer or chat template, and a filter that nothing passes. Leaves out, and counts, what no forward pass can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data import pool as pools
from data.lake import Lake
from data.manifest import Slice
from data.refusal import Refusal
from trainer.components import component_names, find_components
from trainer.config import TrainerRecipe

if TYPE_CHECKING:
    from trainer.sources import Reading

COLUMNS = ["prompt_token_ids", "token_ids"]


def answers(lake: Lake, recipe: TrainerRecipe, reading: Reading) -> pa.Table:
    """The rows that behaviour cloning reads, as `replay.bc` says."""
    if recipe.trainer.replay.bc == "teacher":
        return _teacher(lake, recipe, reading)
    return _best_of_n(lake, recipe, reading)


def fitting(table: pa.Table, context: int | None, notes: list[str]) -> pa.Table:
    """The answers that a model of this context can read with their prompts; what is left out is counted. Refuses to leave none."""
    prompts, lengths = (pc.list_value_length(table[name]).to_numpy() for name in COLUMNS)
    empty = (lengths == 0) | (prompts == 0)
    long = np.zeros_like(empty) if context is None else prompts + lengths > context
    kept = ~empty & ~long
    if not kept.any():
        raise Refusal(
            f"behaviour cloning has no answer to copy: of {len(table)}, {int(empty.sum())} are empty, {int(long.sum())} longer "
            f"than the model's context of {context}",
            "losses.bc=0, or shorter answers",
        )
    if not kept.all():
        notes.append(
            f"answers left out: {int(empty.sum())} empty, {int(long.sum())} longer than the context of {context}"
        )
    return table.filter(pa.array(kept))


def _teacher(lake: Lake, recipe: TrainerRecipe, reading: Reading) -> pa.Table:
    return lake.read(teacher_answers(lake, recipe, reading, "losses.bc=0")[1], COLUMNS)


def teacher_answers(lake: Lake, recipe: TrainerRecipe, reading: Reading, without: str) -> tuple[Slice, Slice]:
    """The teacher's answers and their tokens; `without` is the setting that needs none."""
    prompts = reading.pool.pool.prompts if reading.pool else pools.find_prompts(lake, recipe)
    found = pools.find_answers(lake, recipe, prompts)
    if found is None:
        raise Refusal(f"{prompts.path} has no teacher answers", f"{pools.command(recipe, 'answers')}, or {without}")
    tokens = pools.find_answer_tokens(lake, recipe, found, prompts, reading.start.identity)
    for slice_ in (prompts, found, tokens):
        reading.use(slice_)
    return found, tokens


def answer_rewards(
    lake: Lake, recipe: TrainerRecipe, reading: Reading, pool: pools.Pool, rewards: Mapping[str, Slice]
) -> Callable[[np.ndarray], np.ndarray]:
    """group ids → reward of the best teacher answer that passes `where`: what joins groups of failures (LUFFY)."""
    from data.best_answers import best_answers
    from data.selection import Candidates

    found = pools.find_answers(lake, recipe, pool.prompts)
    if found is None:
        raise Refusal(
            f"{pool.prompts.path} has no teacher answers that could join a group",
            f"{pools.command(recipe, 'answers,rewards')}, or replay.shaping.answers_join=false",
        )
    tokens = pools.find_answer_tokens(lake, recipe, found, pool.prompts, reading.start.identity)
    components = find_components(lake, recipe, found, rewards)
    for slice_ in (found, tokens, *components.values()):
        reading.use(slice_)
    candidates = Candidates(pool.samples, pool.groups, rewards, found, tokens, components)
    return best_answers(lake, candidates, str(recipe.reward), str(recipe.where))


def _best_of_n(lake: Lake, recipe: TrainerRecipe, reading: Reading) -> pa.Table:
    """Live: another reward or filter chooses others, without the factory."""
    from data.selection import Candidates, best_of_n

    if not recipe.reward:
        raise Refusal("best_of_n ranks by the recipe's reward, and it has none", "'reward=…', or replay.bc=teacher")
    pool = reading.pool.pool if reading.pool else pools.find_pool(lake, recipe, reading.start.model_id)
    names = component_names(lake, recipe, pool.samples, [recipe.reward, recipe.where])
    found = pools.find_answers(lake, recipe, pool.prompts)
    tokens = None
    if found is not None:
        tokens = pools.find_answer_tokens(lake, recipe, found, pool.prompts, reading.start.identity)
    candidates = Candidates(
        pool.samples,
        pool.groups,
        find_components(lake, recipe, pool.samples, names),
        found,
        tokens,
        find_components(lake, recipe, found, names) if found else {},
    )
    read = [pool.prompts, pool.groups, pool.samples, *candidates.rewards.values(), *candidates.answer_rewards.values()]
    for slice_ in [*read, *([found, tokens] if found and tokens else [])]:
        reading.use(slice_)
    selected = best_of_n(lake, candidates, recipe.reward, recipe.where)
    chosen = selected.filter(selected["chosen"])
    prompts = len(set(selected["prompt_id"].to_pylist()))
    if not chosen.num_rows:
        raise Refusal(
            f"no candidate of {prompts} prompts passes where={recipe.where!r}: behaviour cloning has no target",
            f"python -m data inspect {recipe.where or recipe.reward!r} --lake {recipe.lake}, or losses.bc=0",
        )
    answered = chosen["source"].to_pylist().count("answer")
    reading.notes.append(
        f"best of n: {chosen.num_rows} of {prompts} prompts have a target, {answered} of them the teacher's answer"
    )
    return chosen.select(COLUMNS)
