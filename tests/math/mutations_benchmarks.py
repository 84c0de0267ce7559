"""Mistakes in what benchmarks measure: whole-set measures, metrics of one answer, EuroEval's protocol, number words (DESIGN §7)."""

from __future__ import annotations

from mutation import Mutation, named

MEASURES, METRICS, SQUAD = "data/measures.py", "factory/benchmarks/_metrics.py", "factory/benchmarks/_squad.py"
FOQA, READING, KIND = "factory/benchmarks/_foqa.py", "factory/benchmarks/_foqa_tokens.py", "factory/benchmarks/foqa.py"
ITEMS, ROWS, BOARD = "factory/benchmarks/items.py", "factory/benchmarks/_rows.py", "factory/benchmarks/euroeval.py"
WORDS = "factory/rewards/_number_words.py"
OWN, SETS = "tests/factory/benchmarks/test_items.py", named("tests/data/test_measures.py")
SHORT, PROTOCOL = named("tests/factory/benchmarks/test_squad.py"), "tests/factory/benchmarks/test_foqa.py"
CHOICE = named(
    PROTOCOL,
    "test_rows_and_examples_of_every_iteration_are_those_of_the_library",
    "test_contexts_are_short_as_long_as_four_are_and_longer_ones_then",
)
SHOWN = named(
    PROTOCOL,
    "test_a_base_model_is_shown_prefix_examples_and_question",
    "test_a_chat_model_is_asked_in_turns",
)
ENDS = named(
    PROTOCOL,
    "test_an_answer_ends_at_a_blank_line_or_what_closes_a_text",
    "test_the_last_space_goes_where_it_is_no_token_of_its_own",
    "test_long_prompts_lose_their_beginning_or_their_examples",
    "test_all_conversations_lose_the_same_number_of_examples",
)
ASKED = named(PROTOCOL, "test_answers_are_plain_greedy_ones_and_the_figure_is_the_mean_of_iterations")
FIGURE = named(PROTOCOL, "test_the_figure_is_the_mean_of_iterations_of_different_size")
COUNTED = named("tests/factory/rewards/test_number_words.py")
READ = named("tests/factory/benchmarks/test_euroeval.py")
STS, TRIVIA = (
    named(OWN, "test_similar_sentences_by_ranks"),
    named(OWN, "test_trivia_keeps_every_letter_and_every_article"),
)
TOLD = named(OWN, "test_word_problems_by_the_number_answered", "test_a_number_in_words_is_the_number_in_digits")
NAMED = named(
    OWN,
    "test_entities_together_with_and_without_misc",
    "test_an_entity_named_twice_counts_once_where_it_stands_once",
)
TRANSLATED = named(
    OWN,
    "test_translations_item_by_item_and_together_are_sacrebleus",
    "test_bleu_of_several_references_is_sacrebleus",
)
LABELLED = named(OWN, "test_logic_by_the_four_cells", "test_labels_are_equal_then_begun_then_nearest")
TURNS = named(
    OWN,
    "test_examples_are_turns_and_never_the_question_itself",
    "test_a_base_model_reads_one_text_and_ends_at_a_blank_line",
)

# fmt: off
MUTATIONS = [
    # whole sets
    Mutation(MEASURES, "(rankdata(values) for values in", "(values for values in", "Spearman: Pearson's r", SETS),
    Mutation(MEASURES, "ours - (len(ours) + 1) / 2", "ours - len(ours) / 2", "Spearman: mean rank", SETS),
    Mutation(MEASURES, "np.sqrt((ours @ ours) * (true @ true))", "((ours @ ours) * (true @ true))", "Spearman: no root", SETS),
    Mutation(MEASURES, "np.trace(table) * total - ours @ true", "np.trace(table) - ours @ true", "MCC: c", SETS),
    Mutation(MEASURES, "(total**2 - ours @ ours)", "(total - ours @ ours)", "MCC: s", SETS),
    Mutation(MEASURES, "(total**2 - true @ true))", "(total**2 - ours @ ours))", "MCC: the predicted classes twice", SETS),
    Mutation(MEASURES, "2 * np.diag(table) / (table.sum(axis=0)", "np.diag(table) / (table.sum(axis=0)", "macro F1: halved", SETS),
    Mutation(MEASURES, "places[: len(true)], places[len(true) :]", "places[len(true) :], places[len(true) :]",
             "confusion: predictions against themselves", SETS),
    Mutation(MEASURES, "2 * tp / (2 * tp + fp + fn)", "2 * tp / (tp + fp + fn)", "micro F1: denominator", SETS),
    Mutation(MEASURES, "if tp + fp + fn else math.nan", "if tp + fp + fn else 1.0", "micro F1: of nothing", SETS),
    Mutation(MEASURES, "float((matched / ours).mean()), float((matched / theirs).mean())",
             "float((matched / theirs).mean()), float((matched / ours).mean())", "corpus chrF: precision and recall", TRANSLATED),
    Mutation(MEASURES, "CHRF_ORDER, CHRF_BETA = 4, 6, 2", "CHRF_ORDER, CHRF_BETA = 4, 6, 1", "corpus chrF: F1", TRANSLATED),
    Mutation(MEASURES, 'smooth_method="exp"', 'smooth_method="none"', "corpus BLEU: smoothing", TRANSLATED),
    Mutation(MEASURES, "np.bincount(places, values) / np.bincount(places)",
             "np.bincount(places, values) / np.bincount(places).mean()", "iterations: each as large as the mean", SETS),
    Mutation(MEASURES, "means.std(ddof=1)", "means.std()", "iterations: standard error", SETS),
    Mutation(MEASURES, "1.96 * means.std(ddof=1) / math.sqrt(len(means))", "1.96 * means.std(ddof=1)",
             "iterations: deviation for error", SETS),
    # one answer
    Mutation(METRICS, 'in "PS" else c', 'in "PSL" else c', "words: letters go", TRIVIA),
    Mutation(METRICS, "nfc(nfc(text).casefold())", "nfc(text)", "words: capitals", TRIVIA),
    Mutation(METRICS, '"bleu_length": float(whole.sys_len), "bleu_reference_length": float(whole.ref_len)',
             '"bleu_length": float(whole.ref_len), "bleu_reference_length": float(whole.sys_len)', "BLEU: lengths", TRANSLATED),
    Mutation(METRICS, 'found[f"chrf_text_{n + 1}"] = float(ours[n]', 'found[f"chrf_text_{n + 1}"] = float(theirs[n]',
             "chrF: the text's n-grams", TRANSLATED),
    Mutation(METRICS, '"label_predicted": float(meant), "label_true": float(true)',
             '"label_predicted": float(true), "label_true": float(true)', "labels: the truth twice", LABELLED),
    Mutation(METRICS, "max(begun, key=lambda i: len(known[i]))", "begun[0]", "labels: the first that fits", LABELLED),
    Mutation(METRICS, "return min(range(len(known))", "return max(range(len(known))", "labels: the farthest", LABELLED),
    Mutation(METRICS, "return found[-1] if found", "return found[0] if found", "number: the first", TOLD),
    Mutation(METRICS, "numerals(as_digits(clause)) or", "", "number: no marker", TOLD),
    Mutation(METRICS, "numerals(as_digits(clause))", "numerals(clause)", "number: no words", TOLD),
    Mutation(METRICS, '"spearman_true": min(wanted, key=abs)', '"spearman_true": max(wanted, key=abs)', "similarity: readings",
             (f"{OWN}::test_similar_scores_are_read_as_they_are_smallest",)),
    Mutation(METRICS, "right = (ours & theirs)", "right = (ours | theirs)", "entities: union", NAMED),
    Mutation(METRICS, 'float(ours.total() - right)', 'float(theirs.total() - right)', "entities: missed for too many", NAMED),
    Mutation(METRICS, "if e[0] not in left_out", "if e[0] not in MISC", "entities: MISC left out of both", NAMED),
    Mutation(SQUAD, "2 * shared / (len(ours) + len(theirs))", "shared / (len(ours) + len(theirs))", "F1: halved", SHORT),
    Mutation(SQUAD, "(Counter(ours) & Counter(theirs)).total()", "len(set(ours) & set(theirs))", "F1: distinct words", SHORT),
    Mutation(SQUAD, "float(not ours and not theirs)", "0.0", "F1: nothing said where nothing is right", SHORT),
    Mutation(SQUAD, "(?:a|an|the)", "(?:a|an|the|á)", "SQuAD: Faroese articles", SHORT),
    Mutation(SQUAD, "max(token_f1(ours.split(), g.split()) for g in gold)", "token_f1(ours.split(), gold[0].split())",
             "F1: the first answer", SHORT),
    Mutation(SQUAD, "if answer] or", "] or", "F1: blank answers count", SHORT),
    # EuroEval's protocol
    Mutation(FOQA, "SEED = 4242", "SEED = 4243", "FoQA: seed", CHOICE),
    Mutation(FOQA, "seed = SEED + iteration", "seed = SEED", "FoQA: the same examples always", CHOICE),
    Mutation(FOQA, 'used = np.random.default_rng(SEED), splits | {"test": splits[evaluated]}',
             'used = np.random.default_rng(SEED), splits', "FoQA: val is not asked", CHOICE),
    Mutation(FOQA, 'for name in ("train", "val", "test") if name in used', 'for name in ("test", "val", "train") if name in used',
             "FoQA: order of the splits", CHOICE),
    Mutation(FOQA, 'len(row["context"]) < limit', 'len(row["context"]) <= limit', "FoQA: short contexts", CHOICE),
    Mutation(FOQA, "if len(short) >= shots:", "if len(short) > shots:", "FoQA: enough short contexts", CHOICE),
    Mutation(FOQA, "for row in _shuffled(short, seed):", "for row in short:", "FoQA: shuffled once", CHOICE),
    Mutation(FOQA, ' and all(row["context"] != one["context"] for one in chosen)', "", "FoQA: a context twice", CHOICE),
    Mutation(FOQA, "    random.Random(seed).shuffle(chosen)\n", "", "FoQA: order of the examples", CHOICE),
    Mutation(FOQA, '.replace("\\n", " ").strip() for name', '.strip() for name', "FoQA: line ends in contexts", SHOWN),
    Mutation(FOQA, '["text"][0]).replace("\\n", " ")', '["text"][0])', "FoQA: line ends in answers", SHOWN),
    Mutation(READING, "*([] if chat else [BLANK_LINE])", "*()", "FoQA: a base model's blank line", ENDS),
    Mutation(READING, "decode(list(ids), skip_special_tokens=False)", "decode(list(ids), skip_special_tokens=True)",
             "FoQA: ends that are not seen", ENDS),
    Mutation(READING, "min(longest, max(positions // 2, 1))", "longest", "FoQA: room in a short context", ENDS),
    Mutation(READING, '.truncation_side, "left"', '.truncation_side, "right"', "FoQA: the question is cut", ENDS),
    Mutation(READING, "if strips(self.tokenizer) else list(shown)", "if not strips(self.tokenizer) else list(shown)",
             "FoQA: the last space", ENDS),
    Mutation(READING, "if all(len(one) < self.room for one in ids):\n                return ids",
             "if True:\n                return ids", "FoQA: too many examples", ENDS),
    Mutation(KIND, '{row["id"]: row for row in splits["test"]}.values()', 'splits["test"]', "FoQA: what is drawn twice", ASKED),
    Mutation(KIND, "scores(said.lower(), ", "scores(said[1:], ", "FoQA: the answer", FIGURE),
    Mutation(KIND, '"squad_f1": 100 * f1', '"squad_f1": f1', "FoQA: scale", FIGURE),
    # questions of one's own, and the board
    Mutation(ROWS, "if one.messages != question.messages]", "]", "examples: the question itself", TURNS),
    Mutation(ROWS, '"\\n\\n".join([*shown, question.text])', '"\\n".join([*shown, question.text])',
             "examples: no blank line", TURNS),
    Mutation(ITEMS, '.split("\\n\\n", 1)[0]', '.split("\\n", 1)[0]', "base answers: one line",
             named(OWN, "test_what_follows_a_blank_line_is_no_answer")),
    Mutation(BOARD, "100 if abs(100 * mean - total)", "1 if abs(100 * mean - total)", "EuroEval: scale", READ),
    Mutation(BOARD, '(ends["upper"] - ends["lower"]) / 2', 'ends["upper"] - ends["lower"]', "EuroEval: radius", READ),
    # number words
    Mutation(WORDS, '"hálvtrýss": 50', '"hálvtrýss": 60', "numbers: half of the third score", COUNTED),
    Mutation(WORDS, "(current if counted else 1) * 100", "(current or 1) + 100", "numbers: hundreds are added", COUNTED),
    Mutation(WORDS, "(current if counted else 1) * SCALES[word]", "current * SCALES[word]", "numbers: a thousand alone", COUNTED),
    Mutation(WORDS, "found[0] if found[0].casefold() in ONE else", "", "numbers: the article", COUNTED),
]
