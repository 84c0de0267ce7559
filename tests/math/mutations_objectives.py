"""Mistakes in what a step's samples weigh: views, ratios, objectives, aggregations, the kernel, KL, drift (MATH §2, §4, §6, §9)."""

from __future__ import annotations

from mutation import Mutation, located

VIEW, OBJECTIVES, LOSSES, DRIFT = (
    "trainer/view.py",
    "trainer/objectives",
    "trainer/losses.py",
    "trainer/drift/sums.py",
)
GOLDEN = ("tests/math/test_golden.py",)
TEXTBOOK = ("tests/math/test_textbook.py",)
EQUAL = ("tests/math/test_equalities.py",)
VIEWS = ("tests/trainer/test_objectives.py",)
KERNEL = ("tests/trainer/test_losses.py",)
SUMS = ("tests/trainer/test_drift.py",)


def table_row(name: str, scope: str, right: str, wrong: str) -> Mutation:
    """The default aggregation of an objective."""
    start = f'Objective("{name}", "{scope}", '
    return Mutation(OBJECTIVES, f'{start}"{right}"', f'{start}"{wrong}"', f"{name}: default aggregation", KERNEL)


# fmt: off
MUTATIONS = [
    # the view's reductions
    Mutation(VIEW, "torch.where(mask_bt, values_bt, torch.zeros_like(values_bt))", "values_bt", "mask: ignored", VIEWS),
    Mutation(VIEW, "torch.where(mask_bt, values_bt, torch.zeros_like(values_bt))",
             "values_bt * mask_bt", "mask: a NaN of the padding passes", VIEWS),
    Mutation(VIEW, "masked(values_bt, mask_bt).sum(1)", "masked(values_bt, mask_bt).mean(1)", "sum of a sample: mean", GOLDEN),
    Mutation(VIEW, "index_add_(0, index_b, values_b)", "index_add_(0, 0 * index_b, values_b)", "sum of a group: of all", VIEWS),
    Mutation(VIEW, "include_self=False", "include_self=True", "extreme of a group: beside a 0", VIEWS),
    Mutation(VIEW, "0.0).sum(), where.sum()",
             "0.0).sum(), torch.tensor(where.numel())", "metric: denominator counts padding", GOLDEN),
    Mutation(VIEW, "values.to(torch.float64), 0.0).sum()", "values.to(torch.float64), 0.0).mean()", "metric: mean", GOLDEN),
    Mutation(VIEW, "not torch.isfinite(tensor[view.live_b]).all()", "False", "advantage: NaN passes", VIEWS),
    Mutation(VIEW, "not torch.isfinite(tensor[view.mask_bt]).all()", "False", "behaviour: NaN passes", VIEWS),
    # ratios and caps
    Mutation(OBJECTIVES, "MAX_LOG_RATIO = 20.0", "MAX_LOG_RATIO = 200.0", "ratio: overflows float32", GOLDEN),
    Mutation(OBJECTIVES, "return log_ratio.clamp(", "return (-log_ratio).clamp(", "ratio: μ/π", GOLDEN),
    Mutation(OBJECTIVES, "weight.clamp(max=cap)", "weight.clamp(min=cap)", "cap: a floor", GOLDEN),
    Mutation(OBJECTIVES, "else weight.clamp(max=cap)", "else weight", "cap: none", GOLDEN),
    Mutation(OBJECTIVES, "cap * (log_weight - math.log(cap))",
             "(log_weight - math.log(cap))", "surrogate: above the cap", TEXTBOOK),
    Mutation(OBJECTIVES, "cap * (log_weight - math.log(cap)).clamp(min=0)", "0.0", "surrogate: flat above the cap", TEXTBOOK),
    # engine against trainer
    Mutation(OBJECTIVES, "ratio(anchor_bt - view.behaviour_bt)",
             "ratio(view.behaviour_bt - anchor_bt)", "mismatch: μ/π_old", GOLDEN),
    Mutation(OBJECTIVES, "truncate(raw_bt, settings.mismatch_cap)", "truncate(raw_bt, None)", "mismatch: no cap", GOLDEN),
    Mutation(OBJECTIVES, "return correction_bt, view.logprobs_bt - anchor_bt, metrics",
             "return correction_bt, view.logprobs_bt - view.behaviour_bt, metrics", "mismatch: corrected twice", GOLDEN),
    Mutation(OBJECTIVES, "view.logprobs_bt - view.behaviour_bt, {}",
             "view.behaviour_bt - view.logprobs_bt, {}", "grpo: ratio", GOLDEN),
    # the clip
    Mutation(OBJECTIVES, "ratio_bt > 1 + high", "ratio_bt < 1 + high", "clip: high side turned", GOLDEN),
    Mutation(OBJECTIVES, "ratio_bt > 1 + high", "ratio_bt > 1 - high", "clip: high bound", GOLDEN),
    Mutation(OBJECTIVES, "(a_b1 > 0) & (ratio_bt > 1 + high)",
             "(a_b1 < 0) & (ratio_bt > 1 + high)", "clip: high, sign of A", GOLDEN),
    Mutation(OBJECTIVES, "ratio_bt < 1 - low", "ratio_bt > 1 - low", "clip: low side turned", GOLDEN),
    Mutation(OBJECTIVES, "ratio_bt < 1 - low", "ratio_bt < 1 + low", "clip: low bound", GOLDEN),
    Mutation(OBJECTIVES, "(a_b1 < 0) & (ratio_bt < 1 - low)",
             "(a_b1 > 0) & (ratio_bt < 1 - low)", "clip: low, sign of A", GOLDEN),
    Mutation(OBJECTIVES, "ratio_bt > settings.dual_clip", "ratio_bt < settings.dual_clip", "dual clip: side turned", GOLDEN),
    Mutation(OBJECTIVES, "(a_b1 < 0) & (ratio_bt > settings.dual_clip)",
             "(a_b1 > 0) & (ratio_bt > settings.dual_clip)", "dual clip: sign of A", TEXTBOOK),
    # naive
    Mutation(OBJECTIVES, "masked(view.advantage_bt", "masked(-view.advantage_bt", "naive: sign", TEXTBOOK),
    Mutation(OBJECTIVES, "masked(view.advantage_bt, view.mask_bt)",
             "view.advantage_bt", "naive: mask", TEXTBOOK),
    # grpo and dr_grpo
    Mutation(OBJECTIVES, "0.0, correction_bt * ratio_bt * a_bt)",
             "0.0, -correction_bt * ratio_bt * a_bt)", "grpo: sign", GOLDEN),
    Mutation(OBJECTIVES, "0.0, correction_bt * ratio_bt * a_bt)", "0.0, correction_bt * a_bt)", "grpo: no ratio", GOLDEN),
    Mutation(OBJECTIVES, "0.0, correction_bt * ratio_bt * a_bt)", "0.0, ratio_bt * a_bt)", "grpo: no mismatch", GOLDEN),
    Mutation(OBJECTIVES, "torch.where(flat_bt, 0.0, correction_bt",
             "torch.where(flat_bt & False, 0.0, correction_bt", "grpo: no clip", GOLDEN),
    Mutation(OBJECTIVES, "ratio_bt.clamp(max=bound_high)", "ratio_bt", "grpo: surrogate unclipped above", TEXTBOOK),
    Mutation(OBJECTIVES, "ratio_bt.clamp(bound_low,", "ratio_bt.clamp(0.0,", "grpo: surrogate unclipped below", TEXTBOOK),
    # tis
    Mutation(OBJECTIVES, "masked(weight_bt * a_bt, view.mask_bt)",
             "masked(-weight_bt * a_bt, view.mask_bt)", "tis: sign", GOLDEN),
    Mutation(OBJECTIVES, "masked(weight_bt * a_bt, view.mask_bt)",
             "masked(ratio_bt * a_bt, view.mask_bt)", "tis: no cap", GOLDEN),
    Mutation(OBJECTIVES, "masked(weight_bt * a_bt, view.mask_bt)",
             "masked(0 * weight_bt + a_bt, view.mask_bt)", "tis: no ratio", GOLDEN),
    Mutation(OBJECTIVES, "masked(weight_bt * a_bt, view.mask_bt)", "weight_bt * a_bt", "tis: mask", VIEWS),
    # seq_tis
    Mutation(OBJECTIVES, "weight_b = truncate(raw_b, settings.cap)",
             "weight_b = -truncate(raw_b, settings.cap)", "seq_tis: sign", GOLDEN),
    Mutation(OBJECTIVES, "weight_b = truncate(raw_b, settings.cap)", "weight_b = raw_b", "seq_tis: no cap", GOLDEN),
    Mutation(OBJECTIVES, "weight_b = truncate(raw_b, settings.cap)",
             "weight_b = truncate(ratio(log_weight_b / view.lengths_b), settings.cap)",
             "seq_tis: geometric mean in place of the product", GOLDEN),
    Mutation(OBJECTIVES,
             'after the product."""\n    log_weight_b, live_b = sample_sum(view.logprobs_bt - view.behaviour_bt, view.mask_bt)',
             'after the product."""\n    log_weight_b, live_b = (view.logprobs_bt - view.behaviour_bt).sum(1)',
             "seq_tis: mask of the product", GOLDEN),
    # topr
    Mutation(OBJECTIVES, "view.advantage_b >= 0", "view.advantage_b <= 0", "topr: weighs the good ones", GOLDEN),
    Mutation(OBJECTIVES, "TOPR_CAP = 1.0", "TOPR_CAP = 2.0", "topr: cap", GOLDEN),
    Mutation(OBJECTIVES, "torch.where(good_b, 1.0, tapered_b)", "tapered_b", "topr: tapers the good ones too", GOLDEN),
    Mutation(OBJECTIVES, "torch.where(good_b, 1.0, tapered_b)",
             "torch.where(good_b, 1.0, -tapered_b)", "topr: sign of bad ones", GOLDEN),
    Mutation(OBJECTIVES, "torch.where(good_b, 1.0, tapered_b)", "torch.where(good_b, 1.0, raw_b)", "topr: no cap", GOLDEN),
    # seed_softmax
    Mutation(OBJECTIVES, "power_b / group_sum(power_b, group_b)", "power_b", "seed_softmax: denominator", GOLDEN),
    Mutation(OBJECTIVES, "power_b / group_sum(power_b, group_b)",
             "power_b / power_b.sum()", "seed_softmax: over the batch", TEXTBOOK),
    Mutation(OBJECTIVES, "(weighted_b - s_b * group_sum",
             "(weighted_b + s_b * group_sum", "seed_softmax: sign of its baseline", GOLDEN),
    Mutation(OBJECTIVES, "(weighted_b - s_b * group_sum",
             "(weighted_b - group_sum", "seed_softmax: baseline without s_j", GOLDEN),
    Mutation(OBJECTIVES, "view.group_b)) * slope_b", "view.group_b))", "seed_softmax: no 1/T_j", GOLDEN),
    Mutation(OBJECTIVES, 'settings.softmax_score == "mean"',
             'settings.softmax_score == "sum"', "seed_softmax: mean and sum swapped", GOLDEN),
    Mutation(OBJECTIVES, "view.mask_bt) * slope_b",
             "view.mask_bt)", "seed_softmax: scores summed under a mean's slope", TEXTBOOK),
    Mutation(OBJECTIVES, "s_b * view.advantage_b, 0.0", "-s_b * view.advantage_b, 0.0", "seed_softmax: sign", GOLDEN),
    # raft
    Mutation(OBJECTIVES, 'group_extreme(advantage_b, view.group_b, "amax")',
             'group_extreme(advantage_b, view.group_b, "amin")', "raft: worst", GOLDEN),
    Mutation(OBJECTIVES, "best_b & (rank_b ==", "best_b | (rank_b ==", "raft: all equals", GOLDEN),
    Mutation(OBJECTIVES, "torch.where(view.live_b, view.advantage_b, -math.inf)",
             "view.advantage_b", "raft: a masked best", GOLDEN),
    Mutation(OBJECTIVES, "chosen_b[:, None] & view.mask_bt",
             "chosen_b[:, None].expand_as(view.mask_bt)", "raft: mask", TEXTBOOK),
    Mutation(OBJECTIVES, "if view.chosen_b is None else view.chosen_b", "", "raft: ignores the chosen", GOLDEN),
    # the table
    table_row("naive", "sample", "sample", "token"),
    table_row("grpo", "token", "sample", "token"),
    table_row("dr_grpo", "token", "constant", "sample"),
    table_row("tis", "token", "token", "sample"),
    table_row("seq_tis", "sample", "sequence", "token"),
    table_row("topr", "sample", "sequence", "sample"),
    table_row("seed_softmax", "group", "prompt", "sequence"),
    table_row("raft", "group", "token", "sequence"),
    # aggregations
    Mutation(LOSSES, "torch.ones_like(lengths_b) / counts.tokens",
             "torch.ones_like(lengths_b) / counts.samples", "token: denominator", KERNEL),
    Mutation(LOSSES, "torch.ones_like(lengths_b) / counts.tokens",
             "1.0 / (0 * lengths_b + lengths_b.sum())", "token: of the micro-batch", KERNEL),
    Mutation(LOSSES, "(counts.samples * lengths_b.clamp(min=1))", "counts.samples * lengths_b**0", "sample: no 1/T_j", KERNEL),
    Mutation(LOSSES, "(counts.samples * lengths_b.clamp(min=1))",
             "(len(lengths_b) * lengths_b.clamp(min=1))", "sample: of the micro-batch", KERNEL),
    Mutation(LOSSES, "torch.ones_like(lengths_b) / counts.samples,",
             "torch.ones_like(lengths_b) / counts.prompts,", "sequence: denominator", KERNEL),
    Mutation(LOSSES, "/ (counts.samples * counts.max_tokens)", "/ counts.samples", "constant: no L_max", KERNEL),
    Mutation(LOSSES, "/ (counts.samples * counts.max_tokens)",
             "/ (counts.samples * lengths_b.max())", "constant: longest seen", KERNEL),
    Mutation(LOSSES, "torch.ones_like(lengths_b) / counts.prompts",
             "torch.ones_like(lengths_b) / counts.samples", "prompt: denominator", KERNEL),
    Mutation(LOSSES, "counts)[:, None].expand(mask_bt.shape), mask_bt)",
             "counts)[:, None].expand(mask_bt.shape), mask_bt | True)", "aggregation: mask", KERNEL),
    # the kernel and its terms
    Mutation(LOSSES, "return -(masked(weight_bt", "return (masked(weight_bt", "kernel: sign", KERNEL),
    Mutation(LOSSES, "masked(weight_bt, mask_bt).detach()", "masked(weight_bt, mask_bt)", "kernel: no stop-gradient", KERNEL),
    Mutation(LOSSES, "* masked(logprobs_bt, mask_bt)).sum()", "* logprobs_bt).sum()", "kernel: mask of log π", KERNEL),
    Mutation(LOSSES, "masked(weight_bt, mask_bt).detach()", "weight_bt.detach()", "kernel: mask of the weight", KERNEL),
    Mutation(LOSSES, "* masked(logprobs_bt, mask_bt)).sum()", "* masked(logprobs_bt, mask_bt)).mean()", "kernel: mean", KERNEL),
    Mutation(LOSSES, "term.weight * (term.a_bt * term.c_bt)", "(term.a_bt * term.c_bt)", "mix: no λ", KERNEL),
    Mutation(LOSSES, "term.weight * (term.a_bt * term.c_bt)", "term.weight * term.c_bt", "mix: no aggregation", KERNEL),
    Mutation(LOSSES, "torch.stack(parts).sum(0)", "torch.stack(parts).mean(0)", "mix: mean of the terms", KERNEL),
    Mutation(LOSSES, "terms.append(Term(weight, aggregation(",
             "terms.append(Term(1.0, aggregation(", "weighted sum of objectives: no weight", KERNEL),
    Mutation(LOSSES, "aggregate or row.aggregate", "row.aggregate", "aggregation: the recipe's is ignored", EQUAL),
    Mutation(LOSSES, "Term(weight, ones_bt / tokens, ones_bt)",
             "Term(weight, ones_bt / mask_bt.sum(), ones_bt)", "imitation: of the micro-batch", KERNEL),
    Mutation(LOSSES, "Term(weight, ones_bt / tokens, ones_bt)",
             "Term(-weight, ones_bt / tokens, ones_bt)", "imitation: sign", KERNEL),
    Mutation(LOSSES, "ones_bt = mask_bt.to(torch.float32)", "ones_bt = torch.ones(mask_bt.shape)", "imitation: mask", KERNEL),
    # KL to the reference
    Mutation(LOSSES, "view.logprobs_bt - reference_bt", "reference_bt - view.logprobs_bt", "kl: sign", EQUAL),
    Mutation(LOSSES, "weight_bt * x_bt if compat is None", "x_bt if compat is None", "kl: no ratio", EQUAL),
    Mutation(LOSSES, "weight_bt * x_bt if compat is None", "ratio_bt * x_bt if compat is None", "kl: no cap", GOLDEN),
    Mutation(LOSSES, "Coefficients(masked(c_bt, view.mask_bt), metrics)", "Coefficients(c_bt, metrics)", "kl: mask", KERNEL),
    Mutation(LOSSES, "ratio(view.logprobs_bt - view.behaviour_bt), view",
             "ratio(view.behaviour_bt - view.logprobs_bt), view", "kl: ratio", EQUAL),
    Mutation(LOSSES, "ratio(-x_bt) - 1 + x_bt", "ratio(x_bt) - 1 - x_bt", "kl: k3 of the other direction", EQUAL),
    Mutation(LOSSES, "ratio_bt * (ratio(-x_bt)", "(ratio(-x_bt)", "kl: k3 without the ratio", EQUAL),
    # drift
    Mutation(DRIFT, "cls.from_log_ratio(view.logprobs_bt - view.behaviour_bt,",
             "cls.from_log_ratio(view.behaviour_bt - view.logprobs_bt,", "drift: ratio", SUMS),
    Mutation(DRIFT, "token_square=ratio_n.square().sum()",
             "token_square=ratio_n.sum().square()", "drift: square of the sum", SUMS),
    Mutation(DRIFT, "sample_square=weight_b.square().sum()", "sample_square=weight_b.sum()", "drift: no square", SUMS),
    Mutation(DRIFT, "log_bt.sum(1)[live_b]", "log_bt.mean(1)[live_b]", "drift: geometric mean of a sequence", SUMS),
    Mutation(DRIFT, "log_bt.sum(1)[live_b]", "log_bt.sum(1)", "drift: samples without tokens counted", SUMS),
    Mutation(DRIFT, "token_minus_log=-log_n.sum()", "token_minus_log=log_n.sum()", "drift: sign of a token's KL", SUMS),
    Mutation(DRIFT, "sample_minus_log=-log_w.sum()", "sample_minus_log=log_w.sum()", "drift: sign of a sequence's KL", SUMS),
    Mutation(DRIFT, "(clipped_bt & mask_bt).sum()", "clipped_bt.sum()", "drift: mask of the clipped share", SUMS),
    Mutation(DRIFT, "tokens=mask_bt.sum()", "tokens=(mask_bt | True).sum()", "drift: denominator counts padding", SUMS),
    Mutation(DRIFT, "n * self.token_square", "self.token_square", "drift: token ESS not over n", SUMS),
    Mutation(DRIFT, "m * self.sample_square", "n * self.sample_square", "drift: sequence ESS over tokens", SUMS),
    Mutation(DRIFT, "self.sample_ratio.square()", "self.sample_ratio", "drift: sequence ESS without its square", SUMS),
    Mutation(DRIFT, "self.token_ratio - n + self.token_minus_log",
             "self.token_ratio - n - self.token_minus_log", "drift: k3", SUMS),
    Mutation(DRIFT, "log_n > MAX_LOG_RATIO", "log_n > MAX_LOG_WEIGHT", "drift: broken records", SUMS),
    Mutation(DRIFT, "MAX_LOG_WEIGHT = 300.0", "MAX_LOG_WEIGHT = 400.0", "drift: squares overflow", SUMS),
    Mutation(DRIFT, "if bottom > 0", "if True", "drift: a figure without denominator", SUMS),
]
# fmt: on
MUTATIONS = [located(row) for row in MUTATIONS]
