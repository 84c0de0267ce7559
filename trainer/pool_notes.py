"""What is said of a pool before training from it: what counts, how it was drawn, how exact its weights will be.

Reads `groups` and, through forecast.py, a few row groups of the pool. Adds to a reading's notes. Refuses several temperatures in
one pool, and one whose behaviour was not recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from data import pool as pools
from data.lake import Lake
from data.manifest import Slice
from data.refusal import Refusal

if TYPE_CHECKING:
    from data.pool_advantages import PoolAdvantages
    from trainer.sources import Reading


def say_counts(reading: Reading, pool: pools.Pool, found: PoolAdvantages, in_loss: int) -> None:
    """How many groups and samples a step can draw, and why not all."""
    counts = found.advantages.figures
    if found.sql is None:
        reading.notes.append(
            f"pool {pool.samples.path}: no objective reads a reward; {in_loss} of {counts['samples']} samples in the loss"
        )
        return
    reading.notes += [
        f"pool {pool.samples.path}: {counts['groups_kept']} of {counts['groups']} groups kept ({counts['zero_variance']} without "
        f"spread, {counts['too_few']} with fewer than two valid samples), {in_loss} samples in the loss",
        f"reward as SQL: {' '.join(found.sql.split())}",
    ]
    if found.joined is not None:
        joined = int((~np.isnan(found.joined)).sum())
        reading.notes.append(f"the teacher's answer joins the statistics of {joined} groups where no sample passes")


def why_none_is_left(found: PoolAdvantages, zero_variance: str) -> str:
    """What took each group of a pool, where none is left: no spread, too few samples, or none but such as were cut by length."""
    advantages, figures = found.advantages, found.advantages.figures
    left = np.zeros(len(found.group_starts), np.int64)
    if len(left):
        left = np.add.reduceat(advantages.in_loss.astype(np.int64), found.group_starts)
    cut = int((advantages.group_kept & (left == 0)).sum())
    empty = int((advantages.group_kept & (left > 0)).sum())
    flat = figures["zero_variance"] if zero_variance == "drop" else 0
    said = [f"{flat} have no spread", f"{figures['too_few']} fewer than two valid samples"]
    said += [f"{cut} no valid sample but such as were cut by length (replay.truncated=keep takes them)"] if cut else []
    said += [f"{empty} no sample with tokens, or token rewards, to learn from"] if empty else []
    total = f"; {figures['truncated']} of {figures['samples']} samples were cut" if figures["truncated"] else ""
    return ", ".join(said) + total


def sampling(lake: Lake, pool: pools.Pool, reading: Reading) -> tuple[float, int, bool]:
    """Temperature and longest sample of the pool, and whether μ was rescored; says what makes the weights less exact."""
    columns = ["temperature", "max_tokens", "logprobs_mode", "support"]
    rows = lake.read(pool.groups, columns)
    values = {name: set(rows.column(name).unique().to_pylist()) for name in columns}
    if len(values["temperature"]) > 1:
        raise Refusal(
            f"{pool.groups.path} mixes temperatures {sorted(map(str, values['temperature']))}",
            "train from one pool at a time",
        )
    if "none" in values["logprobs_mode"]:
        raise Refusal(
            f"{pool.groups.path} has no behaviour log-probabilities",
            "import it again without them: they are rescored then",
        )
    rescored = "rescored" in values["logprobs_mode"]
    if rescored:
        reading.notes.append(
            f"warning: μ of {pool.samples.path} was rescored by the policy, not recorded when sampling: ratios are approximate"
        )
    if "truncated" in values["support"]:
        reading.notes.append(
            f"warning: {pool.samples.path} was sampled with truncated support (top_p or top_k): no weight brings it back"
        )
    (temperature,) = values["temperature"]
    longest = [value for value in values["max_tokens"] if value is not None]
    return float(temperature or 1.0), int(max(longest, default=1)), rescored


def say_weights(reading: Reading, pool: pools.Pool, rescored: Slice | None, length: float) -> None:
    """A warning where whole-sample weights will leave few effective samples, from the cache alone."""
    from trainer.forecast import SEQUENCE_WEIGHTS, forecast

    if rescored is None or not SEQUENCE_WEIGHTS & set(reading.objective):
        return
    deviation, share = forecast(pool.samples, rescored, length)
    if share < 0.5:
        reading.notes.append(
            f"warning: engine and trainer differ by {deviation:.3g} nats a token (sd): at {length:.0f} tokens a sample the weight "
            f"of a whole one leaves ESS/n of about {share:.2g}"
        )
