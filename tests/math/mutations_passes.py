"""Mistakes between a coefficient and its step: weights of tokens, passes, parts of groups, support losses, references, guards."""

from __future__ import annotations

from mutation import Mutation, named

LOSSES, SUPPORT, TERMS, STEP = (f"trainer/{name}.py" for name in ("losses", "support", "pool_terms", "step"))
COPIES, GUARD, RATES, PLAN, LOOP = (
    f"trainer/{name}.py" for name in ("references", "guard", "schedule", "plan", "loop")
)
KERNEL = "tests/trainer/test_losses.py"
CHORD = named(KERNEL, "test_chord_phi_weighs_a_token_by_what_is_open_about_it")
ESTIMATORS = named(KERNEL, "test_a_compat_form_is_the_gradient_of_its_estimator_taken_as_a_loss")
STEERED = named(KERNEL, "test_beta_follows_the_kl_by_at_most_a_fifth_of_the_rate")
TARGETS = named("tests/trainer/test_support.py")
WEIGHED = "tests/trainer/test_pool_terms.py"
CHUNKS = named(WEIGHED, "test_weights_of_chunks_of_any_size_are_those_of_the_micro_batch")
WHOLE = named(WEIGHED, "test_weights_over_the_step_do_not_depend_on_its_micro_batches_even_where_groups_are_split")
SHARED = named(WEIGHED, "test_each_process_gets_the_weights_of_its_own_samples")
FIRST = named(WEIGHED, "test_of_equal_samples_the_first_of_the_group_is_the_best_wherever_its_part_is_forwarded")
FLAT = named(WEIGHED, "test_a_flattened_token_knows_its_sample_and_its_place")
BY_HAND = named(WEIGHED, "test_the_weight_of_a_token_is_rl_by_its_aggregation_less_the_leash_by_hand")
SEEN = named(WEIGHED, "test_the_reference_is_the_copy_then_the_rescored_policy_then_the_behaviour_that_is_one")
IDS, OWN = "trainer/pool_soft.py", "tests/trainer/test_pool_soft.py"
BOOK = named(OWN, "test_the_step_is_the_gradient_of_its_textbook_form_by_autograd_and_finite_differences")
CUT = named(OWN, "test_micro_batches_and_split_groups_change_nothing")
BARE = named(OWN, "test_the_forms_are_different_steps_and_the_drawn_token_reads_no_support")
PASSES = "tests/trainer/test_passes.py"
SCOPES = named(PASSES, "test_every_scope_takes_the_gradient_of_its_weights_at_the_pools_temperature")
SOFT = named(PASSES, "test_soft_targets_and_answers_enter_at_temperature_one_each_over_its_own_tokens")
CHORDS = named(PASSES, "test_answers_weighed_by_chord_phi_take_its_gradient")
STATES, RULES = named("tests/trainer/test_references.py"), named("tests/trainer/test_guard.py")
SCHEDULES, COUNTS = named("tests/trainer/test_schedule.py"), named("tests/trainer/test_plan.py")
METHODS = "tests/trainer/test_methods.py"
RATE = named(METHODS, "test_the_rate_follows_the_logged_ess")
MOVED = named(METHODS, "test_the_scaled_rate_is_the_one_that_moves_the_weights")
BETA = named(METHODS, "test_beta_is_steered_to_its_target_from_the_logged_kl")
RENEWED = named(METHODS, "test_a_reference_that_is_renewed_every_step_is_never_left")

# fmt: off
MUTATIONS = [
    # imitation's weighting, the KL's other forms and its controller
    Mutation(LOSSES, "pi_bt * (1 - pi_bt)", "pi_bt", "chord_phi: no 1 − π", CHORD),
    Mutation(LOSSES, "pi_bt * (1 - pi_bt)", "(1 - pi_bt)", "chord_phi: no π", CHORD),
    Mutation(LOSSES, "masked(pi_bt * (1 - pi_bt), mask_bt)", "masked(pi_bt * (1 - pi_bt), mask_bt) * tokens",
             "chord_phi: over no count", CHORD),
    Mutation(LOSSES, "masked(logprobs_bt.detach(), mask_bt)", "masked(logprobs_bt, mask_bt)", "chord_phi: no stop-gradient",
             CHORD),
    Mutation(LOSSES, '"trl_k1": torch.ones_like', '"trl_k1": torch.zeros_like', "compat: k1", ESTIMATORS),
    Mutation(LOSSES, '"trl_k2": lambda x_bt: x_bt', '"trl_k2": lambda x_bt: x_bt / 2', "compat: k2", ESTIMATORS),
    Mutation(LOSSES, '"trl_k3": lambda x_bt: 1 - ratio(-x_bt)', '"trl_k3": lambda x_bt: 1 - ratio(x_bt)', "compat: k3 turned",
             ESTIMATORS),
    Mutation(LOSSES, '"trl_k3": lambda x_bt: 1 - ratio(-x_bt)', '"trl_k3": lambda x_bt: ratio(-x_bt) - 1', "compat: sign of k3",
             ESTIMATORS),
    Mutation(LOSSES, "x_bt if compat is None else COMPAT[compat](x_bt)",
             "x_bt if compat is None else weight_bt * COMPAT[compat](x_bt)", "compat: with the ratio", ESTIMATORS),
    Mutation(LOSSES, "beta * (1 + rate", "beta * (1 - rate", "beta: turned", STEERED),
    Mutation(LOSSES, "kl / target - 1", "kl - target", "beta: not the target's share", STEERED),
    Mutation(LOSSES, "max(kl / target - 1, -0.2)", "(kl / target - 1)", "beta: no floor", STEERED),
    Mutation(LOSSES, "-0.2), 0.2)", "-0.2), 2.0)", "beta: ceiling", STEERED),
    Mutation(LOOP, "next_beta(plan.weights.kl, measured", "next_beta(settings.losses.kl, measured",
             "beta: from its start for ever", BETA),
    Mutation(LOOP, 'weights.with_({"kl": training.beta})', "weights", "beta: steered and not used", BETA),
    # support losses
    Mutation(SUPPORT, "counts_nk / counts_nk.sum(1, keepdim=True)", "counts_nk", "counts: not a share of the draws", TARGETS),
    Mutation(SUPPORT, "counts_nk / counts_nk.sum(1, keepdim=True)", "counts_nk / counts_nk.sum()",
             "counts: share of all positions' draws", TARGETS),
    Mutation(SUPPORT, ', -torch.inf).softmax(1)', ', -torch.inf).exp()', "renormalised: not normalised", TARGETS),
    Mutation(SUPPORT, "target) - tail_p_n * tail_pi_n", "target) + tail_p_n * tail_pi_n", "top_k: sign of the tail", TARGETS),
    Mutation(SUPPORT, "target) - tail_p_n * tail_pi_n.log()", "target)", "top_k: no tail", TARGETS),
    Mutation(SUPPORT, "logprob_nk - logp_nk", "logp_nk - logprob_nk", "student_m: turned", TARGETS),
    Mutation(SUPPORT, " + tail_pi_n * (tail_pi_n.log() - tail_p_n.log())", "", "student_m: no tail", TARGETS),
    Mutation(SUPPORT, "(pi_nk * gap_nk).sum(1)", "(pi_nk.detach() * gap_nk).sum(1)", "student_m: stopped", TARGETS),
    Mutation(SUPPORT, "(1 - p_nk.sum(1))", "(0 * p_nk.sum(1) + 1)", "tail: all of the mass", TARGETS),
    Mutation(SUPPORT, "-torch.where(target.mask_nk, weight_nk", "torch.where(target.mask_nk, weight_nk", "soft targets: sign",
             TARGETS),
    Mutation(SUPPORT, "torch.where(mask_nk, logprob_nk, -torch.inf).exp()", "logprob_nk.exp()", "tail: padding takes from it",
             TARGETS),
    Mutation(SUPPORT, "torch.where(target.mask_nk, _given(target.logp_nk",
             "torch.where(target.mask_nk | True, _given(target.logp_nk", "renormalised: over the padding", TARGETS),
    Mutation(STEP, "plan.weights.soft * total", "total", "step: no λ of the soft targets", SOFT),
    Mutation(STEP, "total / plan.soft_tokens", "total / len(value_n)", "step: soft targets over the micro-batch", SOFT),
    Mutation(STEP, "total / plan.soft_tokens", "total / plan.tokens", "step: soft targets over all tokens of the step", SOFT),
    Mutation(STEP, "support_logprobs(hidden_nd, head, support.ids_nk)",
             "support_logprobs(hidden_nd, head, support.ids_nk, temperature=method.temperature)",
             "step: soft targets at the pool's temperature", SOFT),
    Mutation(STEP, "tokens, weighting, logprob_n[None])", "tokens)", "step: answers weighed alike", CHORDS),
    Mutation(PLAN, "sum(len(text.completion) for text in items.soft)", "len(items.soft)", "step: soft answers, not their tokens",
             COUNTS),
    # minillm's own KL of a token over several ids
    Mutation(IDS, "plan.weights.rl * weight, a_bt", "weight, a_bt", "ids: no λ", BOOK),
    Mutation(IDS, "plan.weights.rl * weight, a_bt", "plan.weights.rl, a_bt", "ids: no weight of the objective", BOOK),
    Mutation(IDS, "method.losses.aggregation or row.aggregate", "row.aggregate", "ids: the recipe's aggregation is ignored", BOOK),
    Mutation(IDS, "support.ids_nk, temperature=method.temperature", "support.ids_nk", "ids: π at temperature 1", BOOK),
    Mutation(IDS, "(weight_n.detach() * kl_n).sum()", "-(weight_n.detach() * kl_n).sum()", "ids: sign", BOOK),
    Mutation(IDS, "(weight_n.detach() * kl_n).sum()", "(weight_n.detach().mean() * kl_n).sum()", "ids: every token alike", BOOK),
    Mutation(IDS, "torch.tensor(len(kl_n))", "torch.tensor(1)", "ids: the figure is a sum", BOOK),
    Mutation(IDS, "if len(rows) != len(hidden_nd):", "if False:", "ids: samples without supports", BARE),
    Mutation(STEP, "return loss + single", "return loss", "ids: not in the step", BOOK),
    Mutation(STEP, "if method.support is None:", "if batch.groups[0].support is None:",
             "ids: left out where they are missing", BARE),
    Mutation(STEP, "view_of(batch, logprob_n, method, known)\n        single",
             "view_of(batch, 0 * logprob_n, method, known)\n        single",
             "ids: ratio of log π = 0", BOOK),
    Mutation("trainer/objectives/teacher.py", "ratio(view.logprobs_bt - view.behaviour_bt), settings.teacher.cap)",
             "ratio(view.logprobs_bt - view.behaviour_bt), None)", "ids: no cap of the ratio", BOOK),
    Mutation("trainer/objectives/teacher.py", "ratio(view.logprobs_bt - view.behaviour_bt), settings.teacher.cap)",
             "ratio(view.behaviour_bt - view.logprobs_bt), settings.teacher.cap)", "ids: ratio turned", BOOK),
    Mutation(PLAN, '        "support",\n', "", "split: the whole group's supports", CUT),
    # the weight of a token: chunks, micro-batches, the step
    Mutation(TERMS, "self._aggregation(kind)[part]", "aggregations(chunk, self.plan.counts)(kind)",
             "chunk: a token's length is 1", CHUNKS),
    Mutation(TERMS, "self._aggregation(kind)[part]", "self._aggregation(kind)[: part.stop - part.start]",
             "chunk: the first tokens' denominators", CHUNKS),
    Mutation(TERMS, "(old[0] + total, old[1] + count)", "(total, count)", "chunk: figures of the last one", CHUNKS),
    Mutation(TERMS, "value[part] for name", "value[: part.stop - part.start] for name", "chunk: the first tokens' μ", CHUNKS),
    Mutation(TERMS, "else value.repeat_interleave(lengths_b)", "else value.repeat(len(place_bt[0]))[: int(lengths_b.sum())]",
             "chunk: samples take turns", FLAT),
    Mutation(TERMS, "place_bt[mask_bt][:, None]}", "0 * place_bt[mask_bt][:, None]}", "chunk: places from its start", FLAT),
    Mutation(TERMS, 'cut | {"logprobs_bt": logprob_n[:, None]}', "cut", "chunk: weights without log π", CHUNKS),
    Mutation(TERMS, "method.losses.leash.compat)", "None)", "compat: ignored", BY_HAND),
    Mutation(TERMS, "method.clip.cap, method.losses", "None, method.losses", "step: no cap of the KL's ratio", BY_HAND),
    Mutation(TERMS, "method.clip, method.losses.aggregation)", "method.clip)", "step: the recipe's aggregation is ignored",
             BY_HAND),
    Mutation(TERMS, "metrics |= leash.metrics", "metrics = leash.metrics", "step: the KL's figures hide the others", BY_HAND),
    Mutation(TERMS, "other(REFERENCE) if REFERENCE in known else initial_bt", "initial_bt", "reference: the copy is ignored",
             SEEN),
    Mutation(TERMS, "behaviour_bt if method.behaviour_is_reference else old_bt", "behaviour_bt", "reference: always μ", SEEN),
    Mutation(TERMS, "torch.isin(flat,", "~torch.isin(flat,", "opd: ordinary tokens are special", SEEN),
    Mutation(TERMS, "prox_bt=other(PROX)", "prox_bt=other(REFERENCE)", "decoupled: the reference in place of π_prox", CHUNKS),
    Mutation(TERMS, "torch.tensor(batch.numbers).repeat_interleave(sizes)",
             "torch.arange(len(batch.numbers)).repeat_interleave(sizes)", "split: parts are groups of their own", WHOLE),
    Mutation(TERMS, "back_bt[order_b] = weight_bt", "back_bt[:] = weight_bt", "step's pass: weights of other samples", FIRST),
    Mutation(TERMS, "        first + j\n", "        j\n", "split: places count from the part's start", FIRST),
    Mutation(TERMS, "for share in shares[: world.rank] if share)", "for share in shares[:0] if share)",
             "step's pass: every process takes the first one's weights", SHARED),
    Mutation(TERMS, "_joined([share for share in shares if share])", "_joined(own)", "step's pass: its own process alone",
             SHARED),
    Mutation(TERMS, "        start += len(mine.lengths_b)\n", "", "step's pass: every micro-batch takes the first one's weights",
             WHOLE),
    Mutation(STEP, 'if plan.counts.samples and (method.scope == "step"', 'if plan.counts.samples and (method.scope == "none"',
             "step: scope of a step without a first pass",
             named(METHODS, "test_micro_batches_and_split_groups_change_nothing_whatever_the_scope[m2po]")),
    Mutation(STEP, '(method.scope == "group" and plan.split)', '(method.scope == "group" and False)',
             "split: a group's part by itself",
             named(METHODS, "test_micro_batches_and_split_groups_change_nothing_whatever_the_scope[tb_vargrad]")),
    Mutation(STEP, "group_logprobs(policy, groups, temperature=method.temperature)", "group_logprobs(policy, groups)",
             "first pass: at temperature 1", SCOPES),
    Mutation(STEP, "weights_n[part], temperature=method.temperature", "weights_n[part]", "second pass: at temperature 1", SCOPES),
    Mutation(STEP, "token_logprobs(hidden_nd, head, target_n, temperature=method.temperature)",
             "token_logprobs(hidden_nd, head, target_n)", "step: a sample's scope at temperature 1", SCOPES),
    Mutation(STEP, "lambda _, part: weights_n[part]", "lambda _, part: weights_n[: part.stop - part.start] * 0.5",
             "second pass: other weights", SCOPES),
    Mutation(STEP, "replace(view, logprobs_bt=pad_bt(logprob_n, batch.lengths)[0])", "view", "drift: of log π = 0",
             named("tests/trainer/test_step.py", "test_without_a_step_the_policy_has_not_left_the_pool")),
    Mutation(STEP, "return kernel_loss(weight_n, logprob_n", "return -kernel_loss(weight_n, logprob_n",
             "step: a sample's scope turned", SCOPES),
    # split groups
    Mutation(PLAN, "found.append((start, group", "found.append((0, group", "split: every part is the first", COUNTS),
    Mutation(PLAN, "value[start:end] for name", "value[: end - start] for name", "split: the first samples' numbers", COUNTS),
    Mutation(PLAN, "group.completions[start : min(end + 1, count)]", "group.completions[start:end]",
             "split: parts over the budget", COUNTS),
    Mutation(PLAN, "layout) > budget:\n", "layout) >= budget:\n", "split: parts below the budget", COUNTS),
    Mutation(PLAN, "len(parts) > len(groups),", "len(parts) < len(groups),", "split: not said", COUNTS),
    Mutation(PLAN, "[whole.firsts[i] for i in own[0]]", "[0 for i in own[0]]", "split: places lost in the micro-batch", COUNTS),
    Mutation(PLAN, '        "teacher",\n', "", "split: the whole group's teacher", WHOLE),
    # references and π_prox
    Mutation(COPIES, "(step - 1) % due[name]", "step % due[name]", "reference: renewed a step early", STATES),
    Mutation(COPIES, "PROX: self.settings.block, REFERENCE: self.settings.every",
             "PROX: self.settings.every, REFERENCE: self.settings.block", "reference: periods swapped", STATES),
    Mutation(COPIES, "p.detach().clone()", "p.detach()", "reference: follows the policy", STATES),
    Mutation(COPIES, "not averaged and ", "", "reference: a running one is renewed", STATES),
    Mutation(COPIES, "1 - self.settings.decay", "self.settings.decay", "reference: share of the average", STATES),
    Mutation(STEP, "for name, weights in copies.weights.items()}", "for name, weights in list(copies.weights.items())[:0]}",
             "reference: the copies are not asked", RENEWED),
    Mutation(LOOP, "training.copies.before(training.policy.model, step)",
             "training.copies.before(training.policy.model, step + 1)", "reference: a step late",
             named(METHODS, "test_a_reference_that_is_renewed_every_step_is_never_left")),
    # schedules, the guard, the rate
    Mutation(RATES, "(step - 1) % length + 1", "step % length + 1", "cycle: a step early", SCHEDULES),
    Mutation(RATES, "if losses.cycle and length", "if length", "cycle: always", SCHEDULES),
    Mutation(RATES, "changed if changed.rl else replace(changed, kl=0.0)", "changed", "guard: leash without samples", SCHEDULES),
    Mutation(RATES, "self.pt or self.soft)", "self.pt or self.soft or True)", "weight: a step that trains nothing", SCHEDULES),
    Mutation(RATES, "found[name] or getattr(now, name) > 0", "getattr(now, name) > 0",
             "weight: needed if the last step weighs it", SCHEDULES),
    Mutation(GUARD, "value > self.above", "value >= self.above", "guard: at its bound", RULES),
    Mutation(GUARD, "value < self.below", "value <= self.below", "guard: at its floor", RULES),
    Mutation(GUARD, "weights.with_(rule.weights) if active else weights", "weights.with_(rule.weights)", "guard: always", RULES),
    Mutation(GUARD, "self.active[place] = rule.beyond(", "self.active[place] |= rule.beyond(", "guard: never lets go", RULES),
    Mutation(GUARD, "if rule.metric in metrics:\n                self.active[place] = rule.beyond(metrics[rule.metric])",
             "if True:\n                self.active[place] = rule.beyond(metrics.get(rule.metric, 1.0))",
             "guard: what was not measured counts", RULES),
    Mutation(LOOP, "return math.sqrt(values.get(", "return (values.get(", "rate: ESS without its root", RATE),
    Mutation(LOOP, 'unit = "token" if training', 'unit = "sequence" if training', "rate: a sequence's ESS for tokens", RATE),
    Mutation(LOOP, 'scope == "token" else "sequence"', 'scope == "token" else "token"', "rate: a token's ESS for sequences",
             RATE),
    Mutation(LOOP, "model, rate * scale, settings", "model, rate, settings", "rate: scaled in the log alone", MOVED),
]
# fmt: on
