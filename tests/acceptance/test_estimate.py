"""The estimate of the demo beside what the demo cost: what was read and written, by whom, and what lies on the disk.

Compared are tokens and bytes. Hours are not: the estimate's are of a GPU at `engine.flops`, those of `costs` of this machine. What
endpoints are asked, and what they bill, stands beside its estimate in tests/factory/engines/test_api_estimate.py."""

from __future__ import annotations

import re
from typing import Any

import pytest

SHORT = ("trainer.steps=40", "trainer.probe.every=20")  # as long as the fixture trains
UNITS = {"B": 1.0, "kB": 1e3, "MB": 1e6}
DISK = {
    "answers": ("answers", "answer_tokens"),
    "samples": ("samples", "groups"),
    "scores": ("scores",),
}  # stage → its tables


def estimated(table: str) -> dict[str, tuple[int, int, float]]:
    """Work → tokens in, tokens out, bytes on disk."""
    form = r"^(\S.{20})\s(\S+)\s+([\d,]+)\s+([\d,]+)\s+([\d,]+)\s+(?:< )?[\d.,]+\s+([\d.]+) (\w+)$"
    found = re.findall(form, table, re.MULTILINE)
    number = lambda text: int(text.replace(",", ""))  # noqa: E731
    return {
        work.strip(): (number(read), number(told), float(size) * UNITS[unit])
        for work, _, _, read, told, size, unit in found
    }


@pytest.fixture(scope="module")
def lines(demo: Any) -> dict[str, tuple[int, int, float]]:
    return estimated(demo.factory("recipe=demo", "estimate=true", *SHORT))


def test_tokens_are_within_twice_what_was_booked(
    demo: Any, lines: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    query = "SELECT stage, model, tokens_in, tokens_out FROM costs WHERE recipe = 'demo' AND model IS NOT NULL"
    booked = {(row["stage"], row["model"]): row for row in demo.sql(query)}
    stages = {
        "answers": ("answers", "run:demo-teacher"),
        "samples": ("samples", "run:demo-student"),
        "scores (teacher)": ("scores", "run:demo-teacher"),
        "scores (policy)": ("scores", "run:demo-student"),
    }
    assert set(lines) == {*stages, "training, 40 steps", "probes"}
    ratios = {}
    for work, stage in stages.items():
        read, told, _ = lines[work]
        assert read == booked[stage]["tokens_in"]  # prompts are counted, not estimated
        ratios[work] = told / booked[stage]["tokens_out"]
    ratios["training"] = lines["training, 40 steps"][0] / booked["training", "run:demo-student"]["tokens_in"]
    with capsys.disabled():
        print("\nestimated over booked tokens:", {work: round(ratio, 2) for work, ratio in ratios.items()})
    assert all(1 <= ratio <= 2 for ratio in ratios.values()), ratios  # "at most", and not much more


def test_bytes_are_within_twice_what_lies_there(
    demo: Any, lines: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    ratios = {}
    for work, tables in DISK.items():
        told = sum(size for name, (_, _, size) in lines.items() if name.split(" ")[0] == work)
        files = [file for table in tables for file in (demo.lake / table).glob("demo-*/*.parquet")]
        ratios[work] = told / sum(file.stat().st_size for file in files)
    with capsys.disabled():
        print("\nestimated over real bytes:", {work: round(ratio, 2) for work, ratio in ratios.items()})
    assert all(0.5 <= ratio <= 2 for ratio in ratios.values()), ratios
