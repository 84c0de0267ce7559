"""Endpoints that answer for models over HTTP, what they charge, and what a recipe may spend. Reads and writes nothing.

The key itself is never a setting: settings are written to disk and into messages, so they name the variable that holds it.
Refuses addresses with credentials in them, and numbers out of range."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from data.refusal import Refusal, in_range, is_address, nearest

if TYPE_CHECKING:
    from data.config import ModelSettings
    from factory.config import FactoryRecipe


@dataclass(frozen=True)
class Price:
    """What a model costs, in USD per million tokens."""

    input: float = MISSING
    """USD per million tokens of prompts."""
    output: float = MISSING
    """USD per million tokens of answers."""

    def __post_init__(self) -> None:
        for name in ("input", "output"):
            if isinstance(value := getattr(self, name), int | float):
                in_range(f"endpoints.NAME.prices.MODEL.{name}", value, 0)

    def of(self, prompt_tokens: int, answer_tokens: int) -> float:
        """USD of one answer.

        >>> Price(30, 60).of(1000, 500)
        0.06
        """
        return (prompt_tokens * self.input + answer_tokens * self.output) / 1e6


@dataclass(frozen=True)
class Endpoint:
    """A server that speaks OpenAI's chat completions. Nothing here changes an answer, so none of it is in a key."""

    base_url: str = MISSING
    """Address up to the version, e.g. https://api.openai.com/v1."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key, never the key; null: the server wants none."""
    concurrency: int = 8
    """Requests in flight at once; as many are asked again after a kill, at most."""
    requests_per_minute: float | None = None
    """Most requests in any minute; null: no limit but the server's own (429 with Retry-After is honoured)."""
    tokens_per_minute: float | None = None
    """Most tokens in any minute, prompts and longest answers counted ahead; null: no limit of ours."""
    timeout: float = 120.0
    """Seconds after which one attempt is given up."""
    attempts: int = 6
    """Attempts at one answer; waits grow and are drawn at random, unless the server names them."""
    prices: dict[str, Price] = field(default_factory=dict)
    """Model → {input: USD, output: USD} per million tokens, as of your bill; a budget in money refuses models that have none."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Model → the name that the server answers under, where that is no dated form of it (a deployment's name)."""
    logprobs: bool = False
    """Whether to ask for log-probabilities of the answers' tokens; some servers refuse to give them."""
    seeds: bool = True
    """Whether requests name a seed; some servers refuse the field."""
    limit_field: str = "max_tokens"
    """How the server calls the longest answer: max_tokens, or max_completion_tokens (OpenAI's reasoning models)."""

    def __post_init__(self) -> None:
        if re.search(r"//[^/]*@", self.base_url):
            raise Refusal(
                "an endpoint's base_url holds credentials, and settings are written to disk",
                "name a variable with the key: factory.endpoints.NAME.api_key_env=VARIABLE",
            )
        if self.base_url != MISSING and not is_address(self.base_url):
            raise Refusal(
                f"endpoints.NAME.base_url {self.base_url!r} is no http address",
                "base_url: https://HOST/v1 in the recipe",
            )
        if self.api_key_env is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.api_key_env):
            raise Refusal(  # it may be the key itself: not repeated here
                "endpoints.NAME.api_key_env is no variable's name; the key itself must not stand in settings",
                "export MY_KEY=…, then factory.endpoints.NAME.api_key_env=MY_KEY",
            )
        in_range("endpoints.NAME.concurrency", self.concurrency, 1)
        in_range("endpoints.NAME.requests_per_minute", self.requests_per_minute, 2)
        in_range("endpoints.NAME.tokens_per_minute", self.tokens_per_minute, 2)
        in_range("endpoints.NAME.timeout", self.timeout, 0.1)
        in_range("endpoints.NAME.attempts", self.attempts, 1)

    def key(self) -> str | None:
        """The key out of the environment; None where the server wants none. Refuses a variable that is not set."""
        if self.api_key_env is None:
            return None
        if not (value := os.environ.get(self.api_key_env, "").strip()):
            raise Refusal(
                f"the variable {self.api_key_env} is not set, and {self.base_url} wants a key",
                f"export {self.api_key_env}=…",
            )
        return value


@dataclass(frozen=True)
class Limit:
    """The most that a recipe's answers over APIs may cost, all calls together; None is no limit."""

    money: float | None = None
    """USD."""
    tokens: int | None = None
    """Tokens billed, of prompts and answers."""

    @classmethod
    def read(cls, budget: Any) -> Limit:
        """The limit that `budget=` says: a number of USD, or a mapping of money and tokens.

        >>> Limit.read(20), Limit.read({"tokens": 1e6})
        (Limit(money=20.0, tokens=None), Limit(money=None, tokens=1000000))
        """
        given = budget if isinstance(budget, Mapping) else {"money": budget}
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in given.values() if v is not None)
        if not set(given) <= {"money", "tokens"} or not numbers:
            raise Refusal(f"budget={budget} is neither USD nor {{money: USD, tokens: N}}", "budget=20")
        for name, value in given.items():
            in_range(f"budget.{name}", value, 0)
        money, tokens = given.get("money"), given.get("tokens")
        return cls(None if money is None else float(money), None if tokens is None else int(tokens))


def check_endpoints(recipe: FactoryRecipe) -> None:
    """Refuse when a recipe is composed what an endpoint cannot give: token scores, samples, and answers of unknown price."""
    for role, model in _local(recipe).items():
        if model.endpoint is not None:
            raise Refusal(
                f"{role}.endpoint={model.endpoint}: an endpoint answers conversations; {role} needs its own weights here",
                f"{role}.endpoint=null",
            )
    if recipe.factory.engine.name == "api":
        raise Refusal(
            "engine api runs no model: an endpoint answers for one of them",
            "teacher.endpoint=NAME factory.endpoints.NAME.base_url=URL",
        )
    if recipe.teacher is None or recipe.teacher.endpoint is None:
        return
    name, stages = recipe.teacher.endpoint, recipe.factory.stages
    if name not in recipe.factory.endpoints:
        raise Refusal(
            f"teacher.endpoint={name}: {nearest(name, recipe.factory.endpoints or ['none yet'])}",
            f"endpoint={name} where conf/endpoint has it, or factory.endpoints.{name}.base_url=URL",
        )
    for what, without in _wants_scores(recipe):
        raise Refusal(
            f"{what} wants token scores of teacher {recipe.teacher.path}, and the endpoint {name} gives none", without
        )
    if {"answers", "teacher_check"} & set(stages) and not recipe.factory.estimate:
        check_bill(recipe.factory.endpoints[name], name, recipe.teacher.path, Limit.read(recipe.factory.budget))


def _local(recipe: FactoryRecipe) -> dict[str, ModelSettings]:
    return {"student": recipe.student} | {f"scorers.{name}": model for name, model in recipe.scorers.items()}


def _wants_scores(recipe: FactoryRecipe) -> Iterator[tuple[str, str]]:
    """What of the recipe reads the teacher's distributions, and how to do without it."""
    from factory.rewards import component

    stages = recipe.factory.stages
    if "samples" in stages and recipe.sampling.alpha:
        yield "sampling.alpha", "sampling.alpha=0"
    if "soft_targets" in stages:
        yield "stage soft_targets", "leave soft_targets out of stages"
    if "evaluate" in stages and "teacher" in recipe.factory.policies:
        yield "stage evaluate", "factory.policies=[student]"
    for label, spec in recipe.components.items() if {"rewards", "selections"} & set(stages) else ():
        if {"scores", "reply_scores"} & component(spec, label).needs and (spec.get("scorer") or "teacher") == "teacher":
            yield f"component {label}", f"components.{label}=null, and leave it out of reward"


def check_bill(endpoint: Endpoint, name: str, model: str, limit: Limit) -> None:
    """Refuse an endpoint whose key is not set, and a limit in money where nobody has said what the model costs."""
    endpoint.key()
    if limit.money is not None and model not in endpoint.prices:
        raise Refusal(
            f"budget={limit.money:g} USD, but what {model} costs at endpoint {name} is not known",
            f"factory.endpoints.{name}.prices in the recipe: {{{model}: {{input: USD, output: USD}}}}, per million tokens",
        )
