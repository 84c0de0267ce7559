"""Mistakes in the tail of the weights, the off-policy value, the verdict, averages and rounds (MATH §9, §10)."""

from __future__ import annotations

from mutation import Mutation, named

TAIL, VALUE, VERDICT = "trainer/drift/tail.py", "trainer/drift/value.py", "data/verdict.py"
RUNS, MEASURE = "trainer/drift/runs.py", "trainer/drift/measure.py"
COMBINE, ROUNDS = "trainer/combine.py", "trainer/rounds.py"
VALUES, DRIFTS = "tests/trainer/test_drift_value.py", "tests/trainer/test_drift_command.py"
SHAPES = named(
    VALUES, "test_k_hat_finds_the_shape_of_a_pareto_tail", "test_k_hat_is_of_large_weights_and_not_of_small_ones"
)
BOUND = named(VALUES, "test_the_bound_of_k_hat_is_that_of_the_paper")
EXACT = named(VALUES, "test_the_estimate_is_unbiased_in_exact_expectation")
CAP = named(VALUES, "test_the_cap_holds_weights_down")
SEEN = named(VALUES, "test_groups_that_were_trained_on_lend_their_mean_and_nothing_else")
STRATA = named(VALUES, "test_unseen_groups_stand_only_for_the_seen_ones_of_their_stratum")
NONE_LEFT = named(VALUES, "test_no_value_is_given_where_every_group_of_a_stratum_was_trained_on")
HEAVY = named(VALUES, "test_no_value_is_given_under_a_heavy_tail")
MEAN = named(VALUES, "test_no_value_is_given_where_the_mean_weight_is_not_one")
WIDTH = named(VALUES, "test_the_interval_holds_the_truth_in_most_of_many_pools_and_is_about_as_wide_as_it_must_be")
INVALID = named(VALUES, "test_samples_without_a_reward_count_nowhere")
BEYOND = named(DRIFTS, "test_each_figure_beyond_its_bound_ends_the_pool_and_is_named")
ABSENT = named(DRIFTS, "test_a_figure_that_is_not_there_does_not_pass")
NOTE = named(DRIFTS, "test_figures_of_whole_samples_are_a_note_where_no_objective_weighs_whole_samples")
RATIOS = named(DRIFTS, "test_log_ratios_are_policy_over_behaviour")
STREAM = named(DRIFTS, "test_groups_that_the_run_has_seen_are_those_that_its_stream_gave")
AVERAGES, ROUND = "tests/trainer/test_average.py", "tests/trainer/test_rounds.py"
ARC = named(AVERAGES, "test_slerp_ends_at_its_models_and_goes_along_the_circle_between")
NORM = named(AVERAGES, "test_slerp_keeps_the_norm_that_a_straight_line_loses")
CHORD = named(AVERAGES, "test_slerp_is_linear_where_no_arc_is_told_apart")
SOUP = named(AVERAGES, "test_the_soup_of_two_is_the_line_at_one_half_and_weights_need_not_sum_to_one")
TOWARDS = named(AVERAGES, "test_a_model_goes_towards_its_start_by_its_share")
ANCHOR = named(AVERAGES, "test_an_anchor_of_equal_models_has_the_closed_form")
STOP = named(ROUND, "test_a_value_that_does_not_beat_the_best_ends_the_rounds_after_the_patience")

SUMS = "trainer/drift/sums.py"
REWARDED = named("tests/trainer/test_drift.py", "test_rewards_of_a_step_by_hand_as_drawn_and_as_the_policy_weighs_them")

MUTATIONS = [
    # the rewards of a step
    Mutation(
        SUMS, "weight_n.sum()),\n    }", "live_b.sum()),\n    }", "reward: weights that are not normalised", REWARDED
    ),
    Mutation(SUMS, "(weight_n * reward_n).sum()", "reward_n.sum()", "reward: no weight", REWARDED),
    Mutation(
        SUMS,
        "view.reward_b[live_b]",
        "view.reward_b.nan_to_num()[: live_b.sum()].flip(0)",
        "reward: of another sample",
        REWARDED,
    ),
    # the tail
    Mutation(TAIL, "psislw(-log_n)", "psislw(log_n)", "tail: of the smallest weights", SHAPES),
    Mutation(TAIL, "1 - 1 / math.log10(n)", "1 / math.log10(n)", "tail: bound by sample size", BOUND),
    Mutation(VERDICT, "K_HAT = 0.7", "K_HAT = 1.7", "tail: bound", BOUND),
    # the value
    Mutation(VALUE, " * (size_g / (size_g - 1))[group_n]", "", "value: own reward in the control variate", EXACT),
    Mutation(VALUE, "np.minimum(weight_n, bound)", "weight_n", "value: not truncated", CAP),
    Mutation(VALUE, "math.sqrt(fresh_n.sum())", "1.0", "value: truncated at 1 by default", CAP),
    Mutation(
        VALUE,
        "group_n), 0.0)",
        "group_n), _correction(np.minimum(weight_n, bound), reward_n, group_n))",
        "value: groups that were trained on",
        SEEN,
    ),
    Mutation(
        VALUE,
        "unseen = np.maximum((here_g & fresh_g).sum(axis), 1)",
        "unseen = np.maximum(fresh_g.sum(axis), 1)",
        "value: one mean over all strata",
        STRATA,
    ),
    Mutation(
        VALUE,
        "here_g.sum(axis) * np.where",
        "(here_g & fresh_g).sum(axis) * np.where",
        "value: share of a stratum",
        STRATA,
    ),
    Mutation(
        VALUE,
        "fresh_g & (stratum_g == stratum)).sum())",
        "fresh_g).sum())",
        "value: what is left of another stratum",
        NONE_LEFT,
    ),
    Mutation(VALUE, "if not tail <= bound:", "if False:", "value: given under a heavy tail", HEAVY),
    Mutation(
        VALUE,
        "> ERRORS * error + ROUNDING",
        "> 100 * error + ROUNDING",
        "value: given where the mean weight is not 1",
        MEAN,
    ),
    Mutation(VALUE, "LEVEL = 0.95", "LEVEL = 0.5", "value: level of the interval", WIDTH),
    Mutation(
        VALUE,
        "known_n = np.isfinite(reward_n)",
        "known_n = np.ones(len(reward_n), bool)",
        "value: invalid rewards counted",
        INVALID,
    ),
    # the verdict
    Mutation(
        VERDICT,
        'figures.get("token_kl", math.nan) <= TOKEN_KL',
        'figures.get("token_kl", math.nan) <= math.inf',
        "verdict: no bound on KL",
        BEYOND,
    ),
    Mutation(
        VERDICT,
        'figures.get("token_ess", math.nan)',
        'figures.get("token_ess", 1.0)',
        "verdict: an absent figure passes",
        ABSENT,
    ),
    Mutation(VERDICT, "least = 1 / samples", "least = 0.01 / samples", "verdict: bound of the sequence ESS", BEYOND),
    Mutation(
        VERDICT,
        "if sample_weights else (tokens, whole)",
        "if True else (tokens, whole)",
        "verdict: samples' figures decide everywhere",
        NOTE,
    ),
    # a run's drift
    Mutation(
        MEASURE,
        "view.logprobs_bt - view.behaviour_bt).double()",
        "view.behaviour_bt - view.logprobs_bt).double()",
        "drift: sign of a run's log-ratio",
        RATIOS,
    ),
    Mutation(
        MEASURE, "temperature=temperature).cpu()", "temperature=1.0).cpu()", "drift: the pool's temperature", RATIOS
    ),
    Mutation(RUNS, "steps * recipe.trainer.replay.prompts", "steps", "drift: groups a step", STREAM),
    # averages
    Mutation(
        COMBINE,
        "torch.sin(part * angle) / torch.sin(angle) for part in (1 - t, t)",
        "torch.sin(part * angle) / torch.sin(angle) for part in (t, 1 - t)",
        "average: ends of the arc",
        ARC,
    ),
    Mutation(COMBINE, "return start.float() + share_a", "return share_a", "average: SLERP of δ without its start", ARC),
    Mutation(
        COMBINE,
        "delta_a, delta_b = a.float() - start.float(), b.float() - start.float()",
        "delta_a, delta_b = a.float(), b.float()",
        "average: SLERP of weights in place of task vectors",
        NORM,
    ),
    Mutation(COMBINE, "if torch.sin(angle) < TINY:", "if False:", "average: an arc of no angle", CHORD),
    Mutation(COMBINE, "(weight / total)", "weight", "average: weights that do not sum to one", SOUP),
    Mutation(COMBINE, "linear(start, a, t)", "linear(a, start, t)", "average: towards the start", TOWARDS),
    Mutation(COMBINE, "linear(average, model, t)", "linear(model, average, t)", "average: share of a round", ANCHOR),
    # rounds
    Mutation(
        ROUNDS, "if len(values) - 1 - best < patience:", "if len(values) - best < patience:", "rounds: patience", STOP
    ),
    Mutation(
        ROUNDS,
        "key=lambda i: values[i])",
        "key=lambda i: (values[i], i))",
        "rounds: an equal value is an improvement",
        STOP,
    ),
]
