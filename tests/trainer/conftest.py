"""A small lake for the trainer's tests: a pool of a tiny Llama with exact μ, rewards, policy scores, answers, documents."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data.config import ModelSettings, PromptSource, Sampling
from data.contract import TABLES
from data.fingerprint import identity
from data.keys import id64, prompt_id
from data.lake import Key, Lake
from data.manifest import Slice
from data.pool import Pool, answer_tokens_key, groups_key, prompts_settings, samples_key, scores_key
from trainer.config import TrainerRecipe, TrainerSettings

QUESTIONS = [f"hvat eitur oyggj {i}?" for i in range(8)]
TRAIN, SHARD = 6, 3  # prompts that are trained on; prompts a shard
COMPONENTS = {
    "points": {"use": "similarity", "metric": "chrf"},
    "length": {"use": "length", "unit": "tokens"},
}


@dataclass(frozen=True)
class Made:
    """A lake on disk with the recipe that reads it."""

    lake: Lake
    recipe: TrainerRecipe
    model: str

    def with_(self, **changes: Any) -> TrainerRecipe:
        """The recipe with other values: root fields by name, the trainer's with section__field."""
        root = {k: v for k, v in changes.items() if k in {f.name for f in dataclasses.fields(TrainerRecipe)}}
        trainer = self.recipe.trainer
        for name, value in changes.items():
            section, _, field = name.partition("__")
            if field:
                section_value = dataclasses.replace(getattr(trainer, section), **{field: value})
                trainer = dataclasses.replace(trainer, **{section: section_value})
            elif name not in root:
                trainer = dataclasses.replace(trainer, **{name: value})
        return dataclasses.replace(self.recipe, **root, trainer=trainer)

    def command(self, *overrides: str, processes: int = 1) -> list[str]:
        """The command line that trains from this lake, with the recipe as a file."""
        from omegaconf import OmegaConf

        folder = Path(self.recipe.lake).parent / "conf" / "recipe"
        folder.mkdir(parents=True, exist_ok=True)
        values = {k: v for k, v in dataclasses.asdict(self.recipe).items() if v is not None and k != "trainer"}
        text = "# @package _global_\n# a tiny pool\n" + OmegaConf.to_yaml(OmegaConf.create(values))
        (folder / "tiny.yaml").write_text(text, encoding="utf-8")
        start = [sys.executable]
        if processes > 1:
            start += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        return [*start, "-m", "trainer", "--config-dir", str(folder.parent), "recipe=tiny", *overrides]

    def cli(self, *overrides: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
        """Run the command; stdout and stderr as text."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = self.command(*overrides, processes=processes)
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300)


ROOT = Path(__file__).resolve().parents[2]


def publish(lake: Lake, table: str, key: Key, shards: list[list[dict[str, Any]]], label: str) -> Slice:
    """Publish rows as shards."""
    with lake.publish(table, key, label=label) as publisher:
        for shard in publisher.pending():
            publisher.write(shard, pa.Table.from_pylist(shards[shard.index], schema=TABLES[table].schema))
        return publisher.finish()


@pytest.fixture(scope="session")
def publish_rows() -> Callable[..., Slice]:
    return publish


@pytest.fixture(scope="session")
def write_lake() -> Callable[[TrainerRecipe], Lake]:
    return lake_of


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Made:
    root = tmp_path_factory.mktemp("trainer")
    model = tiny_model("llama")
    recipe = TrainerRecipe(
        name="tiny",
        lake=str(root / "lake"),
        runs=str(root / "runs"),
        student=ModelSettings(path=model),
        prompts=PromptSource(path="prompts.jsonl"),
        sampling=Sampling(n=4, max_tokens=9),
        components=COMPONENTS,
        reward="points",
        trainer=TrainerSettings(steps=3),
    )
    return Made(lake_of(recipe), recipe, model)


@pytest.fixture
def made(_made: Made, tmp_path: Path) -> Made:
    """The lake in the test's own folder."""
    shutil.copytree(_made.lake.root, tmp_path / "lake")
    recipe = dataclasses.replace(_made.recipe, lake=str(tmp_path / "lake"), runs=str(tmp_path / "runs"))
    return Made(Lake.open(tmp_path / "lake"), recipe, _made.model)


def lake_of(recipe: TrainerRecipe) -> Lake:
    lake, row = Lake.open(recipe.lake), identity(recipe.student, recipe.runs)
    lake.root.mkdir(parents=True)
    random = np.random.default_rng(0)
    prompts = _prompts(lake, recipe)
    pool = _pool(lake, recipe, row, prompts, random)
    _rewards(lake, recipe, pool, random)
    _answers(lake, prompts, row, random)
    documents = [
        {
            "document_id": id64("doc", i),
            "text": f"document {i}",
            "token_ids": random.integers(5, 290, 3 + i).tolist(),
            "bytes": 10,
            "licence": "CC0-1.0" if i % 2 else "CC-BY-4.0",
            "split": "held_out" if i == 7 else "train",
        }
        for i in range(8)
    ]
    key = Key({"source": {}}, (), {"tokenizer": row["tokenizer"]}, ("c0",))
    publish(lake, "corpus", key, [documents], recipe.name)
    return lake


def _prompts(lake: Lake, recipe: TrainerRecipe) -> Slice:
    rows = [
        {
            "prompt_id": prompt_id([{"role": "user", "content": text}]),
            "messages": [{"role": "user", "content": text}],
            "references": ["Nólsoy"],
            "split": "train" if i < TRAIN else "held_out",
            "language": "fo",
            "topic": None,
            "source": "tests",
            "extra": None,
        }
        for i, text in enumerate(QUESTIONS)
    ]
    key = Key(prompts_settings(recipe), contents=("p0", "p1"))
    return publish(lake, "prompts", key, [rows[:SHARD] + rows[TRAIN:], rows[SHARD:TRAIN]], recipe.name)


def _pool(lake: Lake, recipe: TrainerRecipe, row: dict[str, Any], prompts: Slice, random: np.random.Generator) -> Pool:
    import torch

    from trainer.forward import GroupTokens, group_logprobs, load

    policy = load(recipe.student.path)
    groups, samples, scores, temperature = [], [], [], recipe.sampling.temperature
    for i, text in enumerate(QUESTIONS[:TRAIN]):
        question, group_id = prompt_id([{"role": "user", "content": text}]), id64("group", i)
        prompt = random.integers(5, 290, 3 + i).tolist()
        completions = [[*random.integers(5, 290, random.integers(0, 8)).tolist(), 1] for _ in range(4)]
        with torch.no_grad():
            flat = group_logprobs(policy, [GroupTokens(prompt, completions)], temperature=temperature).tolist()
        groups.append(
            {
                "group_id": group_id,
                "prompt_id": question,
                "policy": row["model_id"],
                "prompt_token_ids": prompt,
                "temperature": temperature,
                "top_p": 1.0,
                "max_tokens": 9,
                "logprobs_mode": "processed",
                "support": "full",
            }
        )
        for j, completion in enumerate(completions):
            values, flat = flat[: len(completion)], flat[len(completion) :]
            keys = {"group_id": group_id, "sample_index": j}
            samples.append(
                {
                    **keys,
                    "token_ids": completion,
                    "n_tokens": len(completion),
                    "text": f"svar {i} {j}",
                    "behaviour_logprobs": values,
                    "finish_reason": "stop",
                    "stop_token": 1,
                    "origin": "student",
                    "round": 0,
                }
            )
            scores.append({**keys, "scorer": row["model_id"], "logprobs": values, "total": sum(values)})
    cut, rows_cut = SHARD, SHARD * 4
    group_slice = publish(
        lake, "groups", groups_key(recipe, prompts, row, [1]), [groups[:cut], groups[cut:]], recipe.name
    )
    sample_slice = publish(
        lake, "samples", samples_key(recipe, group_slice), [samples[:rows_cut], samples[rows_cut:]], recipe.name
    )
    pool = Pool(prompts, group_slice, sample_slice)
    publish(
        lake,
        "scores",
        scores_key(pool, row["model_id"], temperature),
        [scores[:rows_cut], scores[rows_cut:]],
        "tiny-policy",
    )
    return pool


def _rewards(lake: Lake, recipe: TrainerRecipe, pool: Pool, random: np.random.Generator) -> None:
    samples = lake.read(pool.samples, ["group_id", "sample_index", "n_tokens"]).to_pylist()
    for name, spec in recipe.components.items():
        rows = [
            {
                "group_id": sample["group_id"],
                "sample_index": sample["sample_index"],
                "value": float(random.normal()) if name == "points" else float(sample["n_tokens"]),
                "valid": True,
            }
            for sample in samples
        ]
        key = Key({"spec": spec, "identity": {"use": spec["use"]}}, (pool.samples, pool.groups, pool.prompts))
        publish(lake, "rewards", key, [rows[: SHARD * 4], rows[SHARD * 4 :]], name)


def _answers(lake: Lake, prompts: Slice, row: dict[str, Any], random: np.random.Generator) -> None:
    texts, tokens = [], []
    for i, text in enumerate(QUESTIONS[:TRAIN]):
        keys = {"prompt_id": prompt_id([{"role": "user", "content": text}]), "candidate": 0}
        texts.append({**keys, "text": f"answer {i}", "method": "imported", "finish_reason": "stop"})
        ids = {
            "prompt_token_ids": random.integers(5, 290, 2 + i).tolist(),
            "token_ids": random.integers(5, 290, 7 - i).tolist(),
        }
        tokens.append({**keys, **ids})
    key = Key({"import": {}}, (prompts,), {"teacher": "imported"})
    answers = publish(lake, "answers", key, [texts[:SHARD], texts[SHARD:]], "tiny")
    publish(lake, "answer_tokens", answer_tokens_key(answers, prompts, row), [tokens[:SHARD], tokens[SHARD:]], "tiny")
