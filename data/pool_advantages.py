"""A whole pool's advantages from its slices: one float32 number a sample, by ordinal.

Reads `samples` (scalars only) and `rewards`, by position with their keys compared. Writes nothing. Refuses slices that hold other
samples, and what data/advantages.py and data/expression.py refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from data.advantages import FIGURES, Advantages, advantages, evaluate, is_truncated, raw_rewards, refuse_rule, starts_of
from data.expression import compile_expression
from data.joined import only_where_none_passes
from data.manifest import Slice
from data.scalars import KEYS, read_scalars


@dataclass(frozen=True)
class PoolAdvantages:
    """A whole pool's advantages by ordinal. `values`: the expression's value, float64; `passed`: the filter's verdict.

    `sql` and `slices` are what `runs` pins: the window form (None: no reward was read), and `table/slice` of everything read.
    `joined`: reward of the answer in each group's statistics, NaN for none. `reward` and `baseline`: see `raw_rewards`."""

    values: np.ndarray
    passed: np.ndarray
    group_starts: np.ndarray
    advantages: Advantages
    lengths: np.ndarray
    """Tokens of each sample, read with the rest: going through thousands of shards once more takes seconds."""
    sql: str | None
    slices: tuple[str, ...]
    joined: np.ndarray | None = None
    reward: np.ndarray | None = None
    baseline: np.ndarray | None = None


def pool_advantages(
    samples: Slice,
    rewards: Mapping[str, Slice],
    reward: str,
    *,
    where: str | None = None,
    method: str = "mean",
    min_spread: float = 0.0,
    zero_variance: str = "drop",
    on_truncated: str = "mask",
    penalty: float = 0.0,
    best_answers: Callable[[np.ndarray], np.ndarray] | None = None,
    raw: bool = False,
) -> PoolAdvantages:
    """Compile, read, evaluate and normalise. `rewards`: component label → its slice for exactly these samples.

    `where` only marks samples in `passed` (null does not pass); it takes none out of the statistics. `best_answers`: group ids
    → rewards of answers (NaN for none), which join the groups where no sample passes. `raw`: whether to give r and r̄ as well."""
    expression = compile_expression(reward, rewards)
    condition = compile_expression(where, rewards) if where else None
    names = expression.names | (condition.names if condition else frozenset())
    used = {label: slice_ for label, slice_ in rewards.items() if label in names}
    looks_at_cuts = {"finish_reason"} if on_truncated != "keep" else set()
    columns = read_scalars(samples, used, columns=sorted((names - set(used)) | looks_at_cuts | {"n_tokens"}))
    starts = starts_of(columns[KEYS[0]])
    values = evaluate(expression, columns, starts=starts)
    passed = evaluate(condition, columns, starts=starts) if condition else np.ones(len(values))
    joined = None
    if best_answers is not None:
        ids = columns[KEYS[0]].take(pa.array(starts)).to_numpy()
        joined = only_where_none_passes(best_answers(ids), passed > 0, starts)
    cut = is_truncated(columns["finish_reason"]) if looks_at_cuts else None
    found = advantages(
        values,
        ~np.isnan(values),
        starts,
        method,
        min_spread=min_spread,
        zero_variance=zero_variance,
        truncated=cut,
        on_truncated=on_truncated,
        penalty=penalty,
        joined=joined,
    )
    slices = (samples.path, *(slice_.path for slice_ in used.values()))
    lengths = columns["n_tokens"].to_numpy()
    made = PoolAdvantages(values, passed > 0, starts, found, lengths, expression.sql, slices, joined)
    if not raw:
        return made
    own, baseline = raw_rewards(
        values, starts, truncated=cut, on_truncated=on_truncated, penalty=penalty, joined=joined
    )
    return replace(made, reward=own, baseline=baseline)


def without_reward(samples: Slice, on_truncated: str = "mask") -> PoolAdvantages:
    """A pool for objectives that read no reward: every sample is in the loss, but those that the rule for cut ones takes out."""
    refuse_rule(on_truncated)
    columns = read_scalars(samples, {}, columns=["finish_reason", "n_tokens"])
    starts, rows = starts_of(columns[KEYS[0]]), len(columns)
    cut = is_truncated(columns["finish_reason"])
    in_loss = ~cut if on_truncated in ("mask", "drop") else np.ones(rows, bool)
    kept = np.ones(len(starts), bool)
    counts = (len(starts), len(starts), 0, 0, rows, 0, int(cut.sum()), int(in_loss.sum()))
    found = Advantages(np.zeros(rows, np.float32), in_loss, kept, dict(zip(FIGURES, counts, strict=True)))
    nothing, every, lengths = np.full(rows, np.nan), np.ones(rows, bool), columns["n_tokens"].to_numpy()
    return PoolAdvantages(nothing, every, starts, found, lengths, None, (samples.path,))
