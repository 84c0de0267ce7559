"""The part of a recipe that both commands read: who learns from whom, on which prompts, under which reward.

Reads and writes nothing. Each command adds its own section (`factory:` or `trainer:`) in its own config module. Every field's
meaning is the line under it; `--help` prints these lines."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from omegaconf import MISSING

from data.refusal import Refusal, in_range, nearest


@dataclass(frozen=True)
class ModelSettings:
    """A model: where its weights are and how they are read."""

    path: str = MISSING
    """Hub id, folder, or run:NAME for the final weights of a training run."""
    revision: str | None = None
    """Hub revision; null: the default branch."""
    gguf_file: str | None = None
    """File name inside the folder or repository, where the weights are GGUF."""
    dtype: str = "float32"
    """dtype of weights and activations: float32, bfloat16 or float16."""
    initial: str = "pretrained"
    """pretrained, or random: weights drawn from the folder's config.json with the recipe's seed."""
    chat_template: str | None = None
    """Jinja text, or the path of a file with it, in place of the tokenizer's own."""
    trust_remote_code: bool = False
    """Whether code from the model's repository may run."""
    endpoint: str | None = None
    """Name of a server in factory.endpoints that answers for this model over HTTP; null: the factory's engine runs it."""
    request: dict[str, Any] = field(default_factory=dict, hash=False)  # a model stays hashable
    """Further fields of every request to an endpoint, e.g. {reasoning_effort: low}; they change answers."""


@dataclass(frozen=True)
class Scorer(ModelSettings):
    """A further model whose log-probabilities of the pool are kept: a co-teacher, a reference, a judge of fluency."""

    shown: str = "messages"
    """What it reads before a sample: messages, or teacher_messages (what the teacher is shown instead, where prompts have it)."""

    def __post_init__(self) -> None:
        if self.shown not in (known := ("messages", "teacher_messages")):
            raise Refusal(f"scorers.NAME.shown is {self.shown!r}: {nearest(self.shown, known)}", "correct the recipe")

    @property
    def model(self) -> ModelSettings:
        """The model alone: what it is shown changes no weights."""
        return ModelSettings(**{f.name: getattr(self, f.name) for f in fields(ModelSettings)})


@dataclass(frozen=True)
class PromptSource:
    """Where prompts come from: `datasets` reads a hub id, JSONL or Parquet."""

    path: str = MISSING
    """Hub id, or path of a .jsonl, .json, .parquet or .csv file."""
    config: str | None = None
    """Configuration name of a hub data set."""
    split: str = "train"
    """Split of a hub data set, e.g. train[:5000]."""
    columns: dict[str, str] = field(default_factory=dict)
    """Contract column → the source's column, e.g. {messages: question, references: answer}; a text becomes one user message."""
    held_out: str | None = None
    """null: the source's own `split` column; a share such as 0.1: that share of prompts, chosen by their hash."""
    limit: int | None = None
    """Only the first so many prompts."""
    system: str | None = None
    """A system message put before every prompt."""

    def __post_init__(self) -> None:
        in_range("prompts.limit", self.limit, 1)


@dataclass(frozen=True)
class Sampling:
    """How the pool is drawn. Every field is passed to the engine; nothing comes from generation_config."""

    n: int = 8
    """Samples a group (G)."""
    temperature: float = 1.0
    """Softmax temperature."""
    top_p: float = 1.0
    """Nucleus mass; below 1 the pool's support is truncated and no weight brings it back."""
    top_k: int = 0
    """Largest logits kept; 0 is off."""
    max_tokens: int = 256
    """Longest sample, in tokens."""
    repetition_penalty: float = 1.0
    """1 is off."""
    stop: list[str] = field(default_factory=list)
    """Further token texts that end a sample, beside the model's own end tokens."""
    alpha: float = 0.0
    """Share of the teacher in each token's distribution, recorded as the behaviour; 0 is off, below 1."""

    def __post_init__(self) -> None:
        in_range("sampling.alpha", self.alpha, 0, 1 - 1e-9)
        in_range("sampling.temperature", self.temperature, 0)
        in_range("sampling.top_p", self.top_p, 1e-9, 1)
        in_range("sampling.top_k", self.top_k, 0)
        in_range("sampling.max_tokens", self.max_tokens, 1)
        in_range("sampling.repetition_penalty", self.repetition_penalty, 1e-9)


@dataclass(frozen=True)
class AnswerSampling:
    """How the teacher answers."""

    n: int = 1
    """Answers a prompt."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus mass."""
    max_tokens: int = 256
    """Longest answer, in the teacher's tokens."""

    def __post_init__(self) -> None:
        in_range("answers.temperature", self.temperature, 0)
        in_range("answers.top_p", self.top_p, 1e-9, 1)
        in_range("answers.max_tokens", self.max_tokens, 1)


@dataclass(frozen=True)
class SoftTargets:
    """Distributions of the teacher at every token, to be learnt from. Only where teacher and student share a tokenizer."""

    of: str = "answers"
    """answers: the teacher's own, in the student's tokens; samples: the whole pool (hundreds of bytes a token)."""
    kind: str = "sampled"
    """sampled: draws with replacement; top_k: its most probable ids; student_m: its log p at the policy's most probable ids."""
    draws: int = 256
    """Draws a token, for kind sampled."""
    k: int = 64
    """Ids a token, for kinds top_k and student_m."""

    def __post_init__(self) -> None:
        for name, known in (("of", ("answers", "samples")), ("kind", ("sampled", "top_k", "student_m"))):
            if getattr(self, name) not in known:
                raise Refusal(
                    f"soft_targets.{name} is {getattr(self, name)!r}: {nearest(getattr(self, name), known)}",
                    f"factory.soft_targets.{name}={known[0]}",
                )
        in_range("soft_targets.draws", self.draws, 1)
        in_range("soft_targets.k", self.k, 1)

    @property
    def spec(self) -> dict[str, Any]:
        """What the targets' values depend on."""
        return {"kind": self.kind} | ({"draws": self.draws} if self.kind == "sampled" else {"k": self.k})


@dataclass(frozen=True)
class Reasoning:
    """Tags around what models think before they answer. Components, best-of-N and measures see what follows them."""

    student: list[str] = field(default_factory=list)
    """Opening and closing tag of the policy, e.g. [<think>, </think>]; the first empty where its chat template opens the thought;
    none where it does not think aloud."""
    teacher: list[str] = field(default_factory=list)
    """The same of the teacher and its co-teachers."""
    copied: bool = True
    """Whether behaviour cloning copies the teacher's reasoning with its answer; false: the answer alone."""

    def __post_init__(self) -> None:
        for who in ("student", "teacher"):
            tags = getattr(self, who)
            if tags and (len(tags) != 2 or not tags[1] or tags[0] == tags[1]):
                raise Refusal(
                    f"reasoning.{who} is {tags}: two different tags are wanted, the closing one not empty",
                    f"'reasoning.{who}=[<think>, </think>]'",
                )

    @property
    def settings(self) -> dict[str, list[str]]:
        """The tags as keys hold them: {} where nobody thinks."""
        tags = {"student": list(self.student), "teacher": list(self.teacher)}
        return {who: own for who, own in tags.items() if own}

    def tags(self, role: str) -> list[str]:
        """The tags of student, policy, run:NAME or teacher; [] of any other model."""
        return self.student if role in ("student", "policy") or role.startswith("run:") else self.settings.get(role, [])


@dataclass(frozen=True)
class Translate:
    """How the teacher's language is crossed: prompts are translated to it, its answers back. Stage `translate`."""

    by: str = "translator"
    """Who translates: a name of `models`, teacher or student."""
    language: str = "en"
    """The teacher's language: a code such as en, or its name."""
    via: str | None = None
    """A third language that answers are translated to first, where the translator knows no direct way."""
    prompts: bool = True
    """Whether the teacher is shown its prompts in its language (stage `prompts` translates them); false: as the student is."""
    wording: str | None = None
    """The question to the translator, with the places {text}, {source} and {target}; null: ours; "{text}" for a model that only
    translates."""
    max_tokens: int = 512
    """Longest translation, in the translator's tokens."""

    def __post_init__(self) -> None:
        in_range("translate.max_tokens", self.max_tokens, 1)


@dataclass(frozen=True)
class Rephrase:
    """The student says the teacher's answer again in its own language; the teacher checks the content. Stage `rephrase`."""

    by: str = "student"
    """Who restates: student, teacher, or a name of `models`."""
    of: str = "direct"
    """Which answers are restated: direct (the teacher's own words) or translate."""
    wording: str | None = None
    """The question, with the places {question}, {answer} and {language}; null: ours."""
    max_tokens: int = 512
    """Longest restatement, in the student's tokens."""
    check: dict[str, Any] = field(default_factory=dict)
    """The component whose value becomes `check_score`, {use: …}; its `answers` are the one restated; {}: the teacher's verdict."""

    def __post_init__(self) -> None:
        in_range("rephrase.max_tokens", self.max_tokens, 1)
        if self.of not in (known := ("direct", "translate")):
            raise Refusal(f"rephrase.of is {self.of!r}: {nearest(self.of, known)}", "rephrase.of=direct")


def model_settings(model: ModelSettings) -> dict[str, Any]:
    """The model as `models` is searched by: whether a server answers for it, not which one."""
    own = {k: v for k, v in asdict(model).items() if k not in ("endpoint", "request")}
    return own if model.endpoint is None else own | {"served": True, "request": dict(model.request)}


def sampling_settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe's sampling as keys hold it: a pool that nothing is mixed into is named as if mixing did not exist."""
    return {k: v for k, v in asdict(recipe.sampling).items() if k != "alpha" or v}


@dataclass(frozen=True)
class Recipe:
    """A whole experiment. `executor`, `factory` and `trainer` are the commands' own sections."""

    name: str = MISSING
    """The recipe's name; slices are labelled with it."""
    lake: str = "data/lake"
    """Folder of the lake, or s3://bucket/prefix; endpoint, region and credentials from the AWS_* variables of the environment."""
    runs: str = "runs"
    """Folder of training runs."""
    seed: int = 0
    """Seed of sampling, replay and random weights."""
    student: ModelSettings = field(default_factory=ModelSettings)
    """The model that learns."""
    teacher: ModelSettings | None = None
    """The model that is copied; null: none is needed."""
    scorers: dict[str, Scorer] = field(default_factory=dict)
    """Further models that score the pool, by the name that a component's `scorer:` says; student, teacher, policy are known."""
    models: dict[str, ModelSettings] = field(default_factory=dict)
    """Further models that write: translators, judges, co-teachers, by the name that `by:` and `co_teachers` say."""
    co_teachers: list[str] = field(default_factory=list)
    """Names of `models` that answer the same prompts as the teacher; their answers stand behind the teacher's own."""
    reasoning: Reasoning = field(default_factory=Reasoning)
    """What student and teacher write around their reasoning."""
    translate: Translate | None = None
    """How prompts reach the teacher's language and answers come back; null: it is the student's."""
    rephrase: Rephrase | None = None
    """How the student restates the teacher's answers; null: it does not."""
    policy: str = "student"
    """What the pool is sampled from and training starts at: student, or run:NAME for the next round."""
    pool: str | None = None
    """Label of the pool's slices; null: the recipe's name, with the run's name behind it in later rounds."""
    prompts: PromptSource = field(default_factory=PromptSource)
    """Where prompts come from."""
    sampling: Sampling = field(default_factory=Sampling)
    """How the pool is drawn."""
    answers: AnswerSampling = field(default_factory=AnswerSampling)
    """How the teacher answers."""
    components: dict[str, Any] = field(default_factory=dict)
    """Reward components: column name → {use: component, …its settings}; null takes an inherited one away."""
    reward: str | None = None
    """Reward expression over component names, e.g. "agreement + 0.5*language"."""
    where: str | None = None
    """Which candidates are good enough to be copied (best-of-N, raft), e.g. "agreement = 1"; applied before ranking."""
    trackers: list[str] = field(default_factory=list)
    """Where `python -m trainer` sends a run's metrics beside the lake: names of trackio, wandb, tensorboard."""
    executor: Any = None
    """Who computes for `python -m factory`."""
    factory: Any = None
    """Settings of `python -m factory`."""
    trainer: Any = None
    """Settings of `python -m trainer`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "components", {n: c for n, c in self.components.items() if c is not None})

    @property
    def pool_label(self) -> str:
        """Label of this recipe's pool."""
        return self.pool or (
            self.name if self.policy == "student" else f"{self.name}-{self.policy.removeprefix('run:')}"
        )
