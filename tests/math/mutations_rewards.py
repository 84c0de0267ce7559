"""Mistakes in the factory's numbers: reward components, scores, evaluations (MATH §3, §8, §9)."""

from __future__ import annotations

from mutation import Mutation, named

FOLDER, TESTS = "factory/rewards/", "tests/factory/rewards/"
SIMILARITY, AGREEMENT, CONTAINS = f"{FOLDER}similarity.py", f"{FOLDER}agreement.py", f"{FOLDER}contains.py"
VERIFIER, NUMERALS, LOGLIK = f"{FOLDER}verifier.py", f"{FOLDER}_numerals.py", f"{FOLDER}teacher_loglik.py"
LANGUAGE, ALPHABET, REPETITION = f"{FOLDER}language.py", f"{FOLDER}alphabet.py", f"{FOLDER}repetition.py"
LENGTH, FORMAT, TEXT = f"{FOLDER}length.py", f"{FOLDER}format.py", f"{FOLDER}text.py"
FLUENCY, SPELLING, FOREIGN = f"{FOLDER}fluency.py", f"{FOLDER}spelling.py", f"{FOLDER}foreign_words.py"
DICTIONARY = f"{FOLDER}_dictionary.py"
REWARD_MODEL, EXECUTION = f"{FOLDER}reward_model.py", f"{FOLDER}execution.py"
CHRF, PROSE = f"{FOLDER}_chrf.py", f"{FOLDER}prose.py"
EVALUATE, FITTED = "factory/benchmarks/prompts.py", "factory/benchmarks/likelihood.py"
SCORES, TOKENS = "factory/stages/scores.py", "factory/engines/tokens.py"
POOL = "data/pool.py"
REASONING, SPANS, KEPT_OUT = "data/reasoning.py", "factory/stages/answer_spans.py", "factory/contamination.py"
GROUPED = "trainer/pool_groups.py"
THOUGHT, FORBIDDEN = named("tests/factory/stages/test_reasoning.py"), named("tests/factory/test_contamination.py")
BY_HAND = named("tests/trainer/test_pool_reading.py", "test_token_advantages_by_hand")
SIMILAR, AGREED, HELD = (
    named(f"{TESTS}test_similarity.py"),
    named(f"{TESTS}test_agreement.py"),
    named(f"{TESTS}test_contains.py"),
)
VERIFIED, READ, WORDS = (
    named(f"{TESTS}test_verifier.py"),
    named(f"{TESTS}test_numerals.py"),
    named(f"{TESTS}test_text.py"),
)
OTHERS, LETTERS = named(f"{TESTS}test_others.py"), named(f"{TESTS}test_alphabet.py")
PROSAIC = named(f"{TESTS}test_prose.py")
FLUENT = named(f"{TESTS}test_fluency.py")
SPELT = named(
    f"{TESTS}test_spelling.py",
    "test_the_share_of_known_words_by_hand",
    "test_names_within_a_sentence_are_left_out_if_unknown",
    "test_unknown_words_are_told",
    "test_foreign_words_are_known_there_and_not_here",
)
JUDGED, RAN = (
    named(
        f"{TESTS}test_reward_model.py",
        "test_scores_are_averaged",
        "test_averaged_weights_are_the_model_averaged_by_hand",
    ),
    named(f"{TESTS}test_execution.py", "test_the_share_of_tests_that_pass"),
)
SPOKEN = named(
    f"{TESTS}test_language.py",
    "test_share_of_known_words",
    "test_min_words_is_a_floor_for_saying_anything",
    "test_a_word_said_again_is_no_further_word",
    "test_langid_tells_faroese_on_several_lines",
    "test_the_prompts_own_language_can_be_the_target",
    "test_a_probability_above_one_is_one",
)
MEASURED = "tests/factory/stages/test_corpus_evaluate.py"
FIT = named(MEASURED, "test_bits_and_bytes_are_those_of_a_plain_forward_pass")
PIECES = named(MEASURED, "test_windows_predict_every_token_but_the_first_once")
LEFT_OUT = named(MEASURED, "test_a_missing_metric_value_is_left_out_not_zero")
STAGES = "tests/factory/stages/test_values.py"
TEACHER = named(STAGES, "test_teacher_scores_are_those_of_a_plain_forward_pass")
WARM = named(STAGES, "test_the_policy_rescored_is_the_behaviour_it_was_drawn_from")
ASKED = named(STAGES, "test_teacher_messages_change_scores_not_samples")

# fmt: off
MUTATIONS = [
    # similarity
    Mutation(SIMILARITY, '_sacrebleu().sentence_score(text, [target]).score / 100',
             '_sacrebleu().sentence_score(text, [target]).score', "BLEU: per cent", SIMILAR),
    Mutation(SIMILARITY, '_sacrebleu().sentence_score(text, [target])', '_sacrebleu().sentence_score(target, [text])',
             "BLEU: reference and text swapped", SIMILAR),
    Mutation(SIMILARITY, "BLEU(effective_order=True)", "BLEU()", "BLEU: orders that a short text lacks", SIMILAR),
    Mutation(SIMILARITY, "_chrf.score(text, target)", "_chrf.score(target, text)", "chrF: reference and text swapped", SIMILAR),
    Mutation(CHRF, "BETA = 2 ", "BETA = 1 ", "chrF: F1", SIMILAR),
    Mutation(CHRF, "ORDER = 6 ", "ORDER = 5 ", "chrF: one order short", SIMILAR),
    Mutation(CHRF, '"".join(text.split())', "text", "chrF: spaces count", SIMILAR),
    Mutation(CHRF, "min(ours[gram], theirs[gram])", "ours[gram]", "chrF: matches are not clipped", SIMILAR),
    Mutation(CHRF, "in sides if ours and theirs]", "in sides if ours]", "chrF: orders that a short text lacks", SIMILAR),
    Mutation(CHRF, "precision / len(pairs), recall / len(pairs)", "precision / ORDER, recall / ORDER",
             "chrF: over all orders", SIMILAR),
    Mutation(SIMILARITY, "2 * LCSseq.similarity(ours, theirs) /", "LCSseq.similarity(ours, theirs) /",
             "ROUGE-L: numerator", SIMILAR),
    Mutation(SIMILARITY, "/ (len(ours) + len(theirs)) if", "/ (2 * len(ours)) if", "ROUGE-L: precision alone", SIMILAR),
    Mutation(SIMILARITY, "/ (len(ours) + len(theirs)) if", "/ (2 * len(theirs)) if", "ROUGE-L: recall alone", SIMILAR),
    Mutation(SIMILARITY, "Levenshtein.normalized_similarity", "Levenshtein.normalized_distance", "edit: distance", SIMILAR),
    Mutation(SIMILARITY, "return float(text == target)", "return float(text in target)", "exact: part of it", SIMILAR),
    Mutation(SIMILARITY, "return float(text == target)", "return float(text != target)", "exact: turned", SIMILAR),
    Mutation(SIMILARITY, "max(len(ours), len(theirs))", "min(len(ours), len(theirs))", "positional: of the shorter", SIMILAR),
    Mutation(SIMILARITY, "max(len(ours), len(theirs))", "max(len(theirs), 0)", "positional: of the reference", SIMILAR),
    Mutation(SIMILARITY, "sum(a == b for a, b in zip(ours, theirs, strict=False))", "sum(a in theirs for a in ours)",
             "positional: anywhere", SIMILAR),
    Mutation(SIMILARITY, 'if settings.over == "best" else sum(values) / len(values)', 'if settings.over == "best" else sum(values)',
             "similarity: sum of several", SIMILAR),
    Mutation(SIMILARITY, "max(values) if", "min(values) if", "similarity: worst of several", SIMILAR),
    # agreement
    Mutation(AGREEMENT, "len(ours) == len(theirs) and all(", "all(", "agreement: length", AGREED),
    Mutation(AGREEMENT, "all(a & b for a, b in zip(ours, theirs, strict=True))",
             "all(any(a & b for b in theirs) for a in ours)", "agreement: order", AGREED),
    Mutation(AGREEMENT, "all(a & b for a, b in zip(ours, theirs, strict=True))",
             "any(a & b for a, b in zip(ours, theirs, strict=True))", "agreement: one unit is enough", AGREED),
    Mutation(AGREEMENT, "agreeing / len(theirs), detail", "float(agreeing), detail", "agreement: share of several", AGREED),
    Mutation(AGREEMENT, "if not forms & self.stop]", "if forms & self.stop]", "agreement: stop words alone", AGREED),
    Mutation(AGREEMENT, "if forms & self.only]", "if not forms & self.only]", "agreement: content left out", AGREED),
    Mutation(AGREEMENT, "range(self.longest, 0, -1)", "range(1, 0, -1)", "agreement: no phrases", AGREED),
    Mutation(AGREEMENT, "return bool(units) and agree(", "return agree(", "agreement: two empty answers", AGREED),
    # contains
    Mutation(CONTAINS, "shares.append(sum(found) / len(found))", "shares.append(float(all(found)))",
             "contains: all or nothing", HELD),
    Mutation(CONTAINS, "max(shares) if", "min(shares) if", "contains: worst of several", HELD),
    Mutation(CONTAINS, "sum(shares) / len(shares)", "sum(shares)", "contains: sum of several", HELD),
    Mutation(CONTAINS, "if not given.has_name(name)]", "if True]", "contains: names of the prompt", HELD),
    Mutation(CONTAINS, "if not given.has_number(number)\n", "if True\n", "contains: numbers of the prompt", HELD),
    Mutation(CONTAINS, "any(number & other for other", "all(number & other for other", "contains: every number", HELD),
    Mutation(CONTAINS, "len(name) >= MIN_PREFIX and", "", "contains: beginnings of two letters", HELD),
    # verifier
    Mutation(VERIFIER, "abs(a - b) <= settings.tolerance", "abs(a - b) >= settings.tolerance",
             "verifier: tolerance turned", VERIFIED),
    Mutation(VERIFIER, "abs(a - b) <= settings.tolerance", "a - b <= settings.tolerance", "verifier: one side only", VERIFIED),
    Mutation(VERIFIER, "abs(a - b) <= settings.tolerance", "a == b", "verifier: no tolerance", VERIFIED),
    Mutation(VERIFIER, "for a in ours[-1] for b", "for a in ours[0] for b", "verifier: the first number", VERIFIED),
    Mutation(VERIFIER, "for b in theirs[-1])", "for b in theirs[0])", "verifier: the reference's first number", VERIFIED),
    Mutation(VERIFIER, "float(any(known))", "float(all(known))", "verifier: every reference", VERIFIED),
    Mutation(VERIFIER, "found[-1]).upper()", "found[0]).upper()", "verifier: the first choice", VERIFIED),
    Mutation(NUMERALS, "sign * value for value", "value for value", "numerals: sign", READ),
    Mutation(NUMERALS, 'body.replace(",", ".")', 'body.replace(",", "")', "numerals: decimal comma", READ),
    Mutation(NUMERALS, "found.add(float(body.replace(last, \"\")))", "found.add(float(body.replace(last, \"\")) + 1)",
             "numerals: thousands", READ),
    # log-likelihood of the scorer
    Mutation(LOGLIK, 'divisor = n_tokens if settings.form == "token"',
             'divisor = batch.n_tokens[sample] if settings.form == "token"',
             "loglik: over the student's tokens", OTHERS),
    Mutation(LOGLIK, "len(batch.texts[sample].encode())", "len(batch.texts[sample])", "loglik: over characters", OTHERS),
    Mutation(LOGLIK, "return Reward(total / divisor)", "return Reward(total)", "loglik: not divided", OTHERS),
    Mutation(LOGLIK, "return Reward(total / divisor)", "return Reward(-total / divisor)", "loglik: sign", OTHERS),
    Mutation(LOGLIK, "max(total, settings.floor * n_tokens)", "min(total, settings.floor * n_tokens)",
             "loglik: floor turned", OTHERS),
    Mutation(LOGLIK, "max(total, settings.floor * n_tokens)", "max(total, settings.floor)", "loglik: floor of the sum", OTHERS),
    Mutation(LOGLIK, "return sum(logprobs)", "return sum(logprobs) / len(logprobs)", "loglik: mean for sum", OTHERS),
    Mutation(LOGLIK, "or None in logprobs", "", "loglik: a missing token", OTHERS),
    # bits per byte, dictionaries, reward models, programs
    Mutation(FLUENCY, "math.log(2) * len(text.encode())", "len(text.encode())", "fluency: nats", FLUENT),
    Mutation(FLUENCY, "len(text.encode())", "len(text)", "fluency: over characters", FLUENT),
    Mutation(FLUENCY, "value = total / (", "value = -total / (", "fluency: sign", FLUENT),
    Mutation(FLUENCY, "max(value, settings.floor)", "min(value, settings.floor)", "fluency: floor turned", FLUENT),
    Mutation(SPELLING, "1 - len(unknown) / len(verdicts)", "len(unknown) / len(verdicts)", "spelling: turned", SPELT),
    Mutation(SPELLING, "1 - len(unknown) / len(verdicts)", "1 - len(set(unknown)) / len(verdicts)",
             "spelling: each word once", SPELT),
    Mutation(FOREIGN, "Reward(len(found) / len(verdicts),", "Reward(len(found) / (len(found) or 1),",
             "foreign words: not a share", SPELT),
    Mutation(DICTIONARY, "if ours or not name or names", "if not name or names", "spelling: known names skipped", SPELT),
    Mutation(DICTIONARY, "if ours or not name or names", "if ours or names", "spelling: unknown words skipped", SPELT),
    Mutation(FOREIGN, "if not ours and any(", "if any(", "foreign words: own ones too", SPELT),
    Mutation(REWARD_MODEL, "sum(known) / len(known)", "max(known)", "reward model: the best score", JUDGED),
    Mutation(REWARD_MODEL, "(tensor / len(paths))", "(tensor / 2)", "reward model: weights of two", JUDGED),
    Mutation(REWARD_MODEL, "total[name] += tensor.float()", "pass", "reward model: the first's weights", JUDGED),
    Mutation(EXECUTION, "passed / len(tests) if", "passed if", "execution: a count", RAN),
    Mutation(EXECUTION, "float(not failures)", "float(passed > 0)", "execution: one test is enough", RAN),
    # language, alphabet, repetition, length, format
    Mutation(LANGUAGE, "sum(word in known for word in found) / len(found)", "sum(word in known for word in found) / len(known)",
             "language: share of the list", SPOKEN),
    Mutation(LANGUAGE, "sum(word in known for word in found) / len(found)", "float(all(word in known for word in found))",
             "language: every word", SPOKEN),
    Mutation(LANGUAGE, "if not word[0].isdigit()]", "if True]", "language: numbers are words", SPOKEN),
    Mutation(LANGUAGE, "if len(set(found)) < least", "if len(set(found)) <= least", "language: least words", SPOKEN),
    Mutation(LANGUAGE, "if len(set(found)) < least", "if len(found) < least", "language: a word again is a word", SPOKEN),
    Mutation(PROSE, "word if word.islower() else", "word if word else", "prose: names and numbers count", PROSAIC),
    Mutation(PROSE, "different += held[word] == 1", "different += 1", "prose: repeated words count", PROSAIC),
    Mutation(PROSE, "different -= held[gone] == 0", "different -= 1", "prose: forgotten too early", PROSAIC),
    Mutation(PROSE, "(share - settings.low) /", "share /", "prose: no floor", PROSAIC),
    Mutation(LANGUAGE, "float(best == language) if", "float(best != language) if", "language: verdict turned", SPOKEN),
    Mutation(LANGUAGE, "float(probabilities[language])", "float(max(probabilities.values()))", "language: of the best", SPOKEN),
    Mutation(LANGUAGE, "Reward(min(1.0, scorer(", "Reward(max(0.0, scorer(", "language: above 1", SPOKEN),
    Mutation(ALPHABET, "for letter in letters) / len(letters)", "for letter in set(letters)) / len(letters)",
             "alphabet: each letter once", LETTERS),
    Mutation(ALPHABET, "letter in allowed for", "letter not in allowed for", "alphabet: turned", LETTERS),
    Mutation(REPETITION, "Reward(1 - len(set(grams)) / len(grams)", "Reward(len(set(grams)) / len(grams)",
             "repetition: turned", OTHERS),
    Mutation(REPETITION, "len(units) - settings.n + 1", "len(units) - settings.n", "repetition: one n-gram short", OTHERS),
    Mutation(LENGTH, "size - settings.high if", "settings.high - size if", "length: upper end turned", OTHERS),
    Mutation(LENGTH, "max(settings.low - size, over, 0)", "max(over, 0)", "length: no lower end", OTHERS),
    Mutation(LENGTH, "-min(1.0, outside / settings.margin)", "min(1.0, outside / settings.margin)", "length: sign", OTHERS),
    Mutation(LENGTH, "-min(1.0, outside / settings.margin)", "-(outside / settings.margin)", "length: below −1", OTHERS),
    Mutation(LENGTH, "if settings.margin else -1.0", "if settings.margin else 0.0", "length: no penalty without a margin", OTHERS),
    Mutation(FORMAT, "expression.fullmatch(text) if", "expression.match(text) if", "format: a beginning is enough",
             OTHERS),
    Mutation(FORMAT, "<= value.keys()", ">= value.keys()", "format: keys turned", OTHERS),
    Mutation(TEXT, "answer = matches[-1].group(group)", "answer = matches[0].group(group)", "answer: the first match", WORDS),
    Mutation(TEXT, "span = tagged[-1]", "span = tagged[0]", "answer: the first tag", WORDS),
    # evaluations
    Mutation(FITTED, '["bits"] -= sum(', '["bits"] += sum(', "bits: sign", FIT),
    Mutation(FITTED, "/ math.log(2)", "/ math.log(10)", "bits: log2", FIT),
    Mutation(FITTED, "/ math.log(2)", "* math.log(2)", "bits: from nats", FIT),
    Mutation(FITTED, "len(text.encode()) - context_bytes", "len(text) - context_bytes", "bytes: characters", FIT),
    Mutation(FITTED, "len(text.encode()) - context_bytes", "len(text.encode())", "bytes: the context's too", FIT),
    Mutation(FITTED, "ids[start : start + step + 1]", "ids[start : start + step]", "windows: a token of each lost", PIECES),
    Mutation(FITTED, "(context or max(len(ids), 2)) - 1", "(context or max(len(ids), 2))",
             "windows: longer than the context", PIECES),
    Mutation(EVALUATE, "            if reward.value is not None:\n                item[metric.name] = reward.value",
             "            item[metric.name] = reward.value or 0.0", "metric: missing is 0", LEFT_OUT),
    Mutation(TOKENS, "len(text[: offsets[0][1]].encode())", "len(text[: offsets[0][1]])", "bytes: of the first token",
             FIT),
    # scores
    Mutation(POOL, "return 1.0, shown_to_teacher(", "return 0.5, shown_to_teacher(", "scores: temperature of the teacher", TEACHER),
    Mutation(POOL, 'return recipe.sampling.temperature, "messages"', 'return 1.0, "messages"',
             "scores: temperature of the policy", WARM),
    Mutation(SCORES, '"total": sum(values)', '"total": sum(values) / len(values)', "scores: total", TEACHER),
    Mutation(SCORES, 'row["teacher_messages"] if shown', 'row["messages"] if shown', "scores: the teacher's messages", ASKED),
    # reasoning and contamination
    Mutation(REASONING, "if (opening in after) if opening else not closed", "if (opening in after) if opening else False",
             "answer: of a thought that never ended", THOUGHT),
    Mutation(REASONING, "before, closed, after = text.rpartition(closing)", "before, closed, after = text.partition(closing)",
             "answer: behind the first tag", named("tests/data/test_reasoning.py")),
    Mutation(SPANS, "own_x[x] = end_t > begin", "own_x[x] = end_t >= begin", "answer: a token of the thought too", THOUGHT),
    Mutation(SPANS, "total = None if None in inside else sum(inside)", "total = score.get('total')",
             "answer: the whole text's score", THOUGHT),
    Mutation(SPANS, "len(inside) if n_scorer is None else n_scorer", "len(inside)",
             "answer: the student's count of a teacher's tokens", THOUGHT),
    Mutation(GROUPED, "everything = everything[~np.isnan(everything)]", "everything = np.nan_to_num(everything)",
             "token reward: a thought's tokens count 0", BY_HAND),
    Mutation(KEPT_OUT, "length = min(GRAM, len(sequence))", "length = len(sequence)",
             "contamination: whole texts alone", FORBIDDEN),
    Mutation(KEPT_OUT, "nfc(text).casefold()", "nfc(text)", "contamination: case matters", FORBIDDEN),
]
# fmt: on
