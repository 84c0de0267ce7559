"""F1 and exact match of short answers: by hand, and as an independent implementation of SQuAD's metric has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.benchmarks._squad import normal, scores

GOLDEN = [  # prediction, right answers, F1, exact match
    ("tórshavn", ["tórshavn"], 1.0, 1.0),
    ("Tórshavn.", ["tórshavn"], 1.0, 1.0),
    ("í tórshavn", ["tórshavn"], 2 / 3, 0.0),
    ("í tórshavn í føroyum", ["í føroyum"], 2 * 2 / (4 + 2), 0.0),  # of í, í only one is shared
    ("ein bátur", ["ein gamal bátur", "bátur"], 4 / 5, 0.0),  # the best of several
    ("the answer", ["answer"], 1.0, 1.0),  # English articles go
    ("a heygum", ["heygum"], 1.0, 1.0),
    ("á heygum", ["heygum"], 2 / 3, 0.0),  # á is a word
    ("1.234,5", ["12345"], 1.0, 1.0),  # punctuation goes, digits run together
    ("«tórshavn»", ["tórshavn"], 0.0, 0.0),  # ASCII punctuation only
    ("2007", ["2008"], 0.0, 0.0),
    ("", ["tórshavn"], 0.0, 0.0),
    ("the", ["tórshavn"], 0.0, 0.0),
    ("", [""], 1.0, 1.0),  # no answer is right where there is none
    ("okkurt", [], 0.0, 0.0),
    ("tórshavn", ["the", "tórshavn"], 1.0, 1.0),  # a blank answer beside another one is none
    ("", ["the", "tórshavn"], 0.0, 0.0),
]


@pytest.mark.parametrize(("said", "right", "f1", "em"), GOLDEN)
def test_recorded_cases(said, right, f1, em):
    assert scores(said, right) == (pytest.approx(f1), em)


def independent(said, right):
    from torchmetrics.functional.text import squad

    found = squad(
        [{"prediction_text": said, "id": "1"}],
        [{"answers": {"answer_start": [0] * len(right), "text": right}, "id": "1"}],
    )
    return found["f1"].item() / 100, found["exact_match"].item() / 100


@pytest.mark.parametrize(
    ("said", "right"), [(said, right) for said, right, *_ in GOLDEN if all(map(normal, right)) and right]
)
def test_recorded_cases_are_torchmetrics(said, right):
    assert scores(said, right) == pytest.approx(independent(said, right), abs=1e-6)


TEXT = st.lists(
    st.sampled_from(["the", "a", "á", "Tórshavn", "bátur,", "í", "1.234", "ein-bátur", "'ja'", " "]), max_size=6
).map(" ".join)


@given(TEXT, st.lists(TEXT.filter(normal), min_size=1, max_size=3))
def test_any_texts_are_torchmetrics(said, right):
    assert scores(said, right) == pytest.approx(independent(said, right), abs=1e-6)
