"""Mistakes in what a step reads: joined answers, raw rewards, token rewards, foretold weights, soft targets (MATH §3, §4, §7)."""

from __future__ import annotations

from mutation import Mutation, named

ADVANTAGES, JOINED, BEST, WHOLE = (
    "data/advantages.py",
    "data/joined.py",
    "data/best_answers.py",
    "data/pool_advantages.py",
)
GROUPS, READING, FORECAST, SOFT = (f"trainer/{name}.py" for name in ("pool_groups", "pool_reading", "forecast", "soft"))
HAND = "tests/data/test_advantages.py"
POOL = "tests/trainer/test_pool_reading.py"
ROW = named(HAND, "test_a_joined_answer_is_one_more_row_of_its_group_that_is_then_dropped")
RAW = named(HAND, "test_raw_rewards_keep_masked_samples_in_the_baseline")
NONE = named(HAND, "test_an_answer_joins_only_where_no_sample_passes")
EVERY = named(HAND, "test_a_pool_without_a_reward_has_every_sample_but_the_cut_ones")
IDS = named(HAND, "test_answers_join_the_pools_groups_by_their_ids")
JOINS = named(POOL, "test_an_answer_joins_the_groups_in_which_no_sample_passes")
FAILS = named(POOL, "test_an_answer_that_is_not_scored_or_fails_itself_joins_nothing")
TOKENS = named(POOL, "test_token_rewards_are_centred_by_their_group", "test_token_advantages_by_hand")
TAUGHT = named(POOL, "test_an_objective_without_a_reward_reads_every_sample_and_the_teachers_scores")
BASELINE = named(POOL, "test_raw_rewards_come_with_their_groups_mean_whatever_the_objective_reads_of_them")
ESS = named(
    POOL, "test_expected_effective_samples_by_the_formula", "test_few_effective_samples_are_foretold_from_the_cache"
)
SUPPORT = named("tests/trainer/test_soft.py", "test_each_token_of_an_answer_has_its_own_support")
SAMPLES = "tests/trainer/test_pool_supports.py"
BESIDE = named(SAMPLES, "test_minillm_over_several_ids_reads_them_with_the_teachers_log_p_token_by_token")
LACKING = named(SAMPLES, "test_supports_of_another_kind_are_refused_with_the_command_that_makes_them")
UNLIKE = named(SAMPLES, "test_supports_that_are_not_those_of_the_tokens_are_refused")
ASKED = named(SAMPLES, "test_only_a_sum_that_weighs_minillm_asks_for_supports")
FORETOLD = named(SAMPLES, "test_their_gradient_of_the_head_is_in_the_memory_that_is_foretold")
LEFT = named("tests/trainer/test_soft.py", "test_answers_beyond_the_context_are_left_out_and_counted")

# fmt: off
MUTATIONS: list[Mutation] = [
    # an answer joins
    Mutation(JOINED, "Widened(starts + before,", "Widened(starts,", "join: the groups' starts do not move", ROW),
    Mutation(JOINED, "np.append(starts[1:], rows)[here]", "np.append(starts[1:] + 1, rows)[here]",
             "join: the row stands in the next group", ROW),
    Mutation(JOINED, "np.insert(np.ones(rows, bool), at, False)", "np.insert(np.ones(rows, bool), at, True)",
             "join: the extra row stays", ROW),
    Mutation(JOINED, "np.where(any_passes, np.nan, answers)", "np.where(any_passes, answers, np.nan)",
             "join: where a sample passes", NONE),
    Mutation(JOINED, "np.logical_or.reduceat", "np.logical_and.reduceat", "join: where not all samples pass", NONE),
    Mutation(ADVANTAGES, "wide.fill(valid, True)", "wide.fill(valid, False)", "join: the extra row is not valid", ROW),
    Mutation(ADVANTAGES, '"in_loss": int(found.in_loss[wide.own].sum())', '"in_loss": int(found.in_loss.sum())',
             "join: the extra row is counted in the loss", ROW),
    Mutation(WHOLE, "take(pa.array(starts))", "take(pa.array(starts * 0))", "join: every group is the first", IDS),
    Mutation(BEST, "np.fmax.reduceat(scores, starts)", "np.fmin.reduceat(scores, starts)", "join: the worst answer",
             named("tests/data/test_best_answers.py")),
    Mutation(BEST, "np.where(value(condition) > 0, value(expression), np.nan)", "value(expression)",
             "join: an answer that fails", FAILS),
    Mutation(BEST, "places((asked[place],), (prompts,))", "places((asked,), (prompts,))", "join: groups in another order",
             named("tests/data/test_best_answers.py")),
    Mutation("trainer/normalise.py", "np.nan if group.joined is None else group.joined", "np.nan",
             "join: not within a step", JOINS),
    # raw rewards
    Mutation(ADVANTAGES, "total + np.where(here, joined, 0.0), count + here", "total, count", "r̄: without the answer", RAW),
    Mutation(ADVANTAGES, "total + np.where(here, joined, 0.0), count + here", "total + np.where(here, joined, 0.0), count",
             "r̄: over one too few", RAW),
    Mutation(ADVANTAGES, "out=np.full(len(starts), np.nan), where=count > 0)", "out=np.zeros(len(starts)), where=count > 0)",
             "r̄: 0 where nothing is", RAW),
    Mutation(GROUPS, "np.full(len(rows), vectors.baseline[number])", "np.full(len(rows), vectors.baseline[0])",
             "r̄: of another group", BASELINE),
    Mutation(GROUPS, "reward=_at(vectors.reward, rows)", "reward=_at(vectors.reward, rows - span.start)",
             "r: of another group", BASELINE),
    Mutation(WHOLE, 'in_loss = ~cut if on_truncated in ("mask", "drop")', 'in_loss = ~cut if on_truncated in ("keep",)',
             "no reward: cut samples", EVERY),
    # beside the samples
    Mutation(GROUPS, 'teacher=block.of("teacher", local)', 'teacher=block.of("rescored", local)',
             "teacher: the policy's own scores", TAUGHT),
    Mutation(GROUPS, "(weight * (row.astype(np.float64) - mean))", "(row.astype(np.float64) - mean)", "token reward: no λ", TOKENS),
    Mutation(GROUPS, "(weight * (row.astype(np.float64) - mean))", "(weight * row.astype(np.float64))",
             "token reward: not centred", TOKENS),
    Mutation(GROUPS, "(weight * (row.astype(np.float64) - mean))", "(weight * row.astype(np.float64) - mean)",
             "token reward: λ of v alone", TOKENS),
    Mutation(GROUPS, "mean = everything.mean() if", "mean = np.mean([c.mean() for c in counted]) if",
             "token reward: mean of samples", TOKENS),
    Mutation(READING, "scored & ~np.isnan(found.reward)", "np.ones(len(scored), bool)", "token reward: invalid samples count",
             TOKENS),
    Mutation(READING, "rewarded = bool(wanted & {", "rewarded = bool(wanted ^ {", "no reward: read all the same", TAUGHT),
    # foretold weights
    Mutation(FORECAST, "-tokens * deviation**2", "-tokens * deviation", "ESS: σ for σ²", ESS),
    Mutation(FORECAST, "-tokens * deviation**2", "-tokens * deviation**2 / 2", "ESS: half the exponent", ESS),
    Mutation(FORECAST, "-tokens * deviation**2", "-(deviation**2)", "ESS: of one token", ESS),
    Mutation(FORECAST, "old.astype(np.float64) - behaviour for", "old.astype(np.float64) + 0 * behaviour for",
             "ESS: σ of log π_old", ESS),
    # soft targets
    Mutation(SOFT, "np.cumsum(sizes)[:-1]", "np.cumsum(sizes)[:-1] - 1", "soft: one id early", SUPPORT),
    Mutation(SOFT, "self.rows.take(pa.array(at))", "self.rows", "soft: answers in their own order", SUPPORT),
    Mutation(SOFT, "prompts + lengths <= (context", "lengths <= (context", "soft: the prompt takes no room", LEFT),
    Mutation(SOFT, "prompts + lengths <= (context", "prompts + lengths < (context", "soft: one token of context unused", LEFT),
    # soft targets of the samples
    Mutation(GROUPS, "{name: values[row] for name, values in self.soft.items()}",
             "{name: values[row - 1] for name, values in self.soft.items()}", "supports: of the sample before", BESIDE),
    Mutation(GROUPS, "                len(self.tokens[row]),\n", '                len(self.soft["sizes"][row]),\n',
             "supports: as many tokens as they say", UNLIKE),
    Mutation(SOFT, "int(sizes.sum()) != len(ids)", "int(sizes.sum()) < 0", "supports: ids that belong to no token", UNLIKE),
    Mutation(READING, "pool.samples, scorer, kind, pool.policy", "pool.samples, scorer, kind, scorer",
             "supports: at another policy's ids", BESIDE),
    Mutation("data/pool.py", 'of = "samples" if base.table == "samples" else "answers"', 'of = "answers"',
             "supports: looked for among those of answers", BESIDE),
    Mutation("data/pool.py", "soft_targets.of={of} soft_targets.kind", "soft_targets.kind", "supports: a command for answers' ones",
             LACKING),
    Mutation("trainer/objectives/__init__.py", '"coarse": "top_k", "student_topk": "student_m"',
             '"coarse": "student_m", "student_topk": "top_k"', "minillm: the other's ids", BESIDE),
    Mutation("trainer/objectives/__init__.py", "SUPPORT_KINDS[settings.teacher.single] if asked else None",
             "SUPPORT_KINDS[settings.teacher.single]", "supports: read by every objective", ASKED),
    Mutation("trainer/objective_config.py", 'one_of("clip.teacher.single", self.single, ("observed", "coarse", "student_topk"))',
             "pass", "minillm: any word for its single step", ASKED),
    Mutation("trainer/prepare.py", '("rl", "bc", "pt", "soft")) + alone)', '("rl", "bc", "pt", "soft")))',
             "memory: no gradient of the head for a token's own KL", FORETOLD),
]
# fmt: on
