"""What behaviour cloning copies: the best candidate of each prompt that passes the filter, or every answer of the teacher.

Reads `answers`, `answer_tokens`, `samples`, `groups` and the components that the recipe's expressions name. Refuses answers in
another tokenizer or chat template, and a filter that nothing passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data import pool as pools
from data.lake import Lake
from data.refusal import Refusal
from trainer.config import TrainerRecipe
from trainer.replay import Text, table_source
from trainer.stream import Source

if TYPE_CHECKING:
    from trainer.sources import Reading


def answers(lake: Lake, recipe: TrainerRecipe, reading: Reading) -> Source[Text]:
    """The rows that behaviour cloning reads, as `replay.bc` says."""
    if recipe.trainer.replay.bc == "teacher":
        return _teacher(lake, recipe, reading)
    return _best_of_n(lake, recipe, reading)


def _teacher(lake: Lake, recipe: TrainerRecipe, reading: Reading) -> Source[Text]:
    prompts = reading.pool.pool.prompts if reading.pool else pools.find_prompts(lake, recipe)
    found = pools.find_answers(lake, recipe, prompts)
    if found is None:
        raise Refusal(f"{prompts.path} has no teacher answers", pools.command(recipe, "answers") + ", or losses.bc=0")
    tokens = pools.find_answer_tokens(lake, recipe, found, prompts, reading.start.identity)
    for slice_ in (prompts, found, tokens):
        reading.use(slice_)
    return table_source("answers", lake.read(tokens, ["prompt_token_ids", "token_ids"]))


def _best_of_n(lake: Lake, recipe: TrainerRecipe, reading: Reading) -> Source[Text]:
    raise NotImplementedError
