"""A scorer's log-probabilities of a text on the tokens of a student that segments it otherwise (MATH §8).

The scorer reads the sample's *text* with its own tokenizer. Between two places where both end a token lies one **run**; its total
is exact, and the runs' totals sum to the scorer's total. The student's end token and the scorer's end of turn are one run of their
own: without it, length would be rewarded; a sample cut by length has neither. Inside a run the total lies evenly over the bytes.

Reads texts and ids, gives arrays; loads no model and no file. Refuses tokenizers whose byte offsets cannot be known. Linear in
tokens and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factory.alignment.ends import Ends, ends
from factory.alignment.pieces import Pieces
from factory.alignment.runs import Runs, runs, spread, totals

__all__ = ["Aligned", "Aligner", "Ends", "Pieces", "Reading", "Runs", "align", "ends", "runs", "spread", "totals"]


@dataclass(frozen=True)
class Reading:
    """Texts as a scorer reads them, beside the student's tokens. Axis n: the student's tokens; m: the scorer's; x: texts."""

    ids: list[list[int]]
    """The scorer's ids of each text, its end of turn included where the student ended."""
    student: Ends
    scorer: Ends
    runs: Runs


@dataclass(frozen=True)
class Aligned:
    """Scores of texts on the student's tokens."""

    logprob_n: np.ndarray
    """float64 nats, NaN where a token has none; `spread` says how a run divides."""
    total_x: np.ndarray
    """float64 nats, the scorer's own sum over the text; NaN where it read nothing of a sample that has tokens."""
    unaligned_x: np.ndarray
    """float64: share of the sample's tokens that are NaN."""


@dataclass(frozen=True)
class Aligner:
    """One pair of tokenizers (transformers' own objects, of the `tokenizers` library)."""

    student: Pieces
    scorer: Pieces
    tokenizer: Any
    """The scorer's."""
    end_ids: frozenset[int]
    """Ids that end a student's sample."""
    end_of_turn: int
    """The id with which the scorer ends what it says."""

    def read(self, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> Reading:
        """The scorer's ids of each text, and the runs. `ids`: the student's, of which the text was decoded; end token included.

        What looks like a special token in a text is text: `split_special_tokens`."""
        ended = [len(own) > 0 and own[-1] in self.end_ids for own in ids]
        encodings = self._encodings(texts)
        read = [[*e.ids, self.end_of_turn] if over else list(e.ids) for e, over in zip(encodings, ended, strict=True)]
        student = ends(self.student, texts, ids, ended)
        scorer = ends(self.scorer, texts, read, ended, lambda x: encodings[x].offsets)
        return Reading(
            read, student, scorer, runs(student, scorer, np.array([len(t.encode()) for t in texts], np.int64))
        )

    def _encodings(self, texts: Sequence[str]) -> Sequence[Any]:
        if not texts:
            return []
        asked: dict[str, Any] = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        return list(self.tokenizer(list(texts), **asked).encodings)


def align(reading: Reading, logprob_m: np.ndarray) -> Aligned:
    """Bring the scorer's log p of its own tokens, (m,) nats, onto the student's."""
    logprob_n = spread(reading.student, reading.scorer, reading.runs, logprob_m)
    count_x, read_x = reading.student.count_x, reading.scorer.count_x
    total_x = np.where((read_x == 0) & (count_x > 0), np.nan, totals(read_x, logprob_m))
    unaligned_x = totals(count_x, np.isnan(logprob_n)) / np.maximum(count_x, 1)
    return Aligned(logprob_n, total_x, unaligned_x)
