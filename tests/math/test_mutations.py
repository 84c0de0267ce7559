from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from trainer.losses import AGGREGATIONS
from trainer.objectives import OBJECTIVES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MUTATIONS = runpy.run_path(str(HERE / "mutations.py"))["MUTATIONS"]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[f"{m.file}: {m.breaks}" for m in MUTATIONS])
def test_a_mistake_of_the_table_still_has_its_place_and_its_tests(mutation):
    assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1
    assert mutation.new != mutation.old
    assert mutation.tests and all((ROOT / test.split("::")[0]).is_file() for test in mutation.tests)


def test_every_objective_and_every_aggregation_is_broken_somewhere():
    broken = {m.breaks.split(":")[0] for m in MUTATIONS}
    assert set(OBJECTIVES) | set(AGGREGATIONS) <= broken
