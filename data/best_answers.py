"""The reward of each prompt's best teacher answer, for the groups whose statistics it joins.

Reads `groups` (ids), `answers`, `answer_tokens` (lengths) and `answer_rewards`. Writes nothing. Refuses expressions with functions
of a group: what an answer is worth must not depend on what it is ranked with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data.advantages import evaluate, starts_of
from data.expression import Expression, compile_expression
from data.lake import Lake
from data.refusal import Refusal
from data.selection import Candidates, answer_columns, places


def best_answers(lake: Lake, source: Candidates, reward: str, where: str) -> Callable[[np.ndarray], np.ndarray]:
    """group ids (groups,) → reward (groups,) of the best answer to the group's prompt among those that pass `where`.

    NaN where no answer passes or none is scored; the same expression as the samples', over `answer_rewards`."""
    labels = sorted({*source.rewards, *source.answer_rewards})
    expression, condition = compile_expression(reward, labels), compile_expression(where, labels)
    for one in (expression, condition):
        if one.steps:
            raise Refusal(
                f"{one.text!r} has a function of the whole group: an answer that joins a group must be worth the same alone",
                "replay.shaping.answers_join=false, or an expression without zscore_group, rank_group and the like",
            )
    columns = answer_columns(lake, source)
    if columns is None:
        raise ValueError("best_answers needs a slice of answers")
    here = set(columns.column_names)
    if not (expression.names | condition.names) <= here:
        return lambda groups: np.full(len(groups), np.nan)  # a component that no answer has: none is scored

    def value(one: Expression) -> np.ndarray:
        return evaluate(one, columns)

    scores = np.where(value(condition) > 0, value(expression), np.nan)
    starts = starts_of(columns["prompt_id"])
    best = np.fmax.reduceat(scores, starts) if len(starts) else np.zeros(0)
    prompts = columns["prompt_id"].to_numpy()[starts]
    table = lake.read(source.groups, ["group_id", "prompt_id"])
    ids, asked = table["group_id"].to_numpy(), table["prompt_id"].to_numpy()

    def of(groups: np.ndarray) -> np.ndarray:
        place = places((groups,), (ids,))
        if (place < 0).any():
            raise Refusal(
                f"{source.samples.path} holds groups that {source.groups.path} does not", "python -m data verify"
            )
        answered = places((asked[place],), (prompts,))
        return np.where(answered >= 0, best[answered.clip(min=0)] if len(best) else np.nan, np.nan)

    return of
