"""The factory's own section of a recipe. Reads and writes nothing; `--help` prints the line under each field."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from data.config import Recipe, SoftTargets
from data.refusal import Refusal, in_range
from factory.endpoints import Endpoint, Limit
from factory.engines import SCORING
from factory.sources import is_file

# SIB-200's sentences are FLORES's
BENCHMARK_ONLY = re.compile(r"(?<![a-z])(flores|ntrex|sib[-_]?200)", re.IGNORECASE)

STAGES = (
    "prompts",
    "import",
    "teacher_check",
    "answers",
    "translate",
    "rephrase",
    "samples",
    "scores",
    "soft_targets",
    "rewards",
    "selections",
    "corpus",
    "evaluate",
)


@dataclass(frozen=True)
class VllmSettings:
    """What vLLM is told beside the model."""

    gpu_memory_utilization: float = 0.9
    """Share of each GPU's memory for weights and cache; on a CPU the cache has VLLM_CPU_KVCACHE_SPACE GiB instead."""
    max_model_len: int | None = None
    """Longest prompt and sample together, in tokens; null: what the model's configuration allows."""
    tensor_parallel_size: int = 1
    """GPUs over which one model is spread."""
    max_num_seqs: int = 256
    """Samples in the making at once."""
    max_num_batched_tokens: int = 2048
    """Tokens in one forward pass; scoring holds so many rows of the vocabulary, which vLLM's memory profile does not foresee."""
    enforce_eager: bool | None = None
    """Without CUDA graphs and compilation: slower steps, faster start; null: on a CPU only."""

    def __post_init__(self) -> None:
        in_range("engine.vllm.gpu_memory_utilization", self.gpu_memory_utilization, 0.01, 1)
        for name in ("max_model_len", "tensor_parallel_size", "max_num_seqs", "max_num_batched_tokens"):
            in_range(f"engine.vllm.{name}", getattr(self, name), 1)


@dataclass(frozen=True)
class EngineSettings:
    """What runs the models. Nothing here changes a value, so none of it is in a key."""

    name: str = "hf"
    """What draws samples and answers. hf: transformers, CPU or GPU; vllm: vLLM, in an environment of its own (make vllm-env)."""
    scorer: str = "hf"
    """What gives token scores and soft targets: hf reads a prompt once a group, vllm once a sample. hf rescores the policy."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    batch_tokens: int = 16384
    """Token positions in one forward pass, padding included."""
    resident: int = 2
    """Models held in memory at once; the one used longest ago makes room."""
    flops: float = 2e14
    """Sustained floating-point operations a second that estimate=true assumes of one GPU."""
    vllm: VllmSettings = field(default_factory=VllmSettings)
    """What vLLM is told, where it runs."""

    def does(self, ability: str) -> str:
        """The engine that gives an ability. Rescoring is the trainer's own forward path, which is hf, whoever drew the pool."""
        return "hf" if ability == "rescore" else self.scorer if ability in SCORING else self.name

    def __post_init__(self) -> None:
        in_range("engine.batch_tokens", self.batch_tokens, 1)
        in_range("engine.resident", self.resident, 1)
        in_range("engine.flops", self.flops, 1)


@dataclass(frozen=True)
class ImportSource:
    """An existing pool of the recipe's prompts: completions of the policy, or answers of some teacher.

    How completions were drawn (temperature, top_p, top_k) is what the recipe's `sampling` says."""

    kind: str = MISSING
    """samples (a pool with or without log-probabilities and rewards) or answers (a teacher's texts)."""
    path: str = MISSING
    """Hub id, or path of a .jsonl, .json, .parquet or .csv file."""
    config: str | None = None
    """Configuration name of a hub data set."""
    split: str = "train"
    """Split of a hub data set."""
    columns: dict[str, str] = field(default_factory=dict)
    """messages, completion, token_ids, logprobs, finish_reason, or answer → the source's column."""
    rewards: list[str] = field(default_factory=list)
    """Columns that hold rewards; each becomes a component of that name."""
    n: int | None = None
    """At most so many samples or answers a prompt."""

    def __post_init__(self) -> None:
        in_range("imports.NAME.n", self.n, 1)


@dataclass(frozen=True)
class CorpusSource:
    """Documents for the language-modelling loss and for likelihood benchmarks."""

    path: str = MISSING
    """Hub id, or path of a .jsonl, .json, .parquet or .csv file."""
    config: str | None = None
    """Configuration name of a hub data set."""
    split: str = "train"
    """Split of a hub data set."""
    columns: dict[str, str] = field(default_factory=dict)
    """text, language, source, licence, split → the source's column."""
    language: str | None = None
    """Language of every document, where no column says it."""
    licence: str | None = None
    """Licence of every document, where no column says it."""
    held_out: float | None = None
    """null: the source's own `split` column; a share such as 0.05: chosen by the documents' hash."""
    limit: int | None = None
    """Only the first so many documents."""
    clear_of: list[str] = field(default_factory=list)
    """Files whose texts no train document may share 13 words with, beside the recipe's benchmarks and held-out text."""

    def __post_init__(self) -> None:
        in_range("corpus.NAME.held_out", self.held_out, 0, 1)
        in_range("corpus.NAME.limit", self.limit, 1)
        if found := BENCHMARK_ONLY.search(Path(self.path).name if is_file(self.path) else self.path):
            raise Refusal(
                f"corpus.NAME.path={self.path}: {found[0]} is a benchmark only, and measures nothing once it was trained on",
                f"corpus.NAME.clear_of=[{self.path}] keeps another corpus clear of it",
            )


def kinds() -> dict[str, Path]:
    """Kind of benchmark → its file, for `--help`."""
    folder = Path(__file__).parent / "benchmarks"
    return {file.stem: file for file in sorted(folder.glob("*.py")) if not file.stem.startswith("_")}


@dataclass(frozen=True)
class FactorySettings:
    """What `python -m factory` does."""

    stages: list[str] = field(
        default_factory=lambda: [
            "prompts",
            "import",
            "answers",
            "samples",
            "scores",
            "rewards",
            "selections",
            "corpus",
        ]
    )
    """Stages to run, in order; each one resumes. Also: teacher_check, translate, rephrase, soft_targets, evaluate."""
    estimate: bool = False
    """Print tokens, hours and disk for this recipe, and make nothing."""
    strict: bool = False
    """Refuse what is otherwise a warning."""
    shard_groups: int = 512
    """Prompts (or documents) in one shard; a killed shard starts again."""
    imports: dict[str, ImportSource] = field(default_factory=dict)
    """Existing pools and answers, by name."""
    corpus: dict[str, CorpusSource] = field(default_factory=dict)
    """Corpora, by name."""
    benchmarks: dict[str, Any] = field(default_factory=dict, metadata={"kinds": kinds})
    """What `evaluate` measures: name → {kind: a file of factory/benchmarks (prompts where none is named), …its settings}."""
    soft_targets: SoftTargets = field(default_factory=SoftTargets)
    """What `soft_targets` keeps of the teacher's distributions."""
    policies: list[str] = field(default_factory=list)
    """Whom `evaluate` measures: student, teacher, run:NAME; empty: the recipe's policy."""
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    """Servers that answer for models, by name; a model says `endpoint: NAME`."""
    budget: Any = None
    """USD that the recipe's answers over endpoints may cost, all calls together, or {money: USD, tokens: N}; null: no limit."""
    engine: EngineSettings = field(default_factory=EngineSettings)
    """What runs the models."""

    def __post_init__(self) -> None:
        in_range("shard_groups", self.shard_groups, 1)
        Limit.read(self.budget)


@dataclass(frozen=True)
class ExecutorSettings:
    """Where shards are computed that need an engine. Nothing here changes a value, so none of it is in a key."""

    name: str = "in_process"
    """in_process; local: processes of this machine; ray: actors of Ray, on one machine or many."""
    workers: int | None = None
    """Processes or actors with engines of their own; null: one a GPU, without GPUs one (ray: one a machine)."""
    address: str | None = None
    """ray: HOST:PORT of a running cluster, all of whose machines see the lake; null: a cluster is started on this machine."""
    num_gpus: float | None = None
    """ray: GPUs of one worker; null: one, or what vLLM spreads a model over, where the cluster has GPUs."""
    num_cpus: float = 1
    """ray: CPUs of one worker."""
    resources: dict[str, float] = field(default_factory=dict)
    """ray: further resources of one worker, by name."""

    def __post_init__(self) -> None:
        in_range("executor.workers", self.workers, 1)
        in_range("executor.num_gpus", self.num_gpus, 0)
        in_range("executor.num_cpus", self.num_cpus, 0)


@dataclass(frozen=True)
class FactoryRecipe(Recipe):
    """A recipe as the factory reads it."""

    executor: ExecutorSettings = field(default_factory=ExecutorSettings)
    """Who computes: how many, and on which machines."""

    factory: FactorySettings = field(default_factory=FactorySettings)
    """Settings of `python -m factory`."""
