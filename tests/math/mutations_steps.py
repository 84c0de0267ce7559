"""Mistakes in a step of the trainer: weights and rates, counts, optimiser, averages, stop rules, the probe (MATH §2, §9, §10)."""

from __future__ import annotations

from mutation import Mutation, named

STEP, TERMS, PLAN = "trainer/step.py", "trainer/pool_terms.py", "trainer/plan.py"
RATES, NORMALISE = "trainer/schedule.py", "trainer/normalise.py"
OPTIMISER, AVERAGE, STOP, PROBE = "trainer/optimiser.py", "trainer/ema.py", "trainer/stop.py", "trainer/probe.py"
LEASH = named("tests/trainer/test_step.py", "test_the_leash_pulls_towards_the_reference[1.0]")
HALF_RL, HALF_BC, HALF_PT = (
    named("tests/trainer/test_step.py", f"test_half_the_weight_is_half_the_step[{term}]") for term in ("rl", "bc", "pt")
)
WARM = named(
    "tests/trainer/test_step.py", "test_the_pools_temperature_divides_the_logits_of_the_samples_and_of_nothing_else"
)
CUT = named("tests/trainer/test_step.py", "test_micro_batches_change_nothing")
MIXED = named("tests/trainer/test_step.py", "test_a_mixed_step_is_the_sum_of_its_terms_each_with_its_own_denominator")
PLAIN = named("tests/trainer/test_step.py", "test_a_bc_only_step_is_plain_cross_entropy")
COUNTS = named("tests/trainer/test_plan.py")
TOGETHER = named("tests/trainer/test_distributed.py", "test_gradients_of_processes_are_summed_and_none_is_zero")
SPREAD = named("tests/trainer/test_replay.py", "test_advantages_divided_by_the_steps_spread_are_those_of_the_formula")
SCHEDULES, STOPS = named("tests/trainer/test_schedule.py"), named("tests/trainer/test_stop.py")
MOVES, PROBES = named("tests/trainer/test_optimiser.py"), named("tests/trainer/test_probe.py")

# fmt: off
MUTATIONS = [
    # a step of the trainer
    Mutation(TERMS, "plan.weights.rl * term.weight", "term.weight", "step: no λ of RL", HALF_RL),
    Mutation(STEP, '("bc", plan.weights.bc, ', '("bc", 1.0, ', "step: no λ of BC", HALF_BC),
    Mutation(STEP, '("pt", plan.weights.pt, ', '("pt", 1.0, ', "step: no λ of L_PT", HALF_PT),
    Mutation(STEP, "bc, plan.answer_tokens, ", "bc, plan.tokens, ", "step: BC over all tokens of the step", MIXED),
    Mutation(STEP, "pt, plan.document_tokens, ", "pt, plan.tokens, ", "step: L_PT over all tokens of the step", MIXED),
    Mutation(TERMS, "Term(-plan.weights.kl", "Term(plan.weights.kl", "step: sign of the KL", LEASH),
    Mutation(TERMS, "Term(-plan.weights.kl, ", "Term(-1.0, ", "step: no β of the KL", LEASH),
    Mutation(TERMS, 'aggregation("token"), leash', 'aggregation("sequence"), leash', "step: the KL's denominator", LEASH),
    Mutation(TERMS, "behaviour_is_reference else old_bt",
             "behaviour_is_reference else logprobs_bt", "step: the policy is its own reference", LEASH),
    Mutation(STEP, "weigh, temperature=method.temperature)", "weigh)",
             "step: the pool's temperature ignored", WARM),
    Mutation(STEP, "target_n[span], weigh)", "target_n[span], weigh, temperature=method.temperature)",
             "step: imitation at the pool's temperature", WARM),
    Mutation(STEP, "imitation_term(weight, mask_bt, tokens, ", "imitation_term(weight, mask_bt, len(logprob_n), ",
             "step: imitation counted in the micro-batch", CUT),
    Mutation(STEP, "-logprob_n.double().sum(), span", "logprob_n.double().sum(), span",
             "step: sign of the logged imitation", PLAIN),
    Mutation(STEP, "return torch.stack(parts).sum()", "return torch.stack(parts).mean()", "step: mean of its parts", CUT),
    Mutation(STEP, "mix([imitation_term(weight", "mix([imitation_term(-weight", "step: imitation turned", PLAIN),
    Mutation(STEP, "for name, (total, count) in self.pairs.items() if count > 0}",
             "for name, (total, count) in self.pairs.items()}", "step: a figure without a count", CUT),
    Mutation(STEP, "(old[0] + float(total), old[1] + float(count))", "(old[0] + float(total), float(count))",
             "step: count of the last micro-batch", CUT),
    # its plan
    Mutation(PLAN, "StepCounts(sum(lengths), len(lengths),", "StepCounts(2 * sum(lengths), len(lengths),",
             "step: token count", COUNTS),
    Mutation(PLAN, "len(lengths), len(groups), max(", "len(groups), len(groups), max(", "step: sample count", COUNTS),
    Mutation(PLAN, "len(lengths), len(groups), max(", "len(lengths), len(lengths), max(", "step: prompt count", COUNTS),
    Mutation(PLAN, "max(max_tokens, *lengths, 1))", "max(*lengths, 1))", "step: L_max is the longest seen", COUNTS),
    Mutation(PLAN, "max(max_tokens, *lengths, 1))", "max_tokens)", "step: L_max below what is there", COUNTS),
    Mutation(PLAN, "sum(len(text.completion) for text in items.answers)",
             "len(items.answers)", "step: answers, not their tokens", COUNTS),
    Mutation(PLAN, "sum(len(text.completion) for text in items.documents)",
             "sum(len(text.prompt) + len(text.completion) for text in items.documents)", "step: context tokens counted", COUNTS),
    Mutation(PLAN, "[whole.numbers[i] for i in own[0]]", "[0 for i in own[0]]",
             "step: groups of a micro-batch taken for one", COUNTS),
    Mutation(NORMALISE, "found.vector[start + _known(group.rows)]", "found.vector[_known(group.rows)]",
             "step: every group takes the first one's advantages", SPREAD),
    # over processes
    Mutation("trainer/distributed.py", "summed.view_as(parameter)", "(summed / self.size).view_as(parameter)",
             "step: mean over processes", TOGETHER),
    Mutation("trainer/distributed.py", "if parameter.grad is None else parameter.grad",
             "if parameter.grad is not None else parameter",
             "step: a process without work adds its weights", TOGETHER),
    # weights and rates
    Mutation(RATES, "(1 - settings.final) * share", "settings.final * share", "rate: linear slope", SCHEDULES),
    Mutation(RATES, "math.cos(math.pi * share)", "math.cos(share)", "rate: cosine", SCHEDULES),
    Mutation(RATES, "0.5 * (1 + math.cos", "(1 + math.cos", "rate: twice the cosine", SCHEDULES),
    Mutation(RATES, "settings.lr * (settings.final + (1", "settings.lr * ((1", "rate: cosine without its floor", SCHEDULES),
    Mutation(RATES, "settings.lr * step / settings.warmup", "settings.lr", "rate: no warm-up", SCHEDULES),
    Mutation(RATES, "settings.lr * step / settings.warmup", "settings.lr * (step - 1) / settings.warmup",
             "rate: warm-up from 0", SCHEDULES),
    Mutation(RATES, "(step - settings.warmup) / max(", "step / max(", "rate: share without the warm-up", SCHEDULES),
    Mutation(RATES, "start + share * (end - start)", "end + share * (start - end)", "weight: line turned", SCHEDULES),
    Mutation(RATES, "min((step - 1) / max(", "min(step / max(", "weight: line begins a step early", SCHEDULES),
    Mutation(RATES, '1), 1.0)', '1), 2.0)', "weight: line runs past its end", SCHEDULES),
    Mutation(RATES, "step -= steps", "step -= 0", "weight: a phase counts from the run's start", SCHEDULES),
    Mutation(RATES, "if step <= steps", "if step < steps", "weight: a phase ends a step early", SCHEDULES),
    Mutation(RATES, 'values["kl"] if values["rl"] else 0.0', 'values["kl"]', "weight: leash without samples", SCHEDULES),
    # the move, the average
    Mutation(OPTIMISER, "gradient.mul_(clip / norm)", "gradient.mul_(norm / clip)", "clip of the norm", MOVES),
    Mutation(OPTIMISER, "norm > clip", "norm < clip", "clip of the norm: below it", MOVES),
    Mutation(OPTIMISER, "if not math.isfinite(norm)", "if False", "clip of the norm: NaN passes", MOVES),
    Mutation(OPTIMISER, '"weight_decay": 0.0}', '"weight_decay": settings.weight_decay}', "decay: of vectors", MOVES),
    Mutation(OPTIMISER, "if p.ndim >= 2]", "if p.ndim >= 3]", "decay: matrices do not move", MOVES),
    Mutation(OPTIMISER, '"weight_decay": settings.weight_decay}', '"weight_decay": 0.0}', "decay: none", MOVES),
    Mutation(OPTIMISER, "torch.optim.SGD(parameters, lr=settings.lr)",
             "torch.optim.SGD(parameters, lr=settings.lr, weight_decay=settings.weight_decay)", "decay: of plain SGD", MOVES),
    Mutation(OPTIMISER, "betas=(settings.betas[0], settings.betas[1])", "betas=(settings.betas[1], settings.betas[1])",
             "AdamW: first moment", MOVES),
    Mutation(OPTIMISER, "betas=(settings.betas[0], settings.betas[1])", "betas=(settings.betas[0], settings.betas[0])",
             "AdamW: second moment", MOVES),
    Mutation(OPTIMISER, 'group["lr"] = rate', 'group["lr"] = group["lr"]', "rate: the first one for ever", MOVES),
    Mutation(AVERAGE, "alpha=1 - self.decay", "alpha=self.decay", "average: share", MOVES),
    Mutation(AVERAGE, "mul_(self.decay)", "mul_(1 - self.decay)", "average: what it keeps", MOVES),
    # stop rules, the probe
    Mutation(STOP, "value >= rule.above", "value <= rule.above", "stop: bound turned", STOPS),
    Mutation(STOP, "value <= rule.below", "value >= rule.below", "stop: floor turned", STOPS),
    Mutation(STOP, "sign * value > sign * best", "sign * value >= sign * best", "stop: a tie is no best", STOPS),
    Mutation(STOP, '1 if rule.mode == "max" else -1', '-1 if rule.mode == "max" else 1', "stop: mode turned", STOPS),
    Mutation(STOP, "self.counts[place] >= rule.patience", "self.counts[place] > rule.patience", "stop: patience", STOPS),
    Mutation(STOP, "if self._counts(place, rule, value) else 0", "if self._counts(place, rule, value) else self.counts[place]",
             "stop: not in a row", STOPS),
    Mutation(STOP, "step < rule.after", "step <= rule.after", "stop: silent a step too long", STOPS),
    Mutation(PROBE, "total -= float(", "total += float(", "probe: sign of the KL", PROBES),
    Mutation(PROBE, "return total / sum(len(answer.token_ids) for answer in drawn)",
             "return total / len(drawn)", "probe: KL of a sample, not of a token", PROBES),
    Mutation(PROBE, "figures[f\"{prefix}/{item.name}\"] = sum(values) / len(values)",
             "figures[f\"{prefix}/{item.name}\"] = sum(values)", "probe: mean", PROBES),
    Mutation(PROBE, "figures[f\"{prefix}/{item.name}\"] = sum(values) / len(values)",
             "figures[f\"{prefix}/{item.name}\"] = sum(values) / len(answers)",
             "probe: what was not scored counts as 0", PROBES),
    Mutation(PROBE, 'a.finish_reason == "length" for a', 'a.finish_reason != "length" for a', "probe: truncated share", PROBES),
]
# fmt: on
