"""A lake of three policies that answered the same prompts, and the commands on it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data import Lake, Slice
from data.__main__ import main

sys.path.append(str(Path(__file__).parent))

from judged import ALPHA, BETA, GAMMA, ITEMS, answer, evaluated, messages

Publish = Callable[..., Slice]


@pytest.fixture
def judged_lake(tmp_path: Path, publish: Publish) -> Lake:
    """Three policies on the benchmark `talk`; alpha twice, so that there is an older slice."""
    lake = Lake.open(tmp_path / "lake")
    rows = {
        "prompt_id": [int(i, 16) for i in ITEMS],
        "messages": [messages(i) for i in range(24)],
        "split": ["held_out"] * 24,
    }
    publish(lake, "prompts", [rows], label="prompts")
    publish(lake, "evaluations", [evaluated(ALPHA, "talk", ["gamalt"] * 24)], label="r", content="old")
    for policy in (ALPHA, BETA, GAMMA):
        texts = [answer(policy, i) for i in range(24)]
        publish(lake, "evaluations", [evaluated(policy, "talk", texts)], label="r", content=policy)
    publish(lake, "evaluations", [evaluated(ALPHA, "fit", [None, None])], label="r", content="fit")
    return lake


@pytest.fixture
def ran(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`ran(*words)`: what `python -m data` prints, or with `refused=True` its refusal of at most two lines."""

    def run(*words: object, refused: bool = False) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, err = capfd.readouterr()
        assert (ended.value.code or 0) == (2 if refused else 0), err
        assert not refused or (len(err.strip().splitlines()) == 2 and "Traceback" not in err), err
        return err if refused else out

    return run
