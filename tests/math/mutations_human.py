"""Mistakes between two answers on a page and a win rate: sides, repeats, Wilson's interval, Krippendorff's alpha."""

from __future__ import annotations

from mutation import Mutation, named

VIEWS, PAIRS, RATINGS = "data/human/views.py", "data/human/pairs.py", "data/human/ratings.py"
TESTS = "tests/data/human/test_win_rates.py"
SIDES = named(TESTS, "test_wins_ties_and_losses_from_either_side")
ONCE = named(TESTS, "test_an_item_counts_once_however_many_people_judge_it")
FIRST = named(TESTS, "test_of_one_raters_verdicts_on_a_pair_the_first_counts")
WILSON = named(TESTS, "test_the_interval_is_wilsons_by_hand_and_by_the_library")
MODELS = named(TESTS, "test_judgements_of_other_models_of_the_same_name_stand_apart")
ALPHA = named(TESTS, "test_alpha_is_krippendorffs_in_his_own_examples")
DEFINED = named(TESTS, "test_alpha_and_equal_are_their_definitions")
NAMELESS = named(TESTS, "test_whoever_gave_no_name_counts_as_a_verdict_and_not_as_a_rater")
DRAWN = "tests/data/human/test_pairs.py"
READ = named("tests/data/human/test_ratings.py", "test_a_verdict_on_a_side_becomes_one_on_a_policy")

MUTATIONS: list[Mutation] = [
    Mutation(VIEWS, "WHEN 'tie' THEN 0.5 ELSE", "WHEN 'tie' THEN 0.0 ELSE", "win rate: a tie is a loss", SIDES),
    Mutation(VIEWS, "CASE verdict WHEN 'a' THEN 'b' WHEN 'b' THEN 'a' ELSE verdict END", "verdict",
             "win rate: the other side not turned", SIDES),
    Mutation(VIEWS, "avg(score) AS win_rate", "(sum(wins) + sum(ties) / 2) / sum(wins + ties + losses) AS win_rate",
             "win rate: an item counts as often as it is judged", ONCE),
    Mutation(VIEWS, "FROM judged WHERE turn = 1 GROUP BY ALL),\nrated", "FROM judged GROUP BY ALL),\nrated",
             "win rate: repeats counted", FIRST),
    Mutation(VIEWS, "ORDER BY created_at, page, pair))", "ORDER BY created_at DESC, page, pair))",
             "of a rater's verdicts the last counts", FIRST),
    Mutation(VIEWS, "FILTER (turn > 1) AS self_equal", "AS self_equal", "self-agreement with the first itself", FIRST),
    Mutation(VIEWS, "{Z**2} / count(*) AS q", "{Z} / count(*) AS q", "Wilson: z for z²", WILSON),
    Mutation(VIEWS, "(1 - win_rate) + q * q / 4)", "(1 - win_rate))", "Wilson: Wald's half width", WILSON),
    Mutation(VIEWS, "(win_rate + q / 2 - half) / (1 + q)", "(win_rate + q / 2 - half)", "Wilson: low not divided", WILSON),
    Mutation(VIEWS, "(win_rate + q / 2 + half) / (1 + q)", "(win_rate + half) / (1 + q)", "Wilson: centre of high", WILSON),
    Mutation(VIEWS, "THEN p.first_model_id ELSE p.second_model_id END AS model_a",
             "THEN p.second_model_id ELSE p.first_model_id END AS model_a", "models: sides changed", MODELS),
    Mutation(VIEWS, "(shown_first = duel.policy)", "(shown_first = duel.against)", "first_preferred: the second", MODELS),
    Mutation(VIEWS, "sum(k * (k - 1) / (m - 1)) AS o_cc", "sum(k * (k - 1) / m) AS o_cc", "alpha: m for m − 1", ALPHA),
    Mutation(VIEWS, "(sum(n_c) * (sum(n_c) - 1)) AS d_e", "(sum(n_c) * sum(n_c)) AS d_e", "alpha: Scott's π", ALPHA),
    Mutation(VIEWS, "FROM counted WHERE m > 1 GROUP BY duel, verdict", "FROM counted WHERE m > 0 GROUP BY duel, verdict",
             "alpha: items with one verdict", ALPHA),
    Mutation(VIEWS, "THEN 1 - d_o / d_e END", "THEN 1 - d_o END", "alpha: without chance", ALPHA),
    Mutation(VIEWS, "sum(k * (m - 1)) AS twos", "sum(k * m) AS twos", "equal: with oneself", DEFINED),
    Mutation(VIEWS, "WHERE turn = 1 AND rater IS NOT NULL", "WHERE turn = 1", "agreement: of nobody with nobody", NAMELESS),
    Mutation(RATINGS, '"ab"[policies.index', '"ba"[policies.index', "a verdict for the other policy", READ),
    Mutation(PAIRS, "Pair(p.item, p.second, p.first,", "Pair(p.item, p.first, p.second,", "repeats: sides kept",
             named(DRAWN, "test_repeats_are_a_share_shown_late_with_their_sides_changed")),
    Mutation(PAIRS, "((a, b) if side else (b, a))", "((a, b) if side else (a, b))", "one policy always first",
             named(DRAWN, "test_each_policy_stands_first_in_half_of_the_pairs")),
    Mutation(PAIRS, "slice_ = max((row", "slice_ = min((row", "the oldest answers",
             named(DRAWN, "test_the_newest_answers_are_shown_with_their_questions")),
    Mutation(PAIRS, "digest([plan.seed, item])", "digest([plan.n, item])", "other items where more are asked for",
             named(DRAWN, "test_more_pairs_keep_those_that_were_drawn")),
]  # fmt: skip
