"""A run with adapters: killed and resumed to the same bytes, merged or not, and its start kept for the KL."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.config import ModelSettings
from data.fingerprint import identity
from data.refusal import Refusal
from trainer import loop
from trainer.adapter import merged
from trainer.config import Lora
from trainer.forward import GroupTokens, group_logprobs, load
from trainer.loop import train

SAME = {
    "objective": "seq_tis",
    "losses__bc": 0.5,
    "replay__prompts": 2,
    "replay__answers": 2,
    "replay__bc": "teacher",
    "optimiser__lr": 1e-2,
    "optimiser__ema": 0.5,
    "optimiser__lora": Lora(enabled=True, rank=4),
    "probe__every": 2,
    "probe__max_tokens": 4,
    "probe__kl": True,
    "checkpoint__every": 2,
    "steps": 5,
}
GROUPS = [GroupTokens([5, 9, 20, 33], [[40, 7, 1], [8, 1]])]


class Killed(BaseException):
    """As a kill: nothing of the run's own code catches it."""


def folder(made: Any, run: str) -> Path:
    return Path(made.recipe.runs) / run


def metrics(made: Any, run: str) -> list[dict[str, float]]:
    lines = (folder(made, run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_second"} for line in lines]


def test_a_killed_run_with_adapters_resumes_to_the_same_bytes(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop.one_step

    def killed(training: Any) -> None:
        if training.step == 4:
            raise Killed
        real(training)

    train(made.with_(run="whole", **SAME))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "one_step", killed)
        with pytest.raises(Killed):
            train(made.with_(run="cut", **SAME))
    saved = sorted(path.name for path in (folder(made, "cut") / "checkpoint-2").iterdir())
    assert "adapter_model.safetensors" in saved and "model.safetensors" not in saved
    train(made.with_(resume="cut", **SAME))
    whole, cut = (folder(made, run) / "final" / "model.safetensors" for run in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes() and metrics(made, "whole") == metrics(made, "cut")
    assert metrics(made, "whole")[-1]["probe/kl"] > 0
    row = identity(ModelSettings(path="run:whole"), made.recipe.runs)
    assert row["model_id"] == json.loads((folder(made, "whole") / "run.json").read_text(encoding="utf-8"))["model_id"]


def test_a_final_adapter_is_the_merged_model_and_no_policy_by_itself(made: Any) -> None:
    alone = {**SAME, "optimiser__lora": Lora(enabled=True, rank=4, merge=False)}
    train(made.with_(run="merged", **SAME))
    train(made.with_(run="alone", **alone))
    final = folder(made, "alone") / "final"
    assert not (final / "model.safetensors").exists()
    assert (
        json.loads((final / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"] == made.model
    )
    with torch.no_grad():
        torch.testing.assert_close(
            group_logprobs(merged(str(final)), GROUPS),
            group_logprobs(load(str(folder(made, "merged") / "final")), GROUPS),
            atol=1e-4,
            rtol=0,
        )
    with pytest.raises(Refusal, match="an adapter alone"):
        identity(ModelSettings(path="run:alone"), made.recipe.runs)


def test_a_saved_adapter_is_the_average_where_one_is_kept(made: Any) -> None:
    alone = {**SAME, "optimiser__lora": Lora(enabled=True, rank=4, merge=False), "checkpoint__every": 5}
    train(made.with_(run="averaged", **alone))
    state = load_file(folder(made, "averaged") / "checkpoint-5" / "training" / "state.safetensors")
    last = load_file(folder(made, "averaged") / "checkpoint-5" / "adapter_model.safetensors")
    final = load_file(folder(made, "averaged") / "final" / "adapter_model.safetensors")
    name = next(iter(final))
    inside = name.removeprefix("base_model.model.").replace(".weight", ".default.weight")
    assert torch.equal(final[name], state[f"average/{inside}"]) and torch.equal(final[name], last[name])
    assert not torch.equal(final[name], state[f"weights/{inside}"])


def test_the_model_without_its_adapters_is_the_reference_where_the_lake_has_no_scores_of_the_start(made: Any) -> None:
    settings = {**SAME, "losses__kl": 0.5, "checkpoint__every": None, "probe__every": None, "optimiser__ema": None}
    train(made.with_(run="scored", **settings))
    for slice_ in made.lake.slices("scores"):
        shutil.rmtree(made.lake.root / slice_.path)
    with pytest.raises(Refusal, match="no scores by the policy itself"):
        train(made.with_(run="full", **{**settings, "optimiser__lora": Lora(enabled=False)}))
    train(made.with_(run="unscored", **settings))
    scored, unscored = metrics(made, "scored"), metrics(made, "unscored")
    assert scored[-1]["kl_k3"] > 1e-5
    for one, other in zip(scored, unscored, strict=True):  # cached scores are rounded to 15 bits
        assert other["kl_k3"] == pytest.approx(one["kl_k3"], rel=1e-2, abs=1e-6)
    first, second = (load_file(folder(made, run) / "final" / "model.safetensors") for run in ("scored", "unscored"))
    assert max((first[name] - second[name]).abs().max().item() for name in first) <= 1e-4
