"""Alignment over made-up texts of many scripts: every token in one run, runs in order, nothing lost, linear."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.keys import nfc
from factory.alignment import Aligner, Ends, Pieces, align, runs, spread

sys.path.append(str(Path(__file__).parent))

from families import FAMILIES, SPELLING, TEXTS, drawn, family

PARTS = [
    *("ð", "á", "ø", "æ", "ý", "Á", "abc", "sólin", "isn't", "0", "1.234,50", "–", "«", "…", "ﬁ", "½", "Ａ"),
    *(
        "a\u0301",
        "e\u0308\u0301",
        "o\u0302",
        "\u0301",
        "👩‍👩‍👧",
        "👍🏽",
        "💥",
        "\u200d",
        "你好",
        "Привет",
        "नमस्ते",
        "עברית",
    ),
    *(
        " ",
        "  ",
        "\n",
        "\t",
        "\r\n",
        "\u00a0",
        "\u3000",
        "<end>",
        "<0x41>",
        "▁",
        "##",
        "[UNK]",
        "\ufffd",
        "\x07",
        "\u00ad",
    ),
]
said = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)
names, spelling = st.sampled_from(sorted(FAMILIES)), st.sampled_from(SPELLING)


def aligner(student: str, scorer: str) -> Aligner:
    ours, theirs = family(student), family(scorer)
    return Aligner(Pieces.of(ours), Pieces.of(theirs), theirs, frozenset([ours.eos_token_id]), theirs.eos_token_id)


PAIRS = {(a, b): aligner(a, b) for a in FAMILIES for b in FAMILIES}


def numbers(count: int) -> np.ndarray:
    return -np.random.default_rng(count).random(count) * 9 - 0.01


@given(st.lists(said, max_size=4), names, names, st.booleans())
@settings(max_examples=150, deadline=None)
def test_runs_part_both_sides_and_rise_with_the_text(texts, student, scorer, ended):
    texts, ids = drawn(student, texts, ended)
    reading = PAIRS[student, scorer].read(texts, ids)
    for side, run, own in (
        (reading.student, reading.runs.run_n, ids),
        (reading.scorer, reading.runs.run_m, reading.ids),
    ):
        assert len(run) == len(side.end_n) == sum(map(len, own))
        assert (np.diff(run) >= 0).all() and (run < reading.runs.count).all()
        text_n = np.repeat(np.arange(len(texts)), side.count_x)
        size_n = np.array([len(t.encode()) for t in texts], np.int64)[text_n] + ended
        assert (side.end_n >= 0).all() and (side.end_n <= size_n).all()
        for a, b in pairwise(range(len(run))):
            assert text_n[a] != text_n[b] or side.end_n[a] <= side.end_n[b]
            assert text_n[a] == text_n[b] or run[a] < run[b]  # no run spans two samples


@given(st.lists(said, max_size=4), spelling, spelling, st.booleans())
@settings(max_examples=150, deadline=None)
def test_totals_are_kept_sample_by_sample(texts, student, scorer, ended):
    texts, ids = drawn(student, texts, ended)
    reading = PAIRS[student, scorer].read(texts, ids)
    logprob_m = numbers(len(reading.runs.run_m))
    aligned = align(reading, logprob_m)
    stops, reads = np.cumsum([0, *map(len, ids)]), np.cumsum([0, *map(len, reading.ids)])
    for x, text in enumerate(texts):
        own, its = aligned.logprob_n[stops[x] : stops[x + 1]], logprob_m[reads[x] : reads[x + 1]]
        assert aligned.total_x[x] == pytest.approx(its.sum(), abs=1e-9) or not len(its)
        if family(scorer).decode(reading.ids[x], skip_special_tokens=True) in (
            text,
            nfc(text),
        ):  # not so: a text "<0x41>"
            assert np.isfinite(own).all() and (own < 0).all()
            assert own.sum() == pytest.approx(its.sum(), abs=1e-9)


@given(st.lists(said, max_size=4), names, names, st.booleans())
@settings(max_examples=120, deadline=None)
def test_what_is_null_is_counted_and_the_rest_is_the_runs_own_sum(texts, student, scorer, ended):
    texts, ids = drawn(student, texts, ended)
    reading = PAIRS[student, scorer].read(texts, ids)
    logprob_m = numbers(len(reading.runs.run_m))
    aligned = align(reading, logprob_m)
    told = ~np.isnan(aligned.logprob_n)
    for run in range(reading.runs.count):
        inside = told & (reading.runs.run_n == run)
        if inside.any():
            assert aligned.logprob_n[inside].sum() == pytest.approx(logprob_m[reading.runs.run_m == run].sum())
    for own, x in zip(np.split(told, np.cumsum(reading.student.count_x))[:-1], range(len(texts)), strict=True):
        assert aligned.unaligned_x[x] == (pytest.approx(1 - own.mean()) if len(own) else 0)


@given(said, said, names, names)
@settings(max_examples=80, deadline=None)
def test_a_sample_is_aligned_the_same_alone_and_among_others(one, other, student, scorer):
    pair = PAIRS[student, scorer]
    texts, ids = drawn(student, [other, one, other])
    together, alone = pair.read(texts, ids), pair.read(texts[1:2], ids[1:2])
    first, last = len(together.ids[0]), len(together.ids[0]) + len(together.ids[1])
    logprob_m = numbers(sum(map(len, together.ids)))
    among = align(together, logprob_m).logprob_n[len(ids[0]) : len(ids[0]) + len(ids[1])]
    np.testing.assert_allclose(among, align(alone, logprob_m[first:last]).logprob_n, rtol=1e-12)


ends_of = st.lists(st.integers(1, 30), max_size=15, unique=True).map(sorted)


@given(ends_of, ends_of)
@settings(max_examples=120, deadline=None)
def test_runs_are_those_of_the_set_of_shared_places(ours, theirs):
    ours, theirs = sorted({*ours, 31}), sorted({*theirs, 31})
    student, scorer = (
        Ends(np.array(e), np.diff([0, *e]), np.ones(len(e), bool), np.array([len(e)])) for e in (ours, theirs)
    )
    cut = runs(student, scorer, np.array([31]))
    logprob_m = numbers(len(theirs))
    shared = sorted(set(ours) & set(theirs))
    plain = []
    for begin, end in pairwise([0, *shared]):
        total = sum(v for e, v in zip(theirs, logprob_m, strict=True) if begin < e <= end)
        inside = [(a, b) for a, b in pairwise([0, *ours]) if begin < b <= end]
        plain += [total * (b - a) / (end - begin) for a, b in inside]
    assert spread(student, scorer, cut, logprob_m).tolist() == pytest.approx(plain)


@pytest.mark.parametrize("student", FAMILIES)
@pytest.mark.parametrize("scorer", ["llama", "bert_lower"])
def test_the_work_grows_with_the_text_and_no_faster(student, scorer):
    """Lines and calls counted, not seconds: one long sample that is spelt, walked or placed, with broken bytes and spaces."""
    text = (" ".join(TEXTS[:5]) + " \ufffd\ufffd  \n") * 10

    def lines(times: int) -> int:
        texts, ids = drawn(student, [text * times])
        pair, count = PAIRS[student, scorer], 0

        def counted(frame, event, _):
            nonlocal count
            count += event == "line" and "alignment" in frame.f_code.co_filename
            return counted

        sys.settrace(counted)
        try:
            reading = pair.read(texts, ids)
        finally:
            sys.settrace(None)
        align(reading, numbers(len(reading.runs.run_m)))
        return count

    small, large = lines(1), lines(4)
    assert large <= 4.2 * small
