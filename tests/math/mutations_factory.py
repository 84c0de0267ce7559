"""Mistakes in soft targets and in the mixture of policy and teacher (MATH §5, §7), and in what is estimated of them."""

from __future__ import annotations

from mutation import Mutation, named

GENERATE, DISTRIBUTION = "trainer/forward/generate.py", "trainer/forward/distribution.py"
SOFT, SAMPLES, HF = "factory/stages/soft_targets.py", "factory/stages/samples.py", "factory/engines/hf.py"
EVALUATE, ESTIMATE = "factory/benchmarks/prompts.py", "factory/estimate.py"
DRAWN, KEPT = "tests/trainer/forward/test_generate.py", "tests/trainer/forward/test_distribution.py"
STAGE, POOL = "tests/factory/stages/test_soft_targets.py", "tests/factory/stages/test_mixed.py"

BY_HAND = named(DRAWN, "test_a_mixtures_behaviour_is_the_mixture_of_both_distributions")
BOUND = named(DRAWN, "test_the_weight_of_a_mixed_token_is_bounded_at_the_start")
WIDTH = named(DRAWN, "test_a_teachers_head_of_another_width_is_cut_or_padded")
MIXED_BATCH = named(DRAWN, "test_a_mixed_sample_is_the_same_in_any_batch")
COUNTS = named(KEPT, "test_counts_sum_to_the_draws_and_ids_are_distinct_with_their_log_p")
STREAM = named(KEPT, "test_draws_are_the_inverse_cdf_of_the_samples_own_philox_stream")
CONVERGES = named(KEPT, "test_the_share_of_draws_converges_to_p")
CHUNKS = named(KEPT, "test_batches_and_chunks_change_nothing")
TOP = named(KEPT, "test_the_top_is_the_most_probable_in_order_and_at_most_the_vocabulary")
GIVEN = named(KEPT, "test_log_p_at_given_ids_is_that_of_scoring")
SMALL = named(KEPT, "test_a_smaller_vocabulary_is_a_distribution_over_its_own_ids")
MADE = named(STAGE, "test_counts_sum_to_the_draws_at_every_token_of_every_answer")
CHOSEN = named(STAGE, "test_the_k_ids_are_the_choosers_and_their_log_p_is_the_teachers")
SHOWN = named(STAGE, "test_the_teacher_reads_its_own_messages")
RECORDED = named(POOL, "test_what_is_recorded_is_the_mixture_of_policy_and_teacher")
TOLD = named(POOL, "test_the_teacher_reads_its_own_messages_in_its_own_template")
APART = named(POOL, "test_a_mixed_pool_is_another_pool_for_every_share_and_teacher")
PRICED = named("tests/factory/test_estimate.py")

MUTATIONS: list[Mutation] = [
    # the mixture
    Mutation(
        GENERATE,
        "teacher_bv + math.log(alpha), policy_bv + math.log1p(-alpha)",
        "teacher_bv + math.log1p(-alpha), policy_bv + math.log(alpha)",
        "mixing: shares exchanged",
        BY_HAND,
    ),
    Mutation(GENERATE, "policy_bv + math.log1p(-alpha))", "policy_bv)", "mixing: no 1 − α", BOUND),
    Mutation(
        GENERATE,
        "told_bv = _processed(processors, teacher.ids_bt.to(logits_bv.device), told_bv)",
        "told_bv = told_bv.clone()",
        "mixing: the teacher is not processed",
        BY_HAND,
    ),
    Mutation(
        GENERATE,
        "_processed(processors, teacher.ids_bt.to(logits_bv.device), told_bv)",
        "_processed(processors, readers[0].ids_bt, told_bv)",
        "mixing: the teacher is penalised for the policy's prompt",
        BY_HAND,
    ),
    Mutation(
        GENERATE,
        "for reader in readers:\n            reader.advance",
        "for reader in readers[:1]:\n            reader.advance",
        "mixing: the teacher does not read on",
        BY_HAND,
    ),
    Mutation(
        GENERATE,
        "_Reader.open(mix.policy, mix.prompts, n)",
        "_Reader.open(mix.policy, prompts, n)",
        "mixing: the teacher reads the policy's prompt",
        BY_HAND,
    ),
    Mutation(GENERATE, "value=-torch.inf", "value=0.0", "mixing: a padded head has mass", WIDTH),
    Mutation(
        GENERATE,
        "kept_b if self.owner_b is None else self.owner_b[kept_b]",
        "kept_b",
        "mixing: rows of other prompts",
        MIXED_BATCH,
    ),
    # soft targets
    Mutation(
        DISTRIBUTION,
        "draw_bk(logprob_rv.exp()",
        "draw_bk((0.5 * logprob_rv).exp()",
        "soft: drawn at another temperature",
        CONVERGES,
    ),
    Mutation(
        DISTRIBUTION,
        "uniform_nk[rows]",
        "uniform_nk[: rows.stop - rows.start][: len(logprob_rv)]",
        "soft: every chunk has the first numbers",
        CHUNKS,
    ),
    Mutation(
        DISTRIBUTION,
        "np.random.Philox(key=seed)",
        "np.random.Philox(key=0)",
        "soft: one stream for all samples",
        STREAM,
    ),
    Mutation(
        DISTRIBUTION,
        "row_r1 * logprob_rv.shape[1] + drawn_rk",
        "0 * row_r1 + drawn_rk",
        "soft: draws of all tokens pooled",
        COUNTS,
    ),
    Mutation(
        DISTRIBUTION,
        "logprob_rv[row_m, id_m].float(), count_m",
        "logprob_rv[0 * row_m, id_m].float(), count_m",
        "soft: log p of another token",
        COUNTS,
    ),
    Mutation(
        DISTRIBUTION,
        "min(k, logprob_rv.shape[1]), dim=1)",
        "min(k, logprob_rv.shape[1]), dim=1, largest=False)",
        "soft: the least probable",
        TOP,
    ),
    Mutation(
        DISTRIBUTION, "end_n[rows.start] - int(size_r[0])", "end_n[rows.start]", "soft: given ids shifted", CHUNKS
    ),
    Mutation(
        DISTRIBUTION,
        "repeat_interleave(size_r)",
        "repeat_interleave(size_r.flip(0))",
        "soft: sizes of other tokens",
        GIVEN,
    ),
    Mutation(DISTRIBUTION, ")[:, :vocabulary]", ")", "soft: ids outside the vocabulary", SMALL),
    Mutation(
        HF,
        "token, first = token + length, part.stop",
        "token, first = token + length, first",
        "soft: a completion has the ids of another",
        MADE,
    ),
    Mutation(
        SOFT,
        "engine.at(requests, given, width) if given else engine.distribution(requests, picked)",
        "engine.distribution(requests, picked)",
        "soft: student_m takes the teacher's ids",
        CHOSEN,
    ),
    Mutation(
        SOFT,
        'context.engine("policy", ability)',
        'context.engine("teacher", ability)',
        "soft: student_m asks the teacher",
        CHOSEN,
    ),
    Mutation(
        SOFT,
        'row["teacher_messages"] or row["messages"]',
        'row["messages"]',
        "soft: the teacher reads the student's messages",
        SHOWN,
    ),
    # the pool that is mixed
    Mutation(
        SAMPLES,
        'shown = [row["teacher_messages"] or row["messages"] for row in asked]',
        'shown = [row["messages"] for row in asked]',
        "mixed pool: the teacher reads the student's messages",
        TOLD,
    ),
    Mutation(
        SAMPLES,
        "told, recipe.sampling.alpha) if told",
        "told, 1 - recipe.sampling.alpha) if told",
        "mixed pool: 1 − α",
        RECORDED,
    ),
    Mutation(SAMPLES, "recipe.seed, *mixed", "recipe.seed", "mixed pool: a group's id without its teacher", APART),
    Mutation(SAMPLES, '"origin": "mixed" if context', '"origin": "student" if context', "mixed pool: origin", RECORDED),
    Mutation(SAMPLES, '"alpha": sampling.get("alpha", 0.0)', '"alpha": 0.0', "mixed pool: α of its groups", RECORDED),
    # what it costs, and where an evaluated answer ends
    Mutation(ESTIMATE, "min(soft.draws, DISTINCT)", "soft.draws", "estimate: ids of a soft target", PRICED),
    Mutation(
        ESTIMATE,
        "if any(w.get(term) for w in weights)",
        "if weights[0].get(term)",
        "estimate: weights of phases",
        PRICED,
    ),
    Mutation(
        ESTIMATE,
        'probe.get("sampled"))) + int(kl)',
        'probe.get("sampled")))',
        "estimate: passes of a probe's KL",
        PRICED,
    ),
    Mutation(
        EVALUATE,
        "context.stop_ids(role, stop(context, role))",
        "context.stop_ids(role, [])",
        "evaluate: sampling.stop",
        named(
            "tests/factory/stages/test_corpus_evaluate.py",
            "test_an_answer_ends_where_the_pools_samples_end_and_is_found_under_its_own_stops",
        ),
    ),
]
