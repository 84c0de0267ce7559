"""Alignment by byte spans: values by hand, each tokenizer family, and what must be null (MATH §8)."""

from __future__ import annotations

import math
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from data.refusal import Refusal
from factory.alignment import Aligner, Ends, Pieces, align, ends, runs, spread

sys.path.append(str(Path(__file__).parent))

from families import END, FAMILIES, SPECIAL, SPELLING, TEXTS, drawn, family, two_hundred


def aligner(student: str, scorer: str) -> Aligner:
    ours, theirs = family(student), family(scorer)
    return Aligner(
        Pieces.of(ours), Pieces.of(theirs), theirs, frozenset([ours.eos_token_id]), theirs.convert_tokens_to_ids(END)
    )


def causal(ids: list[list[int]]) -> np.ndarray:
    """A log p of each id that depends on everything before it and on nothing behind, as a model's does."""
    values = []
    for own in ids:
        seen = 0
        for id_ in own:
            seen = zlib.crc32(f"{seen} {id_}".encode())
            values.append(-(seen % 10_000) / 1000 - 0.001)
    return np.array(values)


def made(end_n: list[int], size_n: list[int], sound_n: list[bool] | None = None) -> Ends:
    """One text's ends by hand."""
    sound = np.array(sound_n or [True] * len(end_n))
    return Ends(np.array(end_n, np.int64), np.array(size_n, np.int64), sound, np.array([len(end_n)]))


def spread_by_hand(student: Ends, scorer: Ends, size: int, logprob_m: list[float]) -> list[float]:
    return spread(student, scorer, runs(student, scorer, np.array([size])), np.array(logprob_m)).tolist()


def test_a_runs_total_lies_evenly_over_its_bytes():
    student = made([2, 3, 6, 7], [2, 1, 3, 1])  # há|v|i s|EOS
    scorer = made([1, 3, 6, 7], [1, 2, 3, 1])  # h|áv|i s|end
    values = spread_by_hand(student, scorer, 6, [-1.0, -2.0, -4.0, -0.5])
    assert values == pytest.approx([-2.0, -1.0, -4.0, -0.5])


def test_the_end_is_a_run_of_its_own_even_where_a_side_stops_before_the_texts_end():
    student, scorer = made([2, 3, 4], [2, 1, 1]), made([2, 4], [2, 1])  # the scorer drops the last byte
    values = spread_by_hand(student, scorer, 3, [-1.0, -0.25])
    assert values[0] == -1.0 and math.isnan(values[1]) and values[2] == -0.25


def test_a_token_without_bytes_goes_with_the_text_behind_it_at_the_beginning():
    scorer = made([0, 3, 4], [1, 3, 1])  # ▁|abc|end
    assert spread_by_hand(made([3, 4], [3, 1]), scorer, 3, [-1.0, -2.0, -0.5]) == [-3.0, -0.5]


def test_what_one_side_does_not_say_is_null_and_the_rest_keeps_its_score():
    student, scorer = made([2, 4, 5], [2, 2, 1]), made([2, 4, 5], [2, 2, 1], [True, False, True])
    first, second, end = spread_by_hand(student, scorer, 4, [-1.0, -9.0, -0.5])
    assert (first, end) == (-1.0, -0.5) and math.isnan(second)
    student = made([2, 2, 4, 5], [2, 0, 2, 1], [True, False, True, True])  # a special token inside
    values = spread_by_hand(student, made([2, 4, 5], [2, 2, 1]), 4, [-1.0, -9.0, -0.5])
    assert values[0] == -1.0 and math.isnan(values[1]) and values[2:] == [-9.0, -0.5]


@pytest.mark.parametrize(
    ("name", "token", "spelt"),
    [
        ("byte_level", "Ã¡", "á".encode()),
        ("byte_level", "Ġs", b" s"),
        ("llama", "▁s", b" s"),
        ("llama", "<0xC3>", b"\xc3"),
        ("gemma", "<0xF0>", b"\xf0"),
        ("t5", "▁s", b" s"),
        ("bert", "##r", b"r"),
        ("bert", "s", b" s"),
        ("bert", "[UNK]", b""),
        ("llama", END, b""),
    ],
)
def test_the_bytes_of_a_token(name, token, spelt):
    pieces, tokenizer = Pieces.of(family(name)), family(name)
    id_ = tokenizer.convert_tokens_to_ids(token)
    assert token in tokenizer.get_vocab() and pieces.bytes_v[id_] == spelt and pieces.size_v[id_] == len(spelt)


def test_an_id_beyond_the_vocabulary_spells_nothing():
    pieces = Pieces.of(family("llama"))
    found = ends(pieces, [" s"], [[family("llama").convert_tokens_to_ids("▁s"), 99_999]], [False])
    assert found.size_n.tolist()[1] == 0 and found.end_n.tolist()[-1] == 2


@pytest.mark.parametrize("name", FAMILIES)
def test_ends_are_those_of_decoded_beginnings(name):
    """The slow way round: decode every beginning, and count the bytes that it shares with the text."""
    tokenizer, pieces = family(name), Pieces.of(family(name))
    texts, ids = drawn(name, [*TEXTS[:5], "a", ""], ended=False)
    found = ends(pieces, texts, ids, [False] * len(ids))
    at = 0
    for text, own in zip(texts, ids, strict=True):
        for n in range(1, len(own) + 1):
            beginning = tokenizer.decode(own[:n], skip_special_tokens=True)
            if pieces.size_v[own[n - 1]] and text.startswith(beginning):  # else half a character, or an [UNK]
                assert found.end_n[at] == len(beginning.encode()), (text, n)
            at += 1
    assert at == len(found.end_n) and found.sound_n[found.size_n > 0].all()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_scorers_ends_are_its_encoders_offsets(name):
    """Spelt or placed, a scorer's ends hold the encoder's own spans wherever those are whole characters."""
    tokenizer = family(name)
    for text in TEXTS[:4]:
        [encoding] = tokenizer([text], add_special_tokens=False, split_special_tokens=True).encodings
        found = ends(Pieces.of(tokenizer), [text], [encoding.ids], [False], lambda x, e=encoding: e.offsets)
        spans = [
            (a, b)
            for (a, b), (c, _) in zip(encoding.offsets, [*encoding.offsets[1:], (10**6, 0)], strict=True)
            if b <= c
        ]
        assert {len(text[:b].encode()) for _, b in spans} <= set(found.end_n.tolist())
        assert (np.diff(found.end_n) >= 0).all()


@pytest.mark.parametrize("scorer", FAMILIES)
@pytest.mark.parametrize("student", FAMILIES)
def test_the_end_token_has_the_end_of_turns_score_and_a_cut_sample_has_none(student, scorer):
    pair = aligner(student, scorer)
    texts, ids = drawn(student, [*TEXTS, ""])
    reading = pair.read(texts, ids)
    logprob_m = causal(reading.ids)
    last_m, last_n = np.cumsum(reading.scorer.count_x) - 1, np.cumsum(reading.student.count_x) - 1
    assert [own[-1] for own in reading.ids] == [pair.end_of_turn] * len(texts)
    assert align(reading, logprob_m).logprob_n[last_n].tolist() == logprob_m[last_m].tolist()
    cut = pair.read(*drawn(student, TEXTS, ended=False))
    assert all(pair.end_of_turn not in own for own in cut.ids)


@pytest.mark.parametrize("kind", ["made up", "real"])
@pytest.mark.parametrize("scorer", FAMILIES)
@pytest.mark.parametrize("student", SPELLING)
def test_the_last_word_changes_only_the_runs_from_there_on(student, scorer, kind):
    pair, beginnings = aligner(student, scorer), [text.rpartition(" ")[0] for text in two_hundred(kind)]
    values = []
    for word in (" kavin", " sjey"):
        texts, ids = drawn(student, [text + word for text in beginnings])
        reading = pair.read(texts, ids)
        value_n = align(reading, causal(reading.ids)).logprob_n
        stops = np.cumsum(reading.student.count_x)[:-1]
        values.append(list(zip(np.split(reading.student.end_n, stops), np.split(value_n, stops), strict=True)))
    for text, (end_n, one_n), (other_n, another_n) in zip(beginnings, *values, strict=True):
        kept = int((end_n <= len(text.encode())).sum())
        assert 0 < kept == int((other_n <= len(text.encode())).sum())
        np.testing.assert_array_equal(one_n[:kept], another_n[:kept])
        assert not np.array_equal(one_n[kept:], another_n[kept:], equal_nan=True)


def test_the_same_tokenizer_gives_its_own_scores():
    for name in SPELLING:
        reading = aligner(name, name).read(*drawn(name, TEXTS[:4]))
        logprob_m = causal(reading.ids)
        if name != "qwen":
            assert align(reading, logprob_m).logprob_n == pytest.approx(logprob_m)
        assert align(reading, logprob_m).unaligned_x.max() == 0


def test_what_looks_like_a_special_token_is_text():
    pair = aligner("byte_level", "llama")
    tokenizer = family("byte_level")
    said = f"ja {END} nei"
    ids = [*tokenizer(said, add_special_tokens=False, split_special_tokens=True).input_ids, tokenizer.eos_token_id]
    reading = pair.read([said], [ids])
    assert reading.ids[0].count(pair.end_of_turn) == 1
    assert reading.student.end_n[-2] == len(said.encode())


def test_a_special_token_inside_a_sample_has_no_score():
    tokenizer = family("byte_level")
    ids = [*tokenizer("ja").input_ids, tokenizer.convert_tokens_to_ids(SPECIAL[3]), *tokenizer(" nei").input_ids]
    aligned = align(reading := aligner("byte_level", "llama").read(["ja nei"], [ids]), causal(reading.ids))
    inside = ids.index(tokenizer.convert_tokens_to_ids(SPECIAL[3]))
    assert np.flatnonzero(np.isnan(aligned.logprob_n)).tolist() == [inside]
    assert aligned.unaligned_x.tolist() == [1 / len(ids)]
    assert np.nansum(aligned.logprob_n) == pytest.approx(aligned.total_x[0])


@pytest.mark.parametrize("name", ["byte_level_short", "llama", "gemma"])
@pytest.mark.parametrize("text", ["ja 👩‍👩‍👧", "á 好", "a好"])
def test_a_character_cut_in_the_middle_is_unaligned_and_what_stands_before_it_is_not(name, text):
    tokenizer = family(name)
    ids = tokenizer(text, add_special_tokens=False).input_ids[:-1]
    said = tokenizer.decode(ids, skip_special_tokens=True)
    assert said.endswith("\ufffd")
    reading = aligner(name, "qwen").read([said], [ids])
    aligned = align(reading, causal(reading.ids))
    whole = max(n for n in range(len(ids)) if said.partition("\ufffd")[0].startswith(tokenizer.decode(ids[:n])))
    assert not np.isnan(aligned.logprob_n[:whole]).any() and np.isnan(aligned.logprob_n[whole:]).all()
    assert aligned.total_x[0] == pytest.approx(causal(reading.ids).sum())


def test_text_behind_broken_bytes_is_aligned_again():
    tokenizer = family("byte_level_short")
    broken = tokenizer.convert_tokens_to_ids(["ð", "Ł"])  # bytes F0 9F
    ids = [*tokenizer("á").input_ids, *broken, *tokenizer(" sólin skínur").input_ids]
    said = tokenizer.decode(ids)
    reading = aligner("byte_level_short", "llama").read([said], [ids])
    lost = np.isnan(align(reading, causal(reading.ids)).logprob_n)
    assert "\ufffd" in said and lost.sum() == 2 and lost[ids.index(broken[0])] and lost[ids.index(broken[1])]


def test_a_special_token_among_broken_bytes_moves_nothing():
    tokenizer = family("byte_level_short")
    ids = [
        *tokenizer("á").input_ids,
        tokenizer.convert_tokens_to_ids("ð"),
        tokenizer.convert_tokens_to_ids(SPECIAL[3]),
        *tokenizer(" sólin").input_ids,
    ]
    reading = aligner("byte_level_short", "llama").read([tokenizer.decode(ids, skip_special_tokens=True)], [ids])
    lost = np.isnan(align(reading, causal(reading.ids)).logprob_n)
    at = ids.index(tokenizer.convert_tokens_to_ids(SPECIAL[3]))
    assert np.flatnonzero(lost).tolist() == [at - 1, at]


def test_letters_that_a_scorer_changes_are_unaligned_and_its_total_is_kept():
    texts, ids = drawn("byte_level", ["Tann lítla bygdin sær"])
    reading = aligner("byte_level", "bert_lower").read(texts, ids)
    aligned = align(reading, causal(reading.ids))
    assert aligned.total_x[0] == pytest.approx(causal(reading.ids).sum())
    assert 0 < aligned.unaligned_x[0] < 1
    lossless = align(reading := aligner("byte_level", "bert").read(["lítla bygdin"], [ids[0][:0]]), causal(reading.ids))
    assert math.isfinite(lossless.total_x[0])


def test_a_scorer_that_reads_nothing_of_a_sample_gives_null_and_an_empty_sample_is_certain():
    pair, space = aligner("byte_level", "bert"), family("byte_level")(" ", add_special_tokens=False).input_ids
    aligned = align(reading := pair.read([" ", ""], [space, []]), causal(reading.ids))
    assert math.isnan(aligned.total_x[0]) and aligned.unaligned_x[0] == 1
    assert aligned.total_x[1] == 0 and aligned.unaligned_x[1] == 0
    aligned = align(reading := pair.read([], []), causal(reading.ids))
    assert len(aligned.logprob_n) == len(aligned.total_x) == 0


def test_combining_marks_stay_with_their_letter_where_the_scorer_composes_them():
    said = "ba\u0301turin e\u0301r"
    pair = aligner("byte_level_short", "qwen")
    reading = pair.read(*drawn("byte_level_short", [said]))
    inner = len(b"ba")  # between the letter and its mark
    cuts = {int(reading.student.end_n[i]) for i in range(len(reading.student.end_n))} & set(
        reading.scorer.end_n.tolist()
    )
    assert inner not in cuts and len("ba\u0301".encode()) in cuts
    assert align(reading, causal(reading.ids)).unaligned_x[0] == 0


def test_a_token_that_ends_inside_a_character_ends_no_run():
    """A scorer in lower case: half of á, then the other half with what follows; both spans begin before the á."""
    pieces = Pieces([b"\xc3", b"\xa1b", b"c", b""], np.array([1, 2, 1, 0]))
    found = ends(pieces, ["Ábc"], [[0, 1, 2]], [False], lambda _: [(0, 1), (0, 2), (2, 3)])
    assert found.end_n.tolist() == [3, 3, 4] and found.sound_n.tolist() == [False, False, True]


def test_a_tokenizer_without_byte_offsets_is_refused():
    class Slow:
        name_or_path = "slow"

    with pytest.raises(Refusal, match="slow: Slow tells no byte offsets"):
        Pieces.of(Slow())
