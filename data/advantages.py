"""From a reward expression to one float32 number a sample, and the normalisations of the group (MATH §3).

Reads `samples` (scalars only) and `rewards`, by position with their keys compared. Writes nothing. Row-wise parts of an
expression run in DuckDB over Arrow columns, group functions as segment reductions: equal to the SQL window form, and quicker.
Refuses slices that hold other samples, unknown methods and rules. An invalid sample is in no numerator and no denominator."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data.expression import Expression, finite
from data.joined import widened
from data.refusal import Refusal, nearest
from data.relations import quoted
from data.segments import Spread, apply, at_rows, ordered, over_blocks, per_row, rank_group, spread

EPSILON = 1e-4  # under σ, as in the GRPO paper's implementation in TRL
FIGURES = ("groups", "groups_kept", "zero_variance", "too_few", "samples", "invalid", "truncated", "in_loss")
TRUNCATED_RULES = ("mask", "drop", "penalise", "keep")


def column_values(column: pa.ChunkedArray) -> np.ndarray:
    """A numeric or boolean column as (rows,) float64, null as NaN, infinities as NaN."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    values = column.cast(pa.float64()).to_numpy()
    if not np.isfinite(values).all():
        values = np.where(np.isfinite(values), values, np.nan)
    return values


def starts_of(keys: pa.ChunkedArray) -> np.ndarray:
    """Rows at which a new group begins. Rows of a group must stand together."""
    found, row, last = [], 0, None
    for chunk in keys.chunks:
        ids = chunk.to_numpy(zero_copy_only=False)
        if not len(ids):
            continue
        if last is None or ids[0] != last:
            found.append(np.array([row]))
        found.append(np.flatnonzero(ids[1:] != ids[:-1]) + (row + 1))
        row, last = row + len(ids), ids[-1]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def evaluate(
    expression: Expression, columns: pa.Table, *, group: str = "group_id", starts: np.ndarray | None = None
) -> np.ndarray:
    """The expression's value for every row, (rows,) float64, NaN where SQL gives NULL or no finite number.

    `columns` holds the columns that the expression names, and `group` unless `starts` gives the groups' first rows."""
    missing = sorted(expression.names - set(columns.column_names))
    if missing:
        raise Refusal(
            f"the expression {expression.text!r} names {missing[0]}, which is not here: "
            f"{nearest(missing[0], columns.column_names)}",
            "python -m data tables",
        )
    if expression.steps and starts is None:
        starts = starts_of(columns[group])
    given = columns.select(sorted(expression.names))
    for step in expression.steps:
        assert starts is not None
        found = apply(step.function, _row_wise(given, step.argument), starts)
        given = given.append_column(step.column, pa.array(found, from_pandas=bool(np.isnan(found).any())))
    return _row_wise(given, expression.row_sql)


def _row_wise(columns: pa.Table, sql: str) -> np.ndarray:
    name = sql[1:-1] if sql.startswith('"') else sql
    if name in columns.column_names and quoted(name) in (sql, quoted(sql)):
        return column_values(columns[name])
    import duckdb

    con = duckdb.connect(":memory:", config={"python_enable_replacements": "false"})
    try:
        con.register("rows", columns)
        return column_values(con.sql(f"SELECT {finite(sql)} AS v FROM rows").to_arrow_table()["v"])
    except duckdb.Error as error:
        raise Refusal(
            f"the expression cannot be computed: {str(error).splitlines()[0]}", 'python -m data inspect "EXPRESSION"'
        ) from error
    finally:
        con.close()


@dataclass(frozen=True)
class Advantages:
    """`vector`: float32, one a sample, 0 outside the loss. `in_loss`: bool a sample. `group_kept`: bool a group.

    `figures`: groups, groups_kept, zero_variance, too_few, samples, invalid, truncated, in_loss (counts)."""

    vector: np.ndarray
    in_loss: np.ndarray
    group_kept: np.ndarray
    figures: dict[str, int]


def advantages(
    values: np.ndarray,
    valid: np.ndarray,
    group_starts: np.ndarray,
    method: str = "mean",
    *,
    min_spread: float = 0.0,
    zero_variance: str = "drop",
    truncated: np.ndarray | None = None,
    on_truncated: str = "mask",
    penalty: float = 0.0,
    joined: np.ndarray | None = None,
) -> Advantages:
    """Advantages of samples whose groups stand together (MATH §3), over a pool or over one step's rows.

    values: (samples,) reward, NaN where there is none; valid, truncated: (samples,) bool; group_starts: (groups,).
    Groups with fewer than two valid samples are out. A group whose σ is 0, or below `min_spread`, counts as zero variance:
    dropped, or kept with advantage 0. Truncated samples: mask (in the baseline, out of the loss), drop (in neither), penalise
    (`penalty` is subtracted from their reward), keep. `mean_batch_std` takes its σ over the rows given: hand it one step.
    joined: (groups,) reward of one more valid row in the group's statistics, NaN where there is none; it is not in the result."""
    _known("advantage method", method, METHODS)
    _known("rule for zero-variance groups", zero_variance, ("drop", "keep"))
    refuse_rule(on_truncated)
    rows = len(values)
    cut = np.zeros(rows, bool) if truncated is None else np.asarray(truncated, bool)
    rule = _Rule(METHODS[method], min_spread, zero_variance == "drop", on_truncated, penalty)
    if joined is not None and not np.isnan(joined).all():
        wide = widened(group_starts, rows, joined)
        behind = joined[~np.isnan(joined)]
        found = advantages(
            wide.fill(values, behind),
            wide.fill(valid, True),
            wide.starts,
            method,
            min_spread=min_spread,
            zero_variance=zero_variance,
            truncated=wide.fill(cut, False),
            on_truncated=on_truncated,
            penalty=penalty,
        )
        counts = {"samples": rows, "in_loss": int(found.in_loss[wide.own].sum())}
        return Advantages(found.vector[wide.own], found.in_loss[wide.own], found.group_kept, found.figures | counts)

    def work(groups: slice, block: slice) -> Advantages:
        return _normalised(values[block], valid[block], group_starts[groups] - block.start, cut[block], rule)

    if method == "mean_batch_std":  # its σ is of all rows together
        parts = [work(slice(0, len(group_starts)), slice(0, rows))]
    else:
        parts = over_blocks(work, group_starts, rows) or [work(slice(0, 0), slice(0, 0))]
    return Advantages(
        np.concatenate([p.vector for p in parts]),
        np.concatenate([p.in_loss for p in parts]),
        np.concatenate([p.group_kept for p in parts]),
        {name: sum(p.figures[name] for p in parts) for name in parts[0].figures},
    )


@dataclass(frozen=True)
class _Rule:
    method: Method
    min_spread: float
    drop_flat: bool
    on_truncated: str
    penalty: float


def _normalised(values: np.ndarray, valid: np.ndarray, starts: np.ndarray, cut: np.ndarray, rule: _Rule) -> Advantages:
    """Advantages of whole groups that fit the cache."""
    rows = len(values)
    reward = _ruled(values, valid, cut, rule)
    found = spread(reward, starts)
    too_few = found.count < 2
    flat = ~too_few & ((found.std == 0) | (found.std < rule.min_spread))
    kept = ~(too_few | flat) if rule.drop_flat else ~too_few
    here = ~np.isnan(reward)
    invalid = rows - int(here.sum())
    here = at_rows(np.logical_and, here, kept, starts)
    raw = rule.method(reward, starts, found, here)
    in_loss = here & ~cut if rule.on_truncated == "mask" else here
    signal = in_loss if rule.drop_flat else at_rows(np.logical_and, in_loss, ~flat, starts)
    counts = (len(starts), kept.sum(), flat.sum(), too_few.sum(), rows, invalid, cut.sum(), in_loss.sum())
    vector = np.where(signal, raw, 0.0).astype(np.float32)
    return Advantages(vector, in_loss, kept, dict(zip(FIGURES, map(int, counts), strict=True)))


def _ruled(values: np.ndarray, valid: np.ndarray, cut: np.ndarray, rule: _Rule) -> np.ndarray:
    """Rewards as the statistics see them, NaN where a sample is in none."""
    reward = np.where(valid & np.isfinite(values), values, np.nan)
    if rule.on_truncated == "drop":
        reward[cut] = np.nan
    elif rule.on_truncated == "penalise":
        reward[cut] -= rule.penalty
    return reward


def raw_rewards(
    values: np.ndarray,
    starts: np.ndarray,
    *,
    truncated: np.ndarray | None = None,
    on_truncated: str = "mask",
    penalty: float = 0.0,
    joined: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(r (samples,), r̄ (groups,)) float64 of objectives that normalise by themselves (MATH §4: asymre, kimi).

    r is NaN where a sample is in no statistic; r̄ is over all others, masked ones and a joined answer included, NaN for none."""
    cut = np.zeros(len(values), bool) if truncated is None else truncated
    reward = _ruled(values, np.ones(len(values), bool), cut, _Rule(_mean, 0.0, True, on_truncated, penalty))
    found = spread(reward, starts)
    total, count = found.mean * found.count, found.count
    if joined is not None:
        here = ~np.isnan(joined)
        total, count = total + np.where(here, joined, 0.0), count + here
    return reward, np.divide(total, count, out=np.full(len(starts), np.nan), where=count > 0)


def refuse_rule(on_truncated: str) -> None:
    """Refuse a rule for cut samples that does not exist."""
    _known("rule for truncated samples", on_truncated, TRUNCATED_RULES)


def _known(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise Refusal(f"no {what} named {name}: {nearest(name, known)}", "python -m trainer --help")


Method = Callable[[np.ndarray, np.ndarray, Spread, np.ndarray], np.ndarray]


def _mean(reward: np.ndarray, starts: np.ndarray, found: Spread, here: np.ndarray) -> np.ndarray:
    """r − r̄ (Dr. GRPO, arXiv 2503.20783)."""
    return at_rows(np.subtract, reward, found.mean, starts)


def _mean_std(reward: np.ndarray, starts: np.ndarray, found: Spread, here: np.ndarray) -> np.ndarray:
    """(r − r̄)/(σ + ε) (GRPO, arXiv 2402.03300 §4.1.2; ε as TRL has it)."""
    return at_rows(np.divide, _mean(reward, starts, found, here), found.std + EPSILON, starts)


def _leave_one_out(reward: np.ndarray, starts: np.ndarray, found: Spread, here: np.ndarray) -> np.ndarray:
    """r minus the mean of the others = G/(G−1)·(r − r̄) (RLOO, arXiv 2402.14740)."""
    scale = found.count / np.maximum(found.count - 1, 1)
    return at_rows(np.multiply, _mean(reward, starts, found, here), scale, starts)


def _rank(reward: np.ndarray, starts: np.ndarray, found: Spread, here: np.ndarray) -> np.ndarray:
    """Mean ranks scaled to [−1, 1]."""
    return rank_group(reward, starts)


def _quantile(reward: np.ndarray, starts: np.ndarray, found: Spread, here: np.ndarray) -> np.ndarray:
    """(N−1)·log F̂, F̂ = (1 + #{k≠j: r_k ≤ r_j})/N, then centred (BOND, arXiv 2407.14622). N is the group's valid samples."""
    count = per_row(np.maximum(found.count, 1), starts, len(reward))
    less, equal = ordered(reward, starts)
    bond = np.where(np.isnan(reward), np.nan, (count - 1) * np.log(np.maximum(less + equal, 1) / count))
    return at_rows(np.subtract, bond, spread(bond, starts).mean, starts)


def _mean_batch_std(reward: np.ndarray, starts: np.ndarray, found: Spread, here: np.ndarray) -> np.ndarray:
    """r − r̄ over σ of all rewards of the kept groups given (Lite PPO, arXiv 2508.08221); 0 where σ is 0."""
    kept = reward[here]
    sigma = kept.std() if len(kept) and kept.min() < kept.max() else np.inf
    return _mean(reward, starts, found, here) / sigma


METHODS: dict[str, Method] = {
    "mean": _mean,
    "mean_std": _mean_std,
    "leave_one_out": _leave_one_out,
    "rank": _rank,
    "quantile": _quantile,
    "mean_batch_std": _mean_batch_std,
}


def is_truncated(finish_reason: pa.ChunkedArray) -> np.ndarray:
    """Which samples were cut by length, (samples,) bool; an unknown reason is not a cut."""
    parts = [np.zeros(0, bool)]
    for chunk in finish_reason.chunks:
        codes = chunk.dictionary_encode() if not pa.types.is_dictionary(chunk.type) else chunk
        cut = codes.dictionary.index("length").as_py()
        indices = codes.indices.fill_null(-1) if codes.null_count else codes.indices
        parts.append(indices.to_numpy() == cut if cut >= 0 else np.zeros(len(chunk), bool))
    return np.concatenate(parts)
