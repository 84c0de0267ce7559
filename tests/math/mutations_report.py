"""Mistakes in what the report computes itself: tokens' colours, drift of the last steps, sums of costs, places on a scale."""

from __future__ import annotations

from mutation import Mutation, named

SECTIONS, CHARTS = "tests/data/report/test_sections.py", "tests/data/report/test_chart.py"
TOKENS = named(SECTIONS, "test_tokens_are_coloured_by_their_advantage_and_by_the_teachers_surprise")
SHADES = named(SECTIONS, "test_best_and_worst_samples_stand_first_and_shades_follow_the_advantage")
DRIFT = named(SECTIONS, "test_drift_is_the_mean_of_the_last_steps_with_the_words_of_the_verdict")
COSTS = named(SECTIONS, "test_costs_are_summed_and_what_no_stage_booked_is_not_there")
PAIRS = named(SECTIONS, "test_figures_come_with_the_leaderboards_intervals_and_pairs_with_their_difference")
APART = named(SECTIONS, "test_runs_stand_side_by_side_by_what_differs")
SCALE = named(CHARTS, "test_an_interval_is_a_share_of_the_scale")
GAPS = named(CHARTS, "test_curves_rise_where_values_rise_and_gaps_are_left_out")
END = named(CHARTS, "test_a_long_curve_keeps_its_mean_and_its_end")

PIECES = "data/report/tokens.py"
SAMPLES, TRAINING, CHART = "data/report/samples.py", "data/report/training.py", "data/report/chart.py"
MUTATIONS: list[Mutation] = [
    Mutation(
        "data/report/tokens.py",
        "values - np.concatenate(held).mean()",
        "values",
        "report: token rewards off no mean",
        TOKENS,
    ),
    Mutation(
        SAMPLES, "math.nan if p is None else -p", "math.nan if p is None else p", "report: surprise is log p", TOKENS
    ),
    Mutation(
        SAMPLES, "float(np.nansum(held))", "float(np.nanmean(held))", "report: a letter's surprise halved", TOKENS
    ),
    Mutation(
        "data/report/colours.py",
        "'p' if advantage > 0 else 'n'",
        "'p' if advantage < 0 else 'n'",
        "report: shades turned",
        SHADES,
    ),
    Mutation(TRAINING, "np.mean(held[-LAST:])", "np.mean(held)", "report: drift of all steps", DRIFT),
    Mutation("data/report/paid.py", 'row["stage"] == "training")', "training)", "report: a stage counted twice", COSTS),
    Mutation("data/report/evaluation.py", "policy < against", "policy > against", "report: pairs turned", PAIRS),
    Mutation(
        "data/report/ablations.py",
        "for one in settings}) > 1",
        "for one in settings}) > 0",
        "report: all settings",
        APART,
    ),
    Mutation(
        "data/report/ablations.py",
        'key.startswith(f"{name}.")), len',
        "False), len",
        "report: a setting's place among all",
        named(SECTIONS, "test_an_average_makes_no_setting_differ_and_stands_apart"),
    ),
    Mutation(
        "data/report/evaluation.py",
        "1.0 if key[1] in LOWER_IS_BETTER",
        "-1.0 if key[1] in LOWER_IS_BETTER",
        "report: the worst of less is first",
        named(SECTIONS, "test_the_best_policy_stands_first_also_where_less_is_better"),
    ),
    Mutation(CHART, "(x - begin) * scale", "x * scale", "report: an interval from 0", SCALE),
    Mutation(CHART, "HEIGHT - BELOW - (value", "ABOVE + (value", "report: curves upside down", GAPS),
    Mutation(CHART, "points[-1]]", "points[0]]", "report: a curve's last point", END),
]
