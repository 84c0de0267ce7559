"""μ counts where the objective weighs by it, and nowhere else: the same pool republished with μ shifted on every other token."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.lake import Key
from data.manifest import Slice
from trainer.loop import train

SHIFT = 0.3
ALONE = {
    "losses__bc": 0.0,
    "losses__pt": 0.0,
    "losses__kl": 0.0,
    "optimiser__name": "sgd",
    "optimiser__lr": 0.1,
    "steps": 2,
}


def shifted(made: Any, publish: Callable[..., Slice]) -> Any:
    """Republish the pool with log μ lower by SHIFT on every other token; rewards follow, nothing else does."""
    lake, samples = made.lake, made.lake.slices("samples")[0]
    groups = lake.slice(samples.parent("groups"))
    rows = lake.read(samples).to_pylist()
    for row in rows:
        row["behaviour_logprobs"] = [v - SHIFT * (t % 2) for t, v in enumerate(row["behaviour_logprobs"])]
    key = Key({**samples.settings, "import": {"temperature": 1.0}}, (groups,), samples.models)
    copy = publish(lake, "samples", key, [rows[:12], rows[12:]], samples.label)
    for old in lake.slices("rewards"):
        values = lake.read(old).to_pylist()
        publish(lake, "rewards", Key(old.settings, (copy, groups)), [values[:12], values[12:]], old.label)
    return made


def final(made: Any, run: str) -> bytes:
    return (Path(made.recipe.runs) / run / "final" / "model.safetensors").read_bytes()


def first_metrics(made: Any, run: str) -> dict[str, float]:
    lines = (Path(made.recipe.runs) / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return dict(json.loads(lines[0]))


def test_a_shifted_behaviour_changes_seq_tis_and_leaves_naive_as_it_is(
    made: Any, publish_rows: Callable[..., Slice]
) -> None:
    for objective in ("naive", "seq_tis"):
        train(made.with_(run=objective, objective=objective, **ALONE))
    other = shifted(made, publish_rows)
    for objective in ("naive", "seq_tis"):
        train(other.with_(run=f"{objective}-shifted", objective=objective, **ALONE))
    assert final(made, "naive") == final(made, "naive-shifted")
    assert final(made, "seq_tis") != final(made, "seq_tis-shifted")


def test_the_logged_effective_sample_size_is_that_of_the_shift(made: Any, publish_rows: Callable[..., Slice]) -> None:
    other = shifted(made, publish_rows)
    train(other.with_(run="ess", objective="seq_tis", replay__prompts=6, **ALONE))
    lengths = [row["n_tokens"] for row in made.lake.read(made.lake.slices("samples")[0], ["n_tokens"]).to_pylist()]
    weights = np.exp([SHIFT * (n // 2) for n in lengths])
    ratios = np.exp([SHIFT * (t % 2) for n in lengths for t in range(n)])
    found = first_metrics(made, "ess")
    assert found["drift/sequence_ess"] == pytest.approx(
        weights.sum() ** 2 / (len(weights) * (weights**2).sum()), rel=1e-3
    )
    assert found["drift/token_ess"] == pytest.approx(ratios.sum() ** 2 / (len(ratios) * (ratios**2).sum()), rel=1e-3)
    assert found["seq_tis/capped"] == pytest.approx((weights > 2).mean())
