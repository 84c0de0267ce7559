"""Runs: the stretches between two places where student and scorer both end a token, and a run's log-probability on its tokens.

Arrays in, arrays out (MATH §8). Every token of either side lies in exactly one run, runs follow the text, and a run's total is
exact; how it divides over the student's tokens inside is not known from the scorer, and is a choice (`spread`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from factory.alignment.ends import Ends


@dataclass(frozen=True)
class Runs:
    """The run of each token. Axis n: the student's tokens; m: the scorer's; r: runs."""

    run_n: np.ndarray
    """int64, never falling."""
    run_m: np.ndarray
    """int64, never falling."""
    count: int


def runs(student: Ends, scorer: Ends, bytes_x: np.ndarray) -> Runs:
    """Cut the texts where both sides end a token; a text's end is always a cut, so that an end token is a run of its own.

    bytes_x: int64, size of each text. Linear in tokens and bytes: places are marked on one line on which all texts stand."""
    stop_x = np.cumsum(bytes_x + 2)  # a place for a text's beginning, its bytes, and a place for its end token
    first_x = stop_x - bytes_x - 2
    place_n = np.repeat(first_x, student.count_x) + 1 + student.end_n
    place_m = np.repeat(first_x, scorer.count_x) + 1 + scorer.end_n
    ours, theirs = np.zeros((2, int(bytes_x.sum()) + 2 * len(bytes_x) + 1), bool)
    ours[place_n], theirs[place_m] = True, True
    cut = ours & theirs
    cut[first_x + 1] = False  # a token without bytes at the beginning belongs to the run behind it
    cut[first_x] = cut[first_x + 1 + bytes_x] = True
    before: np.ndarray = np.cumsum(cut) - cut
    return Runs(before[place_n], before[place_m], int(before[-1]) + 1)


def spread(student: Ends, scorer: Ends, cut: Runs, logprob_m: np.ndarray) -> np.ndarray:
    """log p (n,) float64 in nats on the student's tokens, NaN where there is none: a run's total, evenly over its bytes.

    Evenly because a run tells one number and nothing of its inside; a run of one token has its own score. NaN, never 0: special
    tokens inside a text, and runs that one side alone holds or that the scorer read as something else (`sound_n`)."""
    total_r = np.bincount(cut.run_m, logprob_m, cut.count)
    size_r = np.bincount(cut.run_n, student.size_n, cut.count)
    spoilt_r = np.bincount(cut.run_m, ~scorer.sound_n, cut.count) + np.bincount(
        cut.run_n, ~student.sound_n & (student.size_n > 0), cut.count
    )
    scored_r = (np.bincount(cut.run_m, minlength=cut.count) > 0) & (spoilt_r == 0)
    told_n = scored_r[cut.run_n] & (student.size_n > 0)
    share_n = student.size_n / np.maximum(size_r, 1)[cut.run_n]
    return np.where(told_n, total_r[cut.run_n] * share_n, np.nan)


def totals(count_x: np.ndarray, logprob_m: np.ndarray) -> np.ndarray:
    """The scorer's own sum over each text, (x,) float64 nats."""
    return np.bincount(np.repeat(np.arange(len(count_x)), count_x), logprob_m, len(count_x))
