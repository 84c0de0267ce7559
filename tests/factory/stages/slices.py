"""The stages of the tests that run the whole path, and its newest slices."""

from __future__ import annotations

from data.lake import Lake
from data.manifest import Slice

PATH = "prompts,answers,samples,scores,rewards,selections"


def newest(lake: Lake, table: str, label: str | None = None) -> Slice:
    return lake.slices(table, label=label)[-1]
