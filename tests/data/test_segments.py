"""Segment statistics against loops over lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import segments

GROUPS = st.lists(
    st.lists(st.one_of(st.none(), st.integers(-3, 3).map(float)), min_size=1, max_size=6), min_size=1, max_size=8
)


def _flat(groups: list[list[float | None]]) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([np.nan if v is None else v for g in groups for v in g])
    starts = np.cumsum([0, *(len(g) for g in groups)])[:-1]
    return values, starts


@given(GROUPS)
def test_spread_is_that_of_the_values_that_are_there(groups: list[list[float | None]]) -> None:
    found = segments.spread(*_flat(groups))
    for i, group in enumerate(groups):
        known = [v for v in group if v is not None]
        assert found.count[i] == len(known)
        assert found.mean[i] == pytest.approx(np.mean(known) if known else 0)
        assert found.std[i] == pytest.approx(np.std(known) if known else 0, abs=1e-12)
        assert (found.std[i] == 0) == (len(set(known)) < 2)


@given(GROUPS)
def test_order_counts_pairs(groups: list[list[float | None]]) -> None:
    less, equal = segments.ordered(*_flat(groups))
    expected = [
        (0, 0) if v is None else (sum(w is not None and w < v for w in g), sum(w == v for w in g))
        for g in groups
        for v in g
    ]
    assert [*zip(less, equal, strict=True)] == expected


@settings(deadline=None, max_examples=30)
@given(GROUPS, st.sampled_from(["zscore_group", "rank_group", "log_quantile_group", "mean_group"]))
def test_blocks_do_not_change_a_group_function(groups: list[list[float | None]], name: str) -> None:
    values, starts = _flat(groups)
    whole = segments.FUNCTIONS[name](values, starts)
    before = segments.BLOCK_ROWS
    segments.BLOCK_ROWS = 4
    try:
        np.testing.assert_array_equal(segments.apply(name, values, starts), whole)
    finally:
        segments.BLOCK_ROWS = before


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.integers(1, 9))
def test_blocks_cover_every_group_once(lengths: list[int], size: int) -> None:
    starts = np.cumsum([0, *lengths])[:-1]
    before, segments.BLOCK_ROWS = segments.BLOCK_ROWS, size
    try:
        found = list(segments.blocks(starts, sum(lengths)))
    finally:
        segments.BLOCK_ROWS = before
    assert [i for groups, _ in found for i in range(groups.start, groups.stop)] == list(range(len(lengths)))
    assert [i for _, rows in found for i in range(rows.start, rows.stop)] == list(range(sum(lengths)))


def test_the_whole_vector_is_one_group_however_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values, starts = np.array([0.0, 2.0, np.nan, 4.0]), np.array([0, 2])
    whole = [-2 / np.sqrt(8 / 3), 0, np.nan, 2 / np.sqrt(8 / 3)]
    monkeypatch.setattr(segments, "BLOCK_ROWS", 2)
    np.testing.assert_allclose(segments.apply("zscore_all", values, starts), whole)
    np.testing.assert_array_equal(
        segments.apply("zscore_all", np.array([3.0, np.nan, 3.0]), starts[:1]), [0, np.nan, 0]
    )


def test_no_rows_are_no_groups() -> None:
    empty = np.zeros(0)
    assert len(segments.apply("zscore_group", empty, np.zeros(0, np.int64))) == 0
    assert len(segments.apply("zscore_all", empty, np.zeros(0, np.int64))) == 0
