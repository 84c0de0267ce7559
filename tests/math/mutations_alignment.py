"""Mistakes in alignment across tokenizers (MATH §8): ends, runs, what is spread over a run's tokens, what is null."""

from __future__ import annotations

from mutation import Mutation, named

PIECES, ENDS, RUNS = (f"factory/alignment/{name}.py" for name in ("pieces", "ends", "runs"))
WHOLE, STAGE, TOKENS, STORAGE = (
    "factory/alignment/__init__.py",
    "factory/stages/scores_across.py",
    "factory/engines/tokens.py",
    "data/storage.py",
)
ALIGNED, ACROSS = "tests/factory/test_alignment.py", "tests/factory/stages/test_scores_across.py"
BY_HAND = named(ALIGNED, "test_a_runs_total_lies_evenly_over_its_bytes")
SPELT = named(ALIGNED, "test_the_bytes_of_a_token")
DECODED = named(ALIGNED, "test_ends_are_those_of_decoded_beginnings")
OFFSETS = named(ALIGNED, "test_a_scorers_ends_are_its_encoders_offsets")
ENDED = named(ALIGNED, "test_the_end_token_has_the_end_of_turns_score_and_a_cut_sample_has_none")
OWN_RUN = named(ALIGNED, "test_the_end_is_a_run_of_its_own_even_where_a_side_stops_before_the_texts_end")
NULL = named(ALIGNED, "test_what_one_side_does_not_say_is_null_and_the_rest_keeps_its_score")
FIRST = named(ALIGNED, "test_a_token_without_bytes_goes_with_the_text_behind_it_at_the_beginning")
MARKS = named(ALIGNED, "test_combining_marks_stay_with_their_letter_where_the_scorer_composes_them")
HALF = named(ALIGNED, "test_a_token_that_ends_inside_a_character_ends_no_run")
CHANGED = named(ALIGNED, "test_letters_that_a_scorer_changes_are_unaligned_and_its_total_is_kept")
BROKEN = named(ALIGNED, "test_text_behind_broken_bytes_is_aligned_again")
NOTHING = named(ALIGNED, "test_a_scorer_that_reads_nothing_of_a_sample_gives_null_and_an_empty_sample_is_certain")
INSIDE = named(ALIGNED, "test_a_special_token_inside_a_sample_has_no_score")
LITERAL = named(ALIGNED, "test_what_looks_like_a_special_token_is_text")
DRAWN = named(ACROSS, "test_a_drawn_pool_is_scored_and_rewarded_per_scorer_token_and_per_byte")
TURN = named(ACROSS, "test_the_end_of_turn_is_what_the_template_puts_behind_an_answer")
ON_DISK = named("tests/data/test_storage.py", "test_a_token_that_a_scorer_has_no_number_for_stays_null_on_disk")

# fmt: off
MUTATIONS = [
    Mutation(PIECES, "return bytes([int(byte[1], 16)])", "return token.encode()", "pieces: byte fallback is text", SPELT),
    Mutation(PIECES, "return token[len(prefix) :].encode()", "return token.encode()", "pieces: ## is text", SPELT),
    Mutation(PIECES, "return bytes(LETTERS[letter] for letter in token)", "return token.encode()", "pieces: letters",
             SPELT),
    Mutation(ENDS, "np.maximum(end_n[here] - 1, 0)", "end_n[here]", "ends: a space put before the text", DECODED),
    Mutation(ENDS, "= len(encoded) + 1, 1", "= len(encoded), 1", "ends: the end token within the text", ENDED),
    Mutation(ENDS, "            stops[n] += 1", "            break", "ends: a mark goes with the text behind it", MARKS),
    Mutation(ENDS, "stops[n] = stops[n + 1]", "stops[n] = stops[n]", "ends: half a character is a place", HALF),
    Mutation(ENDS, "sound += [said == own or", "sound += [True or", "ends: changed letters pass", CHANGED),
    Mutation(ENDS, "said == own or said == nfc(own)", "said == own", "ends: NFD is another text", MARKS),
    Mutation(ENDS, " + (code > 0x7FF)", "", "ends: bytes of three", OFFSETS),
    Mutation(ENDS, "(code > 0x7F).astype", "(code > 0xFF).astype", "ends: bytes of two", OFFSETS),
    Mutation(ENDS, "[at[0]] * lost", "[place] * lost", "ends: broken bytes are the next token's", BROKEN),
    Mutation(RUNS, "cut = ours & theirs", "cut = ours | theirs", "runs: where one side ends", BY_HAND),
    Mutation(RUNS, "np.cumsum(cut) - cut", "np.cumsum(cut)", "runs: a token that ends a run opens the next", BY_HAND),
    Mutation(RUNS, "cut[first_x + 1] = False", "cut[first_x + 1] = True", "runs: a run without bytes", FIRST),
    Mutation(RUNS, "cut[first_x] = cut[first_x + 1 + bytes_x] = True", "cut[first_x] = True", "runs: the end shares a run",
             OWN_RUN),
    Mutation(RUNS, "total_r[cut.run_n] * share_n", "total_r[cut.run_n]", "spread: the run's total on each token", BY_HAND),
    Mutation(RUNS, "share_n = student.size_n /", "share_n = 1 /", "spread: not by bytes", BY_HAND),
    Mutation(RUNS, "& (spoilt_r == 0)", "", "spread: what was not read has a score", NULL),
    Mutation(RUNS, "* share_n, np.nan)", "* share_n, 0.0)", "spread: null is zero", NULL),
    Mutation(RUNS, "scored_r[cut.run_n] & (student.size_n > 0)", "scored_r[cut.run_n]", "spread: a special token inside", INSIDE),
    Mutation(WHOLE, "[*e.ids, self.end_of_turn] if over else list(e.ids)", "list(e.ids)", "alignment: no end of turn", ENDED),
    Mutation(WHOLE, "[*e.ids, self.end_of_turn] if over else list(e.ids)", "[*e.ids, self.end_of_turn]",
             "alignment: a cut sample ends", ENDED),
    Mutation(WHOLE, '"split_special_tokens": True', '"split_special_tokens": False', "alignment: text ends the turn", LITERAL),
    Mutation(WHOLE, "(count_x > 0), np.nan, totals(", "(count_x > 0), 0.0, totals(", "total: nothing read is certain", NOTHING),
    Mutation(WHOLE, "np.isnan(logprob_n)) / np.maximum(count_x, 1)", "np.isnan(logprob_n)) / 1.0", "unaligned: a count", INSIDE),
    Mutation(STAGE, '"n_scorer_tokens": reading.scorer.count_x', '"n_scorer_tokens": reading.student.count_x',
             "scores: the student's own count", DRAWN),
    Mutation(TOKENS, "for i in [*behind, *self.end]", "for i in self.end", "end of turn: the first end token", TURN),
    Mutation(STORAGE, "mask=gaps)", "mask=None)", "storage: null is zero", ON_DISK),
]
# fmt: on
