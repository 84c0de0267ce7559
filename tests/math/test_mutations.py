"""The tables of mistakes: each row still has its place in the source and its tests, and no objective is left out."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from trainer.losses import AGGREGATIONS
from trainer.objectives import OBJECTIVES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.append(str(HERE))  # the tables stand beside the script that applies them

from mutations import MUTATIONS  # noqa: E402


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[f"{m.file}: {m.breaks}" for m in MUTATIONS])
def test_a_mistake_of_the_table_still_has_its_place_and_its_tests(mutation):
    assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1
    assert mutation.new != mutation.old
    assert mutation.tests
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert f"def {name.split('[')[0]}" in (ROOT / file).read_text(encoding="utf-8")


def test_no_mistake_stands_twice():
    assert max(Counter((m.file, m.old, m.new) for m in MUTATIONS).values()) == 1


def test_every_objective_and_every_aggregation_is_broken_somewhere():
    broken = {m.breaks.split(":")[0] for m in MUTATIONS}
    assert set(OBJECTIVES) | set(AGGREGATIONS) <= broken
