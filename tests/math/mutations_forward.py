"""Mistakes on the way from token ids to log π and back: the head, its gradient, packing, positions, sampling (MATH §1)."""

from __future__ import annotations

from mutation import Mutation, named

HEAD, PACK, ATTENTION = "trainer/forward/head.py", "trainer/forward/pack.py", "trainer/forward/attention.py"
GENERATE, LOGPROBS = "trainer/forward/generate.py", "trainer/forward/logprobs.py"
HEADS = named("tests/trainer/forward/test_head.py")
LLAMA, BLOOM, MISTRAL = (
    named(
        "tests/trainer/forward/test_pack.py",
        *(f"test_logprobs_and_gradients_equal_those_of_rows_run_alone[{f}-{layout}]" for layout in ("kv", "plain")),
    )
    for f in ("llama", "bloom", "mistral")
)
TOKENS = named(
    "tests/trainer/forward/test_pack.py",
    "test_tokens_forwarded_by_hand",
    "test_plan_keeps_order_and_whole_groups_within_the_budget",
)
RANDOM = "tests/trainer/forward/test_generate.py"
DRAWN = named(RANDOM, "test_draws_follow_the_processed_distribution_and_behaviour_names_it[sampling1]")
PENALISED = named(RANDOM, "test_draws_follow_the_processed_distribution_and_behaviour_names_it[sampling3]")
TOP_K = named(RANDOM, "test_draws_follow_the_processed_distribution_and_behaviour_names_it[sampling2]")
REPLAYED = named(RANDOM, "test_a_sample_can_be_replayed_by_hand_from_its_seed")
OWN = named(RANDOM, "test_at_temperature_one_behaviour_is_the_policys_own_logprob[llama]")
ENDS = named(RANDOM, "test_an_end_token_ends_its_sample_and_stays_in_it")
GREEDY = named(
    RANDOM, "test_greedy_equals_transformers_generate[llama-1.5]", "test_greedy_logprobs_are_the_policys_own"
)
ZERO = named(RANDOM, "test_a_token_of_probability_zero_is_never_drawn")
PADDED = named("tests/trainer/forward/test_logprobs.py")

# fmt: off
MUTATIONS = [
    # the chunked head, forward
    Mutation(HEAD, "exp_nv = logits_of(hidden_nd[start : start + rows], head).div_(temperature)",
             "exp_nv = logits_of(hidden_nd[start : start + rows], head)", "head: temperature", HEADS),
    Mutation(HEAD, "head).div_(temperature)", "head).mul_(temperature)", "head: temperature turned", HEADS),
    Mutation(HEAD, "picked_nk - lse[-1][:, None]", "picked_nk - top_n[:, None]", "head: no normalisation", HEADS),
    Mutation(HEAD, "exp_nv.sub_(top_n[:, None])", "exp_nv.sub_(0 * top_n[:, None])", "head: overflows", HEADS),
    Mutation(HEAD, "lse.append(top_n + exp_nv", "lse.append(exp_nv", "head: log Σ exp without its maximum", HEADS),
    Mutation(HEAD, "logits_nv.mul_(head.scale)", "logits_nv.div_(head.scale)", "head: scale", HEADS),
    Mutation(HEAD, "logits_nv.div_(head.soft_cap).tanh_() * head.soft_cap", "logits_nv.div_(head.soft_cap).tanh_()",
             "head: soft cap without its factor", HEADS),
    Mutation(HEAD, "linear(hidden_nd, head.weight_vd, head.bias_v)", "linear(hidden_nd, head.weight_vd)", "head: bias", HEADS),
    Mutation(HEAD, "raw_nv.to(torch.promote_types(raw_nv.dtype, torch.float32))", "raw_nv", "head: half precision", HEADS),
    # and backward
    Mutation(HEAD, "probs_nv.mul_(-factor_nk.sum(", "probs_nv.mul_(factor_nk.sum(",
             "head: sign of the softmax in its gradient", HEADS),
    Mutation(HEAD, "scatter_add_(1, ids_nk, factor_nk)", "scatter_add_(1, ids_nk, -factor_nk)",
             "head: sign of the target's gradient", HEADS),
    Mutation(HEAD, "* (head.scale / ctx.temperature)", "* head.scale", "head: no 1/T in the gradient", HEADS),
    Mutation(HEAD, "* (head.scale / ctx.temperature)", "/ ctx.temperature", "head: no scale in the gradient", HEADS),
    Mutation(HEAD, ".square_().neg_().add_(1.0)", ".square_()", "head: derivative of tanh", HEADS),
    Mutation(HEAD, "(logits_nv / soft_cap).square_()", "logits_nv.clone().square_()", "head: tanh at the raw logit", HEADS),
    Mutation(HEAD, "grad_nv.mul_(slope_nv)", "grad_nv.mul_(1.0)", "head: no chain through the soft cap", HEADS),
    Mutation(HEAD, "probs_nv.div_(ctx.temperature).sub_", "probs_nv.sub_", "head: recomputed at temperature 1", HEADS),
    Mutation(HEAD, "(top_n - lse[-1]).exp()[:, None]", "(0 * top_n).exp()[:, None]", "head: kept chunk not normalised", HEADS),
    Mutation(HEAD, "self.weight_vd.addmm_(grad_nv.t(), hidden_nd[part])",
             "torch.mm(grad_nv.t(), hidden_nd[part], out=self.weight_vd)", "head: weight's gradient of one chunk", HEADS),
    Mutation(HEAD, "self.bias_v += grad_nv.sum(0)", "self.bias_v += grad_nv.mean(0)", "head: bias's gradient", HEADS),
    # packing
    Mutation(PACK, "where[g, s] = [row, *range(start,", "where[g, s] = [0, *range(start,",
             "pack: first token from another prompt", LLAMA),
    Mutation(PACK, "+ len(groups[g].prompt) - 1", "+ len(groups[g].prompt)", "pack: plain rows a token late", LLAMA),
    Mutation(PACK, "start += width if len(completion) > 1 else 0", "start += len(completion) - 1",
             "pack: padding between completions", LLAMA),
    Mutation(PACK, "start = offset + row * width", "start = offset + row", "pack: start of a plain row", LLAMA),
    Mutation(PACK, "where, sum(len(part) for part in parts))", "where, 0)", "pack: plain rows behind shared ones", LLAMA),
    Mutation(PACK, 'encode(policy.model, *pad_rows(rows, policy.device, "right"))',
             'encode(policy.model, *pad_rows(rows, policy.device, "left"))', "pack: side of the padding", LLAMA),
    Mutation(PACK, "lengths = [len(completion) - 1 for", "lengths = [len(completion) for", "pack: budget", TOKENS),
    Mutation(PACK, "count * longest for count", "longest for count", "pack: budget of one row", TOKENS),
    Mutation(PACK, "blocks.positions <= budget", "blocks.positions < budget", "pack: budget not filled", TOKENS),
    # masks and positions
    Mutation(ATTENTION, "return Prefix(hidden_gtd[:, -1], cache", "return Prefix(hidden_gtd[:, 0], cache",
             "prefix: not its last position", LLAMA),
    Mutation(ATTENTION, "position_bt + prefix.length_g[:, None], prefix.cache",
             "position_bt, prefix.cache", "prefix: positions of the completions", LLAMA),
    Mutation(ATTENTION, "cat([prefix.mask_gt, mask_bt], dim=1)", "cat([torch.ones_like(prefix.mask_gt), mask_bt], dim=1)",
             "prefix: mask of its padding", LLAMA),
    Mutation(ATTENTION, "mask_gt, mask_gt.sum(1))", "mask_gt, 0 * mask_gt.sum(1) + mask_gt.shape[1])",
             "prefix: length with padding", LLAMA),
    Mutation(ATTENTION, "(index_1t - first_b1).clamp(min=0)", "(index_1t - 0 * first_b1).clamp(min=0)",
             "prefix: positions count its padding", LLAMA),
    Mutation(ATTENTION, '"attention_mask": mask_bt', '"attention_mask": torch.ones_like(mask_bt)',
             "mask: of ALiBi's padding", BLOOM),
    Mutation(ATTENTION, 'prompts, device, "left")', 'prompts, device, "right")', "prefix: side of its padding", MISTRAL),
    # log π flat and padded
    Mutation(LOGPROBS, "device=value_n.device)[None] < length_b1", "device=value_n.device)[None] <= length_b1",
             "mask: a token too long", PADDED),
    Mutation(LOGPROBS, "target_n, temperature=temperature, chunk", "target_n, chunk", "log π: temperature", PADDED),
    # sampling
    Mutation(GENERATE, "token_b, logprob_b = draw(processed_bv, uniform_b)", "token_b, logprob_b = draw(logits_bv, uniform_b)",
             "sampling: drawn from the raw distribution", DRAWN),
    Mutation(GENERATE, "token_b, logprob_b = draw(processed_bv, uniform_b)",
             "token_b = draw(processed_bv, uniform_b)[0]\n        logprob_b = _chosen(logits_bv, token_b)",
             "behaviour: of the raw distribution", DRAWN),
    Mutation(GENERATE, "inverse_cdf(weight_bv, own_b)", "inverse_cdf(weight_bv, 1 - own_b)", "sampling: 1 − u", REPLAYED),
    Mutation(GENERATE, " - weight_bv.sum(1).log())", ")", "behaviour: not normalised", DRAWN),
    Mutation(GENERATE, "weight_bv = shifted_bv.exp()", "weight_bv = shifted_bv.exp() ** 2",
             "sampling: half the temperature", DRAWN),
    Mutation(GENERATE, "row.uniform[step] for row", "row.uniform[0] for row", "sampling: one number for all steps", REPLAYED),
    Mutation(GENERATE, "cdf_bv = probability_bv.cumsum(-1)", "cdf_bv = probability_bv.cumsum(-1) - probability_bv",
             "sampling: cumulated without its own", ZERO),
    Mutation(GENERATE, "total_b1, right=True)", "total_b1)", "sampling: a token of probability 0", ZERO),
    Mutation(GENERATE, "uniform_bk * total_b1", "uniform_bk", "sampling: total that is not 1", ZERO),
    Mutation(GENERATE, "torch.minimum(token_bk, torch.searchsorted(cdf_bv, total_b1))", "token_bk",
             "sampling: past the end", ZERO),
    Mutation(GENERATE, "Temperature(float(sampling.temperature))", "Temperature(1 / float(sampling.temperature))",
             "sampling: temperature turned", REPLAYED),
    Mutation(GENERATE, "[TopP(sampling.top_p)] if sampling.top_p < 1.0", "[] if sampling.top_p < 1.0", "sampling: no top-p", DRAWN),
    Mutation(GENERATE, "[TopK(sampling.top_k)] if sampling.top_k", "[TopK(sampling.top_k + 1)] if sampling.top_k",
             "sampling: one more than top-k", TOP_K),
    Mutation(GENERATE, "chosen.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))",
             "chosen.append(RepetitionPenaltyLogitsProcessor(1 / float(sampling.repetition_penalty)))",
             "sampling: penalty turned", PENALISED),
    Mutation(GENERATE, "prefix.length_g = prefix.length_g + 1", "prefix.length_g = prefix.length_g + 2",
             "sampling: positions", OWN),
    Mutation(GENERATE, "torch.ones_like(token_b)[:, None]], dim=1)", "torch.zeros_like(token_b)[:, None]], dim=1)",
             "sampling: a row does not see its last token", OWN),
    Mutation(GENERATE, "prefix.last_gd[owner_b]", "prefix.last_gd[0 * owner_b]", "sampling: all from the first prompt", OWN),
    Mutation(GENERATE, "row.stopped = token in sampling.stop_ids", "row.stopped = False", "sampling: runs past its end", ENDS),
    Mutation(GENERATE, "token_b = processed_bv.argmax(-1)", "token_b = logits_bv.argmax(-1)", "greedy: no penalty", GREEDY),
    Mutation(GENERATE, "logprob_b = _chosen(logits_bv, token_b)", "logprob_b = _chosen(processed_bv, token_b)",
             "greedy: behaviour is not the raw log π", GREEDY),
]
# fmt: on
