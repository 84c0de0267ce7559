"""One more valid row in the statistics of some groups: the teacher's answer where no sample was good enough.

LUFFY, arXiv 2504.14945. Pure functions of numpy arrays. The row is there for r̄, σ and ranks alone: it is taken out of the result,
since its own gradient is behaviour cloning's. Refuses nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Widened:
    """Rows of groups with one row put behind some of them."""

    starts: np.ndarray
    """(groups,) first rows among all."""
    own: np.ndarray
    """Bool among all: rows that were there before."""
    at: np.ndarray
    """Places in the old rows before which one was put."""

    def fill(self, values: np.ndarray, joined: np.ndarray | bool) -> np.ndarray:
        """The rows' values with what joined between them."""
        return np.insert(values, self.at, joined)


def widened(starts: np.ndarray, rows: int, joined: np.ndarray) -> Widened:
    """One row more at the end of each group whose `joined` (groups,) is a number."""
    here = ~np.isnan(joined)
    at = np.append(starts[1:], rows)[here]
    before = np.cumsum(here) - here
    return Widened(starts + before, np.insert(np.ones(rows, bool), at, False), at)


def only_where_none_passes(answers: np.ndarray, passed: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(groups,) the answer's reward of groups in which no sample passes, NaN elsewhere. passed: (rows,) bool."""
    any_passes = np.logical_or.reduceat(passed, starts) if len(starts) else np.zeros(0, bool)
    return np.where(any_passes, np.nan, answers)
