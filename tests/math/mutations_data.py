"""Mistakes between a reward expression and one advantage a sample, in best-of-N, stored precision and views (MATH §3, §11)."""

from __future__ import annotations

from mutation import Mutation, named

ADVANTAGES, SEGMENTS, SELECTION = "data/advantages.py", "data/segments.py", "data/selection.py"
STORAGE, EXPRESSION, VIEWS, BOARD = "data/storage.py", "data/expression.py", "data/views.py", "data/leaderboard.py"


def method(name: str) -> tuple[str, ...]:
    """The hand-worked numbers and the loop of one normalisation."""
    tests = (f"test_golden_numbers[{name}]", f"test_every_method_equals_its_loop[{name}]")
    return named("tests/data/test_advantages.py", *tests)


MEAN, MEAN_STD, OTHERS, RANK, QUANTILE, BATCH = (
    method(name) for name in ("mean", "mean_std", "leave_one_out", "rank", "quantile", "mean_batch_std")
)
RULES = named(
    "tests/data/test_advantages.py",
    "test_every_figure_is_counted",
    "test_kept_zero_variance_groups_are_in_the_loss_with_advantage_zero",
    "test_a_group_below_the_least_spread_counts_as_zero_variance",
    "test_invalid_samples_are_in_no_numerator_and_no_denominator",
    "test_truncated_samples",
    "test_an_unknown_finish_reason_is_no_cut",
)
IDS = named("tests/data/test_views.py", "test_an_id_copied_from_any_output_can_be_asked_for")
JOINED = named("tests/data/test_views.py", "test_a_view_joins_a_table_by_slice_and_keys_and_no_other_pools_rows")
BEST = named(
    "tests/data/test_inspection.py",
    "test_best_samples_are_of_different_groups_and_texts_and_teach_something_first",
)
EDGES = named("tests/data/test_advantages.py", "test_group_starts_do_not_depend_on_chunks")
INFINITE = named("tests/data/test_advantages.py", "test_an_infinite_component_is_missing")
FIGURES = named("tests/data/test_figures.py")
SPREAD = named("tests/data/test_segments.py")
CHOICE = named("tests/data/test_selection.py")
BITS = named("tests/data/test_storage.py", "test_rounding_keeps_fifteen_bits")
BOND = named("tests/math/test_bond.py")
HAND = named("tests/data/test_expression.py")
POOL = named(
    "tests/data/test_advantages.py",
    "test_the_pinned_sql_runs_on_the_lake_and_gives_the_same_values",
    "test_samples_cut_by_length_are_masked_by_default",
)
WINDOWS = named("tests/data/test_advantages.py", "test_segments_equal_the_sql_window_form")
SHOWN = named(
    "tests/data/test_views.py",
    "test_group_table_has_population_statistics",
    "test_best_of_n_takes_the_lowest_index_among_equals",
    "test_leaderboard_is_the_newest_evaluation_and_each_runs_last_probe",
    "test_cost_table_sums_and_leaves_unknown_tokens_unknown",
    "test_reward_table_has_a_row_a_sample_and_a_column_a_component",
)

# fmt: off
MUTATIONS = [
    # the normalisations
    Mutation(ADVANTAGES, "at_rows(np.subtract, reward, found.mean, starts)", "at_rows(np.subtract, -reward, -found.mean, starts)",
             "advantage mean: sign", MEAN),
    Mutation(ADVANTAGES, "at_rows(np.subtract, reward, found.mean, starts)", "reward", "advantage mean: not centred", MEAN),
    Mutation(ADVANTAGES, "at_rows(np.subtract, reward, found.mean, starts)", "reward - np.nanmean(reward)",
             "advantage mean: of the pool", MEAN),
    Mutation(ADVANTAGES, "found.std + EPSILON, starts)", "found.std, starts)", "advantage mean_std: no ε", MEAN_STD),
    Mutation(ADVANTAGES, "EPSILON = 1e-4", "EPSILON = 1e-2", "advantage mean_std: size of ε", MEAN_STD),
    Mutation(ADVANTAGES, "at_rows(np.divide, _mean(", "at_rows(np.multiply, _mean(", "advantage mean_std: times σ", MEAN_STD),
    Mutation(ADVANTAGES, "found.std + EPSILON, starts)", "np.square(found.std) + EPSILON, starts)",
             "advantage mean_std: variance", MEAN_STD),
    Mutation(ADVANTAGES, "found.count / np.maximum(found.count - 1, 1)", "(found.count - 1) / np.maximum(found.count, 1)",
             "advantage leave_one_out: (G − 1)/G", OTHERS),
    Mutation(ADVANTAGES, "scale = found.count / np.maximum(found.count - 1, 1)",
             "scale = np.diff(starts, append=len(reward)) / np.maximum(np.diff(starts, append=len(reward)) - 1, 1)",
             "advantage leave_one_out: G counts the invalid", OTHERS),
    Mutation(ADVANTAGES, "(count - 1) * np.log", "count * np.log", "advantage quantile: N for N − 1", QUANTILE),
    Mutation(ADVANTAGES, "np.maximum(less + equal, 1)", "np.maximum(less, 1)", "advantage quantile: below, not at most", QUANTILE),
    Mutation(ADVANTAGES, "at_rows(np.subtract, bond, spread(bond, starts).mean, starts)", "bond",
             "advantage quantile: not centred", QUANTILE),
    Mutation(ADVANTAGES, "per_row(np.maximum(found.count, 1), starts, len(reward))",
             "per_row(np.diff(starts, append=len(reward)).astype(float), starts, len(reward))",
             "advantage quantile: N counts the invalid", QUANTILE),
    Mutation(ADVANTAGES, "kept = reward[here]", "kept = reward[~np.isnan(reward)]",
             "advantage mean_batch_std: σ of dropped groups", BATCH),
    Mutation(ADVANTAGES, "sigma = kept.std() if", "sigma = kept.std(ddof=1) if", "advantage mean_batch_std: n − 1", BATCH),
    Mutation(ADVANTAGES, "found, here) / sigma", "found, here) * sigma", "advantage mean_batch_std: times σ", BATCH),
    Mutation(ADVANTAGES, 'if method == "mean_batch_std":', "if False:", "advantage mean_batch_std: σ of a block",
             named("tests/data/test_advantages.py", "test_the_batchs_spread_is_of_all_its_rows_however_many")),
    Mutation(ADVANTAGES, "return rank_group(reward, starts)", "return -rank_group(reward, starts)", "advantage rank: sign", RANK),
    # who counts
    Mutation(ADVANTAGES, "np.where(valid & np.isfinite(values), values, np.nan)", "np.where(np.isfinite(values), values, np.nan)",
             "advantage: an invalid sample in the mean", RULES),
    Mutation(ADVANTAGES, "np.where(valid & np.isfinite(values), values, np.nan)", "np.where(valid, values, np.nan)",
             "advantage: an infinite sample in the mean", RULES),
    Mutation(ADVANTAGES, "too_few = found.count < 2", "too_few = found.count < 1", "advantage: a group of one is kept", RULES),
    Mutation(ADVANTAGES, "(found.std < rule.min_spread)", "(found.std > rule.min_spread)", "advantage: min_spread turned", RULES),
    Mutation(ADVANTAGES, "((found.std == 0) | (found.std < rule.min_spread))", "(found.std == 0)",
             "advantage: no min_spread", RULES),
    Mutation(ADVANTAGES, "((found.std == 0) | (found.std < rule.min_spread))", "(found.std < rule.min_spread)",
             "advantage: no zero variance", RULES),
    Mutation(ADVANTAGES, 'zero_variance == "drop", on_truncated', 'zero_variance == "keep", on_truncated',
             "advantage: keep and drop swapped", RULES),
    Mutation(ADVANTAGES, "in_loss if rule.drop_flat else at_rows(np.logical_and, in_loss, ~flat, starts)", "in_loss",
             "advantage: kept flat groups below min_spread push", RULES),
    Mutation(ADVANTAGES, 'if rule.on_truncated == "drop":\n        reward[cut] = np.nan', 'if False:\n        reward[cut] = np.nan',
             "advantage: dropped cuts stay in the baseline", RULES),
    Mutation(ADVANTAGES, "reward[cut] -= rule.penalty", "reward[cut] += rule.penalty", "advantage: sign of the penalty", RULES),
    Mutation(ADVANTAGES, "reward[cut] -= rule.penalty", "reward -= rule.penalty", "advantage: penalty of everyone", RULES),
    Mutation(ADVANTAGES, 'here & ~cut if rule.on_truncated == "mask"', 'here if rule.on_truncated == "mask"',
             "advantage: masked cuts in the loss", RULES),
    Mutation(ADVANTAGES, 'here & ~cut if rule.on_truncated == "mask" else here', "here & ~cut",
             "advantage: kept cuts out of the loss", RULES),
    Mutation(ADVANTAGES, "np.where(signal, raw, 0.0)", "np.where(here, raw, 0.0)", "advantage: outside the loss", RULES),
    Mutation(ADVANTAGES, "np.where(np.isfinite(values), values, np.nan)\n    return values", "values\n    return values",
             "expression: infinities pass", INFINITE),
    Mutation(ADVANTAGES, "np.flatnonzero(ids[1:] != ids[:-1]) + (row + 1)", "np.flatnonzero(ids[1:] != ids[:-1]) + 1",
             "groups: starts within a chunk", EDGES),
    Mutation(ADVANTAGES, "if last is None or ids[0] != last:", "if True:", "groups: a chunk begins one", EDGES),
    Mutation("data/pool_advantages.py", "PoolAdvantages(values, passed > 0, ", "PoolAdvantages(values, passed >= 0, ",
             "filter: false passes", POOL),
    Mutation(ADVANTAGES, 'index("length")', 'index("stop")', "truncated: which reason", POOL),
    # statistics of groups
    Mutation(SEGMENTS, "std = np.sqrt(np.add.reduceat(deviation, starts) / divisor)",
             "std = np.sqrt(np.add.reduceat(deviation, starts) / np.maximum(divisor - 1, 1))", "spread: n − 1", SPREAD),
    Mutation(SEGMENTS, "std = np.sqrt(np.add.reduceat(deviation, starts) / divisor)",
             "std = np.add.reduceat(deviation, starts) / divisor", "spread: variance", SPREAD),
    Mutation(SEGMENTS, "deviation[~here] = 0.0", "deviation[~here] += 0.0", "spread: absent values deviate", SPREAD),
    Mutation(SEGMENTS, "np.add.reduceat(here, starts, dtype=np.float64)", "sizes(starts, len(values)).astype(np.float64)",
             "spread: absent values counted", SPREAD),
    Mutation(SEGMENTS, "mean = np.add.reduceat(known, starts) / divisor", "mean = np.add.reduceat(known, starts)",
             "spread: sum for mean", SPREAD),
    Mutation(SEGMENTS, "std[equal], mean[equal] = 0.0, lowest[equal]", "pass", "spread: rounding is no spread", HAND),
    Mutation(SEGMENTS, "found.count > 0, found.mean, np.nan", "found.count >= 0, found.mean, np.nan",
             "mean_group: 0 where nothing is", WINDOWS),
    Mutation(SEGMENTS, "np.divide(1.0, found.std,", "np.divide(1.0, np.square(found.std),", "zscore_group: variance", HAND),
    Mutation(SEGMENTS, "at_rows(np.multiply, at_rows(np.subtract, values, found.mean, starts), inverse, starts)",
             "at_rows(np.multiply, values, inverse, starts)", "zscore_group: not centred", HAND),
    Mutation(SEGMENTS, "(values - known.mean()) / known.std()", "(values - known.mean()) / known.std(ddof=1)",
             "zscore_all: n − 1", WINDOWS),
    Mutation(SEGMENTS, "(values - known.mean()) / known.std()", "values / known.std()", "zscore_all: not centred", WINDOWS),
    Mutation(SEGMENTS, "np.where(np.isnan(values), np.nan, 0.0)", "np.zeros(len(values))", "zscore_all: absent is 0", SPREAD),
    Mutation(SEGMENTS, "less + (equal - 1) / 2", "less + equal - 1", "rank: highest of equals", RANK),
    Mutation(SEGMENTS, "less + (equal - 1) / 2", "less", "rank: lowest of equals", RANK),
    Mutation(SEGMENTS, "np.divide(2 * rank, others", "np.divide(rank, others", "rank: scaled to [−1, 0]", RANK),
    Mutation(SEGMENTS, "starts, len(values)) - 1\n    scaled", "starts, len(values))\n    scaled", "rank: over n, not n − 1", RANK),
    Mutation(SEGMENTS, "out=np.ones(len(values)), where=others > 0", "out=np.zeros(len(values)), where=others > 0",
             "rank: −1 in a group of one", HAND),
    Mutation(SEGMENTS, "(one[:, None, :] < one[:, :, None])", "(one[:, None, :] > one[:, :, None])", "order: turned", SPREAD),
    Mutation(SEGMENTS, "(one[:, None, :] < one[:, :, None])", "(one[:, None, :] <= one[:, :, None])",
             "order: equals are smaller", SPREAD),
    Mutation(SEGMENTS, "starts[groups] - rows.start)", "starts[groups])", "blocks: starts of the whole", SPREAD),
    Mutation(SEGMENTS, 'if name == "zscore_all":', "if False:", "zscore_all: over a block", SPREAD),
    # best of n
    Mutation(SELECTION, "_ranked(np.where(passed, score, np.nan), starts)", "_ranked(score, starts)",
             "best of n: ranked before the filter", CHOICE),
    Mutation(SELECTION, "np.lexsort((np.arange(rows), -score, prompt))", "np.lexsort((np.arange(rows), score, prompt))",
             "best of n: ascending", CHOICE),
    Mutation(SELECTION, "np.lexsort((np.arange(rows), -score, prompt))", "np.lexsort((-np.arange(rows), -score, prompt))",
             "best of n: the last of equals", CHOICE),
    Mutation(SELECTION, "np.lexsort((np.arange(rows), -score, prompt))", "np.lexsort((np.arange(rows), -score))",
             "best of n: over all prompts", CHOICE),
    Mutation(SELECTION, "starts, rows) + 1\n", "starts, rows)\n", "best of n: ranks from 0", CHOICE),
    Mutation(SELECTION, "rank[~ranked] = 0", "rank[~ranked] += 0", "best of n: what is missing has a rank", CHOICE),
    Mutation(SELECTION, "(rank > 0) & (rank <= best)", "rank <= best", "best of n: what is not ranked is chosen", CHOICE),
    Mutation(SELECTION, "(rank > 0) & (rank <= best)", "(rank > 0) & (rank < best)", "best of n: one too few", CHOICE),
    Mutation(SELECTION, "starts=starts) > 0  # NaN", "starts=starts) != 0  # NaN", "best of n: a null filter passes", CHOICE),
    Mutation(SELECTION, "(count - higher) / np.maximum(count, 1)", "higher / np.maximum(count, 1)",
             "best of n: quantile turned", CHOICE),
    Mutation(SELECTION, "(count - higher) / np.maximum(count, 1)", "(count - higher - 1) / np.maximum(count, 1)",
             "best of n: quantile without its own", CHOICE),
    Mutation(SELECTION, "higher[order] = run_start - per_row", "higher[order] = np.arange(rows) - per_row",
             "best of n: equals have different quantiles", CHOICE),
    Mutation(SELECTION, "np.add.reduceat(ranked, starts", "np.add.reduceat(ranked | True, starts",
             "best of n: quantile over the filtered", CHOICE),
    # precision
    Mutation(STORAGE, "np.uint32(1 << (DROPPED_BITS - 1))", "np.uint32(0)", "precision: cut, not rounded", BITS),
    Mutation(STORAGE, "np.uint32(1 << (DROPPED_BITS - 1))", "np.uint32(1 << DROPPED_BITS)", "precision: half is a whole", BITS),
    Mutation(STORAGE, "DROPPED_BITS = 23 - 15", "DROPPED_BITS = 23 - 12", "precision: 12 bits", BITS),
    Mutation(STORAGE, "DROPPED_BITS = 23 - 15", "DROPPED_BITS = 23 - 18", "precision: 18 bits", BITS),
    # expressions as SQL
    Mutation(EXPRESSION, "least(greatest({0}, {1}), {2})", "greatest(least({0}, {1}), {2})", "clip: turned", HAND),
    Mutation(EXPRESSION, '"Sub": "-", "Mul"', '"Sub": "+", "Mul"', "expression: minus", HAND),
    Mutation(EXPRESSION, 'ORDER BY {x} NULLS LAST', 'ORDER BY {x} DESC NULLS LAST', "rank_group in SQL: turned", WINDOWS),
    Mutation(EXPRESSION, "ln((rank() OVER r - 1 + count(*) OVER t)", "ln((rank() OVER r - 1)",
             "log quantile in SQL: strictly lower", WINDOWS),
    Mutation(EXPRESSION, "THEN ln((rank() OVER r - 1 + count(*) OVER t) ", "THEN ((rank() OVER r - 1 + count(*) OVER t) ",
             "log quantile in SQL: the quantile itself", WINDOWS),
    Mutation(EXPRESSION, "ln((rank() OVER r - 1 + count(*) OVER t)", "ln((rank() OVER r)",
             "log quantile in SQL: an equal counts once", WINDOWS),
    Mutation(EXPRESSION, '"/ CAST(count({x}) OVER g AS DOUBLE)) END"', '"/ CAST(count(*) OVER g AS DOUBLE)) END"',
             "log quantile in SQL: N counts the missing", WINDOWS),
    Mutation(EXPRESSION, '"/ CAST(count({x}) OVER g AS DOUBLE)) END"', '"/ CAST(count({x}) OVER a AS DOUBLE)) END"',
             "log quantile in SQL: N of the pool", WINDOWS),
    Mutation(EXPRESSION, '"log_quantile_group": "CASE WHEN {x} IS NOT NULL THEN', '"log_quantile_group": "CASE WHEN TRUE THEN',
             "log quantile in SQL: a missing value has one", WINDOWS),
    # best-of-N distillation
    Mutation(SEGMENTS, "np.divide(less + equal, count", "np.divide(less, count", "log quantile: strictly lower", BOND),
    Mutation(SEGMENTS, "return np.log(share)", "return share", "log quantile: the quantile itself", BOND),
    Mutation(SEGMENTS, "    share = np.divide(less + equal, count,",
             "    count = per_row(np.diff([*starts, len(values)]), starts, len(values))\n"
             "    share = np.divide(less + equal, count,", "log quantile: N counts the missing", BOND),
    # views
    Mutation(VIEWS, 'f"stddev_pop({x})"', 'f"stddev_samp({x})"', "group_table: n − 1", SHOWN),
    Mutation(VIEWS, "ORDER BY value DESC, sample_index) = 1", "ORDER BY value, sample_index) = 1", "best_of_n view: worst", SHOWN),
    Mutation(VIEWS, "ORDER BY value DESC, sample_index) = 1", "ORDER BY value DESC, sample_index DESC) = 1",
             "best_of_n view: the last of equals", SHOWN),
    Mutation(BOARD, "sum(metrics['bits']) / sum(metrics['bytes'])", "avg(metrics['bits'] / metrics['bytes'])",
             "bits per byte: mean of documents", FIGURES),
    Mutation(BOARD, "sum(metrics['bits']) / sum(metrics['bytes'])", "sum(metrics['bytes']) / sum(metrics['bits'])",
             "bits per byte: turned", FIGURES),
    Mutation(BOARD, "o.ordinal = max(o.ordinal) OVER", "o.ordinal = min(o.ordinal) OVER", "leaderboard: the oldest", SHOWN),
    Mutation(BOARD, "step = max(step) OVER (PARTITION BY run)", "step = min(step) OVER (PARTITION BY run)",
             "leaderboard: the first probe", SHOWN),
    Mutation(VIEWS, "coalesce(sum(tokens_out), 0)) / sum(seconds)", "coalesce(sum(tokens_out), 0)) * sum(seconds)",
             "cost_table: rate", SHOWN),
    Mutation(VIEWS, ".valid THEN c{number}.value END", ".valid OR TRUE THEN c{number}.value END",
             "reward_table: invalid values shown", FIGURES),
    Mutation("data/relations.py", """f"lpad(lower(hex({column})), 16, '0')\"""",
             'f"lower(hex({column}))"', "ids: zeros in front lost", IDS),
    Mutation("data/relations.py", "if column.type == pa.uint64() else name", "if False else name", "ids: numbers in tables", IDS),
    Mutation(VIEWS, "{literal(pool.samples.name)} AS slice", "{literal(name)} AS slice",
             "reward_table: the pool for its slice", JOINED),
    Mutation("data/inspection.py", "order[vector[order] != 0], order[vector[order] == 0]",
             "order[vector[order] == 0], order[vector[order] != 0]", "inspect: samples without an advantage first", BEST),
    Mutation("data/scalars.py", 'pc.if_else(rows["valid"], rows["value"], None)', 'rows["value"]',
             "advantage: an invalid value is read", FIGURES),
]
# fmt: on
