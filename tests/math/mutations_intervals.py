"""Mistakes in how sure a benchmark's figures are: level, pairing, clusters, nulls, p, and what the leaderboard shows of them."""

from __future__ import annotations

from mutation import Mutation, named

INTERVALS, BOARD, RELATIONS, STAGE = (
    "data/intervals.py",
    "data/leaderboard.py",
    "data/relations.py",
    "factory/stages/intervals.py",
)


def tests(*names: str) -> tuple[str, ...]:
    """Tests of intervals."""
    return named("tests/data/test_intervals.py", *names)


def shown(*names: str) -> tuple[str, ...]:
    """Tests of the leaderboard."""
    return named("tests/data/test_leaderboard.py", *names)


THEORY = tests("test_a_means_interval_is_that_of_the_normal_theory", "test_four_items_by_hand")
PAIRED = tests(
    "test_a_difference_is_taken_item_by_item", "test_an_advance_that_is_the_same_on_every_item_does_not_vary"
)
RATIO = tests("test_a_ratio_of_sums_is_drawn_as_one")
REPEATED = tests("test_a_question_asked_ten_times_is_not_ten_questions")
WEIGHTS = tests("test_items_asked_more_often_weigh_more_as_in_the_plain_mean")
NULLS = tests("test_nulls_are_left_out_and_n_says_so")
LACKING = tests("test_rows_that_lack_a_part_of_a_whole_set_measure_are_left_out")
OTHERS = tests("test_the_same_number_with_other_right_answers_is_another_item")
ALIKE = tests("test_one_item_and_items_all_alike_have_no_interval")
TWICE = tests("test_p_is_twice_the_share_beyond_nothing")
STALE = shown("test_intervals_of_an_older_evaluation_are_shown_no_more")
MIRROR = shown("test_differences_stand_both_ways_round")
PARTS = shown("test_a_whole_set_measure_stands_in_place_of_its_parts")
PUBLISHED = shown("test_published_figures_stand_beside_own_ones_of_that_benchmark_and_are_never_compared")
RANKED = shown("test_rank_1_is_the_best_of_a_recipe_whichever_way_its_metric_points")
LATER = named("tests/factory/stages/test_intervals.py")

# fmt: off
MUTATIONS = [
    Mutation(INTERVALS, "confidence_level=LEVEL", "confidence_level=0.9", "interval level: 90 %", THEORY),
    Mutation(INTERVALS, "confidence_level=LEVEL", "confidence_level=0.99", "interval level: 99 %", THEORY),
    Mutation(INTERVALS, "values[f[-1]] - values[f[0]]", "values[f[-1]] - np.roll(values[f[0]], 1)",
             "interval pairing: each policy on draws of its own", PAIRED),
    Mutation(INTERVALS, "values[f[-1]] - values[f[0]]", "values[f[0]] - values[f[-1]]", "interval difference: turned", PAIRED),
    Mutation(INTERVALS, "np.logical_and.reduce([has[", "np.logical_or.reduce([has[",
             "interval pairing: items that only one has", NULLS),
    Mutation(INTERVALS, "times = np.bincount(places.ravel(), minlength=draws * n)",
             "times = np.minimum(np.bincount(places.ravel(), minlength=draws * n), 1)", "interval draws: none twice", THEORY),
    Mutation(INTERVALS, "np.unique(np.array(asked, object), return_inverse=True)",
             "(np.arange(evaluations.num_rows),) * 2", "interval clustering: rows for items", REPEATED),
    Mutation(INTERVALS, "[id_, *(gold or ())]", "[id_]", "interval pairing: other questions under the same number", OTHERS),
    Mutation(INTERVALS, "np.nansum(array, axis=1)", "np.nanmean(array, axis=1)", "interval mean: sums of means", WEIGHTS),
    Mutation(INTERVALS, "np.nan if value is None else value", "value or 0.0", "interval: null is 0", NULLS),
    Mutation(INTERVALS, "np.full((items, seen.max()), np.nan)", "np.full((items, seen.max()), 0.0)",
             "interval: an item without a value is 0", tests("test_an_item_without_a_row_or_without_the_metric_is_no_zero")),
    Mutation(INTERVALS, "np.logical_or.reduce([np.isnan", "np.logical_and.reduce([np.isnan",
             "interval measure: rows of which a part is missing", LACKING),
    Mutation(INTERVALS, "np.ptp(self.draws) <= SAME", "np.ptp(self.draws) < 0.0", "interval: certain where nothing varies", ALIKE),
    Mutation(INTERVALS, "array[items].ravel()", "array.ravel()", "interval measure: not of the items drawn", RATIO),
    Mutation(INTERVALS, "2 * (1 + other) / (1 + len(draws))", "(1 + other) / (1 + len(draws))", "p: one-sided", TWICE),
    Mutation(INTERVALS, "2 * (1 + other) / (1 + len(draws))", "2 * other / len(draws)", "p: can be 0", TWICE),
    Mutation(INTERVALS, "other = min((draws <= 0).sum(), (draws >= 0).sum())", "other = (draws <= 0).sum()",
             "p: of advances only", TWICE),
    Mutation(BOARD, "ON l.slice = m.evaluation", "ON true", "leaderboard: intervals of an older evaluation", STALE),
    Mutation(BOARD, "0 - value, 0 - high, 0 - low", "0 - value, 0 - low, 0 - high", "differences: ends turned", MIRROR),
    Mutation(BOARD, "m.key) NOT IN (FROM parts)", "m.key) NOT IN (FROM parts WHERE false)", "leaderboard: parts shown", PARTS),
    Mutation(BOARD, "count(DISTINCT item) FILTER (m.value IS NOT NULL)", "count(item)", "leaderboard: n counts rows",
             shown("test_n_counts_items_not_rows")),
    Mutation(BOARD, "WHERE benchmark IN (SELECT benchmark FROM latest)", "", "leaderboard: published figures of nothing measured",
             PUBLISHED),
    Mutation(BOARD, "intervals i JOIN fresh USING (slice, label, policy, benchmark) WHERE i.against IS NULL",
             "intervals i JOIN fresh USING (slice, label, policy, benchmark)", "leaderboard: differences among figures", STALE),
    Mutation(BOARD, "THEN value ELSE 0 - value END NULLS LAST", "THEN 0 - value ELSE value END NULLS LAST",
             "leaderboard: the worst is the first", RANKED),
    Mutation(BOARD, "WHEN metric IN ({lower}) THEN value", "WHEN false THEN value", "leaderboard: most bits are the best", RANKED),
    Mutation(BOARD, "PARTITION BY recipe, benchmark, metric, source", "PARTITION BY benchmark, metric, source",
             "leaderboard: recipes ranked together", RANKED),
    Mutation(RELATIONS, 'in ("evaluations", "intervals")', 'in ("evaluations",)', "intervals: older ones count too", STALE),
    Mutation(STAGE, "context.lake.renew(slice_)", "pass", "intervals: an older model's evaluation, found, stays older", LATER),
]
# fmt: on
