"""Soft targets by the real commands: the factory's stage makes them, the trainer learns from them, of answers and of samples.

What the log says of the first step is compared with plain sums over transformers' logits and the tables' rows."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.lake import Lake

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
WARM = 0.7
RECIPE = """# @package _global_
# two random models of one tokenizer
name: tiny
student: {{path: {student}}}
teacher: {{path: {teacher}}}
prompts: {{path: {prompts}}}
sampling: {{n: 3, max_tokens: 6, temperature: {temperature}}}
answers: {{max_tokens: 6}}
reward: null
"""
SGD = ["steps=2", "optimiser.name=sgd", "optimiser.lr=0.05", "optimiser.clip=null"]
SOFT = [*SGD, "losses.rl=0", "losses.bc=0", "losses.pt=0", "losses.kl=0", "losses.soft=1", "replay.answers=5"]
MINILLM = [
    *SGD,
    "objective=minillm",
    "losses.bc=0",
    "losses.pt=0",
    "losses.kl=0",
    "replay.prompts=5",
    "replay.truncated=keep",
]
FSDP = ["optimiser.compute.parallel=fsdp", "optimiser.compute.layout=plain"]


@dataclass(frozen=True)
class Place:
    """A lake with its recipe, and the project's commands on them."""

    folder: Path
    student: str

    def called(self, *words: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
        start = [sys.executable]
        if processes > 1:
            start += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        places = [f"lake={self.folder}/lake", f"runs={self.folder}/runs", "--config-dir", f"{self.folder}/conf"]
        command = [*start, "-m", words[0], "recipe=tiny", *words[1:], *places]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300)

    def ran(self, *words: str, processes: int = 1) -> None:
        done = self.called(*words, processes=processes)
        assert done.returncode == 0, done.stderr

    def rows(self, table: str) -> list[dict[str, Any]]:
        lake = Lake.open(self.folder / "lake")
        return lake.read(lake.slices(table)[-1]).to_pylist()

    def first(self, run: str) -> dict[str, float]:
        text = (self.folder / "runs" / run / "metrics.jsonl").read_text(encoding="utf-8")
        return json.loads(text.splitlines()[0])

    def moved(self, run: str, other: str | None = None) -> float:
        """Largest difference between a run's final weights and the start, or another run's."""
        finals = {name: self.folder / "runs" / name / "final" for name in (run, other) if name}
        one = load_file(finals[run] / "model.safetensors")
        two = load_file((finals[other] if other else Path(self.student)) / "model.safetensors")
        return max((one[name] - two[name]).abs().max().item() for name in one)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Place:
    """Answers, a pool at WARM and the teacher's scores of it; no soft targets yet."""
    folder, student = tmp_path_factory.mktemp("soft"), tiny_model("llama")
    questions = ["hvat eitur oyggin ?", "what is the capital ?", "the little boat", "báturin siglir", "sólin skínur"]
    lines = [json.dumps({"messages": [{"role": "user", "content": text}], "split": "train"}) for text in questions]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = folder / "conf" / "recipe" / "tiny.yaml"
    recipe.parent.mkdir(parents=True)
    models = {"student": student, "teacher": tiny_model("llama", seed=7), "prompts": folder / "prompts.jsonl"}
    recipe.write_text(RECIPE.format(**models, temperature=WARM), encoding="utf-8")
    place = Place(folder, student)
    place.ran("factory", "stages=[prompts,answers,samples,scores]")
    return place


@pytest.fixture
def place(asked: Place, tmp_path: Path) -> Place:
    """The same in the test's own folder."""
    for name in ("lake", "conf"):
        shutil.copytree(asked.folder / name, tmp_path / name)
    return Place(tmp_path, asked.student)


def positions(
    place: Place, texts: list[dict[str, Any]], targets: list[dict[str, Any]], temperature: float
) -> Iterator[tuple[torch.Tensor, dict[int, tuple[float, float]]]]:
    """log π (v,) at each token, and id → (share of the draws, log p) there."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(place.student).double()
    for text, row in zip(texts, targets, strict=True):
        prompt, at = text["prompt_token_ids"], 0
        with torch.no_grad():
            logits_tv = model(torch.tensor([[*prompt, *text["token_ids"]]])).logits[0, len(prompt) - 1 : -1]
        for size, logits_v in zip(row["sizes"], logits_tv, strict=True):
            here = slice(at, at := at + size)
            counts = row["counts"][here] if row["counts"] else [0] * size
            shares = [count / max(sum(counts), 1) for count in counts]
            known = dict(zip(row["ids"][here], zip(shares, row["logprobs"][here], strict=True), strict=True))
            yield (logits_v / temperature).log_softmax(-1), known


def expected(target: str, logpi_v: torch.Tensor, known: dict[int, tuple[float, float]]) -> float:
    """The loss at one token, an id at a time (MATH §5, §7)."""
    own = {token: float(logpi_v[token]) for token in known}
    p = {token: math.exp(logp) for token, (_, logp) in known.items()}
    left, left_p = 1 - sum(map(math.exp, own.values())), 1 - sum(p.values())
    if target == "counts":
        return -sum(share * own[token] for token, (share, _) in known.items())
    if target == "renormalised":
        return -sum(p[token] / sum(p.values()) * own[token] for token in known)
    if target == "top_k":
        return -sum(p[token] * own[token] for token in known) - left_p * math.log(left)
    inside = sum(math.exp(own[token]) * (own[token] - known[token][1]) for token in known)
    return inside + left * math.log(left / left_p)


@pytest.mark.parametrize("kind", ["sampled", "top_k", "student_m"])
def test_the_trainer_learns_from_the_answers_soft_targets_that_the_factory_made(place: Place, kind: str) -> None:
    place.ran(
        "factory", "stages=[soft_targets]", f"soft_targets.kind={kind}", "soft_targets.draws=40", "soft_targets.k=6"
    )
    for target in ("counts", "renormalised") if kind == "sampled" else (kind,):
        place.ran("trainer", f"run={target}", *SOFT, f"losses.soft_target={target}")
        tokens = {(r["prompt_id"], r["candidate"]): r for r in place.rows("answer_tokens")}
        targets = place.rows("answer_soft_targets")
        texts = [tokens[row["prompt_id"], row["candidate"]] for row in targets]
        want = [expected(target, *one) for one in positions(place, texts, targets, 1.0)]
        assert place.first(target)["loss/soft"] == pytest.approx(sum(want) / len(want), rel=1e-4)
        assert place.moved(target) > 1e-5


@pytest.mark.parametrize(("single", "kind"), [("coarse", "top_k"), ("student_topk", "student_m")])
def test_minillm_takes_a_tokens_own_kl_from_the_samples_soft_targets(place: Place, single: str, kind: str) -> None:
    command = [*MINILLM, f"clip.teacher.single={single}"]
    refused = place.called("trainer", "run=refused", *command)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) <= 3 and "Traceback" not in refused.stderr
    made = f"'stages=[soft_targets]' soft_targets.of=samples soft_targets.kind={kind}"
    assert f"no soft targets of kind {kind}" in refused.stderr and made in refused.stderr
    assert not (place.folder / "runs").exists()
    wanted = [f"soft_targets.kind={kind}", "soft_targets.of=samples", "soft_targets.k=6"]
    place.ran("factory", "stages=[soft_targets]", *wanted)
    place.ran("trainer", "run=one", *command, "replay.micro_batch_tokens=100000")
    prompts = {row["group_id"]: row["prompt_token_ids"] for row in place.rows("groups")}
    texts = [row | {"prompt_token_ids": prompts[row["group_id"]]} for row in place.rows("samples")]
    targets = place.rows("soft_targets")
    want = [expected("student_m", *one) for one in positions(place, texts, targets, WARM)]
    assert place.first("one")["minillm/single_kl"] == pytest.approx(sum(want) / len(want), rel=1e-4)
    place.ran("trainer", "run=drawn", *MINILLM)
    assert place.moved("one", "drawn") > 1e-5
    for run, how in (("two", []), ("spread", FSDP)):
        place.ran("trainer", f"run={run}", *command, "replay.micro_batch_tokens=16", *how, processes=2)
        assert place.moved("one", run) <= 1e-6
