"""Reward components: texts in, one number a sample out. No lake, no configuration, no torch.

A component is one file of this folder: a docstring (range, cost, what it cannot see), `Settings`, `VERSION`, `NEEDS`,
`RANGE` and `score(batch, settings)`. Files are found by name and imported when a recipe asks for them; a user's own
function is named `path.to:function`. Refuses unknown components and settings, wrong types, missing files, and any NaN
or infinite value: a missing reward is `Reward.missing(why)`, never 0.

>>> from factory.rewards import Batch, component
>>> exact = component({"use": "similarity", "metric": "exact"})
>>> exact.score(Batch.of_texts(["Ja  takk"], references=[["Ja takk"]]))[0].value
1.0
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from data.refusal import Refusal, nearest

SPANS = ("answer", "whole")
SHARED = frozenset({"text"})  # modules of this folder that components share; names with an underscore are not listed


@dataclass(frozen=True)
class Reward:
    """What a component says about one sample."""

    value: float | None
    """The number; None where the component has nothing to say (never 0 in its place)."""
    valid: bool = True
    """False where the value must not be used; always False without a value."""
    values: list[float] | None = None
    """One number a token, for components that judge tokens."""
    detail: str | None = None
    """Why there is no value, or what the value rests on."""

    def __post_init__(self) -> None:
        if self.value is None and self.valid:
            object.__setattr__(self, "valid", False)

    @classmethod
    def missing(cls, detail: str) -> Reward:
        """No value, with the reason.

        >>> Reward.missing("no references")
        Reward(value=None, valid=False, values=None, detail='no references')
        """
        return cls(None, valid=False, detail=detail)


@dataclass(frozen=True)
class Question:
    """A conversation that a component has answered, greedily, before it scores a sample."""

    messages: list[dict[str, str]]
    max_tokens: int
    """Longest reply; a longer one is cut, and then counts as none."""


@dataclass(frozen=True)
class Reply:
    """What became of a question."""

    text: str | None
    """None where there is no whole reply."""
    why: str | None = None
    """Why there is none: length, refusal, content_filter."""
    total: float | None = None
    """The scorer's log p of the text as an answer to the sample's prompt, nats, where a component needs `reply_scores`."""
    n_tokens: int | None = None
    """Its tokens by that scorer, the end token included."""


@dataclass(frozen=True)
class Batch:
    """Samples beside what is known of their prompts; every list has one entry a sample."""

    prompts: list[list[dict[str, str]]]
    """Messages of the prompt, each {"role", "content"}."""
    texts: list[str]
    """The completions."""
    references: list[list[str]]
    """Right answers of the prompt; may be empty."""
    answers: list[list[str]]
    """The teacher's answers to the prompt; may be empty."""
    finish_reasons: list[str | None]
    """Why sampling ended: stop, length."""
    n_tokens: list[int | None]
    """Tokens of the completion, the end token included."""
    answer_patterns: list[str | None]
    """Regular expression that finds the answer in a text."""
    languages: list[str | None]
    """Language code of the prompt."""
    scorer_logprobs: list[list[float] | None]
    """The scorer's log p of each token of the completion, nats; None inside for a token that it has none of."""
    scorer_totals: list[float | None]
    """The scorer's log p of the whole completion, nats."""
    n_scorer_tokens: list[int | None]
    """Tokens of the completion in the scorer's own tokenizer."""
    columns: dict[str, list[Any]] = field(default_factory=dict)
    """Other columns of the prompts, for a user's own function."""
    replies: list[list[Reply]] = field(default_factory=list)
    """What a model replied to the component's questions about each sample, in their order; empty: none was asked."""

    def __post_init__(self) -> None:
        if not self.replies:
            object.__setattr__(self, "replies", [[] for _ in self.texts])
        lists = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "columns"} | self.columns
        for name, entries in lists.items():
            if len(entries) != len(self.texts):
                raise ValueError(f"{name} has {len(entries)} entries, texts has {len(self.texts)}: one a sample")

    @classmethod
    def of_texts(cls, texts: list[str], **lists: Any) -> Batch:
        """A batch of texts with the named lists; everything else is empty (no messages, None), never 0."""
        rest = {f.name for f in fields(cls)} - {"texts", "columns"} - lists.keys()
        several = {"prompts", "references", "answers", "replies"}
        empty: dict[str, Any] = {name: [[] if name in several else None for _ in texts] for name in rest}
        return cls(texts=texts, **empty, **lists)

    def at(self, rows: Sequence[int]) -> Batch:
        """The batch of these samples alone."""
        lists = {f.name: [getattr(self, f.name)[i] for i in rows] for f in fields(self) if f.name != "columns"}
        return Batch(**lists, columns={name: [values[i] for i in rows] for name, values in self.columns.items()})

    def targets(self, sample: int, to: str) -> list[str]:
        """What a sample is compared with: the references or the teacher's answers that are not blank."""
        return [text for text in (self.references if to == "references" else self.answers)[sample] if text.strip()]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Component:
    """A component with its settings, as a recipe names it."""

    name: str
    """The recipe's label, the column in `reward_table`."""
    use: str
    """File name in factory/rewards, or path.to:function."""
    settings: Any
    """The file's `Settings`, or the keyword arguments of a user's function."""
    needs: frozenset[str]
    """Lists of the batch that it reads beyond texts: references, answers, scores, n_tokens, prompts, languages, …"""
    scorer: str | None
    """Label of the scorer whose `scores` it reads; None: the recipe's teacher."""
    by: str | None
    """Who replies to its questions: teacher, student, or one of the recipe's `models`; None: it asks none."""
    method: str | None
    """Which of the teacher's answers it compares with: translate, rephrase, …; None: those in the teacher's own words."""
    whole: bool
    """Whether it reads a sample's reasoning too; else the answer behind it, where the recipe names the tags."""
    identity_of: Callable[[], dict[str, Any]] = field(repr=False)
    function: Callable[[Batch], list[Reward]] = field(repr=False)
    questions: Callable[[Batch], list[list[Question]]] | None = field(default=None, repr=False)
    """A list of questions a sample, for components that need `replies`."""

    def identity(self) -> dict[str, Any]:
        """All that changes values: use, settings, version; sha256 in place of the paths of files and of own source."""
        return self.identity_of()

    def score(self, batch: Batch) -> list[Reward]:
        """One reward a sample. Raises Refusal where a value is NaN or infinite, naming component and sample."""
        rewards = self.function(batch)
        if len(rewards) != len(batch):
            raise Refusal(
                f"component {self.name!r} gave {len(rewards)} rewards for {len(batch)} samples",
                f"return one number or None a sample in {self.use}",
            )
        for sample, reward in enumerate(rewards):
            self._refuse_non_finite(reward, sample, batch)
        return rewards

    def _refuse_non_finite(self, reward: Reward, sample: int, batch: Batch) -> None:
        for value in [reward.value, *(reward.values or [])]:
            if value is not None and not math.isfinite(value):
                raise Refusal(
                    f"component {self.name!r} gave {value} for sample {sample} of the batch: {batch.texts[sample][:60]!r}",
                    f"give None where {self.use} cannot score, or look at the sample's inputs (scores, references)",
                )


def names() -> list[str]:
    """The components that stand as files in this folder.

    >>> {"similarity", "language"} <= set(names()) and "text" not in names()
    True
    """
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if not name.startswith("_") and name not in SHARED)


def component(spec: Mapping[str, Any], name: str | None = None) -> Component:
    """The component that a recipe's entry describes: {"use": "similarity", "metric": "chrf"}.

    `name` is the recipe's label (default: `use`). `scorer` beside `use` picks the scorer of a component that reads
    scores, `by` who replies to its questions, `method` the kind of teacher's answer it compares with (translate, say); they
    are no settings, since those slices and models are in the key of the rewards. `span` is answer or whole: whether it sees a
    reasoning model's thought. Raises Refusal for an unknown component
    or setting (with the nearest name), a wrong type, a missing file, module or function.
    """
    settings = dict(spec) if isinstance(spec, Mapping) else {}
    use = settings.pop("use", None)
    if not isinstance(use, str):
        raise Refusal(
            f"component {name or spec!r} does not say what it uses", f"add `use:`, one of {', '.join(names())}"
        )
    span = settings.pop("span", "whole" if use == "format" and settings.get("kind", "tags") == "tags" else "answer")
    if span not in SPANS:
        raise Refusal(f"component {name or use!r}: span is {span!r}; {nearest(str(span), SPANS)}", "correct `span:`")
    if ":" in use:
        return _own_function(name or use, use, settings, span == "whole")
    if use not in names():
        where = f"component {name!r}: " if name and name != use else ""
        raise Refusal(
            f"{where}no component is called {use!r}; {nearest(use, names())}",
            f"correct `use:`, or write factory/rewards/{use}.py; an own function is path.to:function",
        )
    return _file(name or use, use, settings, span == "whole")


def _file(name: str, use: str, given: dict[str, Any], whole: bool) -> Component:
    from factory.rewards._settings import identify, read

    module = importlib.import_module(f"{__name__}.{use}")
    scorer = given.pop("scorer", None) if module.NEEDS & {"scores", "reply_scores"} else None
    by = (given.pop("by", None) or module.BY) if "replies" in module.NEEDS else None
    method = given.pop("method", None) if "answers" in module.NEEDS else None
    settings = read(module.Settings, given, f"component {name!r} ({use})")
    return Component(
        name=name,
        use=use,
        settings=settings,
        needs=module.needs(settings) if hasattr(module, "needs") else module.NEEDS,
        scorer=scorer,
        by=by,
        method=method,
        whole=whole,
        identity_of=lambda: {"use": use, "version": module.VERSION, "settings": identify(settings)},
        function=lambda batch: module.score(batch, settings),
        questions=(lambda batch: module.questions(batch, settings)) if by else None,
    )


def _own_function(name: str, use: str, given: dict[str, Any], whole: bool) -> Component:
    from factory.rewards import _own

    scorer = given.pop("scorer", None)
    function = _own.load(name, use, given)
    return Component(
        name=name,
        use=use,
        settings=given,
        needs=_own.needs(function),
        scorer=scorer,
        by=None,
        method=None,
        whole=whole,
        identity_of=lambda: {"use": use, "sha256": _own.source_digest(use), "settings": given},
        function=lambda batch: _own.score(name, function, given, batch),
    )
