"""A user's own reward function, `path.to:function`, with TRL's signature.

fn(prompts, completions, **columns) -> list[float | None]. As in TRL's conversational case, `prompts` are message lists
and each completion is [{"role": "assistant", "content": text}]. Columns come by name: references, answers, languages,
n_tokens and the batch's other lists to a parameter of that name; the prompts' further columns to parameters of their
name, or all of them to **kwargs. Settings of the recipe are passed as keyword arguments. TRL's completion_ids,
trainer_state and log_extra exist only while a model trains: a function that requires one is refused, one that gives it
a default runs. The function is trusted code. What it raises is one refusal with the sample and the line; --debug shows the
traceback."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from data.refusal import Refusal, nearest
from factory.rewards import Batch, Reward

SCORES = frozenset({"scorer_logprobs", "scorer_totals", "n_scorer_tokens"})
AGAIN = "the same command with --debug shows the whole traceback"
LISTS = frozenset(f.name for f in fields(Batch)) - {"texts", "columns", "prompts", "replies"}


def load(name: str, use: str, given: Mapping[str, Any]) -> Callable[..., Any]:
    """The function behind `path.to:function`. Raises Refusal where module, function or a setting does not exist."""
    module_name, _, attribute = use.partition(":")
    where = f"component {name!r}"
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, SyntaxError) as error:
        raise Refusal(f"{where}: cannot import {module_name!r}: {error}", "correct `use: path.to:function`") from error
    except Exception as error:  # the module's own code
        raise Refusal(f"{where}: importing {module_name!r} raised {_told(error, module_name)}", AGAIN) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = nearest(attribute, functions) if functions else "it has none"
        raise Refusal(
            f"{where}: {module_name} has no function {attribute!r}; {near}", "correct `use: path.to:function`"
        )
    parameters = inspect.signature(function).parameters
    for setting in given:
        if setting not in parameters and not _takes_any(function):
            near = nearest(setting, parameters)
            raise Refusal(f"{where}: {use} has no parameter {setting!r}; {near}", f"rename or remove `{setting}`")
    return function


def _takes_any(function: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def needs(function: Callable[..., Any]) -> frozenset[str]:
    """Lists of the batch that its signature names; the three of a scorer count as "scores"."""
    named = LISTS & inspect.signature(function).parameters.keys()
    return (named - SCORES) | ({"scores"} if named & SCORES else set())


def source_digest(use: str) -> str:
    """sha256 of the named module's source, and of the function's own module where that is another one.

    The whole file, since a function rarely stands alone; what it imports from elsewhere is not seen."""
    module_name, _, attribute = use.partition(":")
    module = importlib.import_module(module_name)
    home = inspect.getmodule(inspect.unwrap(getattr(module, attribute)))
    modules = [module, *([home] if home not in (None, module) else [])]
    files = [inspect.getsourcefile(m) for m in modules if m is not None and hasattr(m, "__file__")]
    return hashlib.sha256(b"\0".join(Path(file).read_bytes() for file in files if file)).hexdigest()


def score(name: str, function: Callable[..., Any], given: Mapping[str, Any], batch: Batch) -> list[Reward]:
    """Calls the function once for the batch; None becomes a missing reward. Raises Refusal for what is no number or raises."""
    try:
        numbers = _call(name, function, given, batch)
    except Refusal:
        raise
    except Exception as error:  # the user's own code may raise anything
        where = _culprit(name, function, given, batch)
        sample = (
            f"a batch of {len(batch.texts)} samples"
            if where is None
            else f"sample {where}: {batch.texts[where][:60]!r}"
        )
        module = getattr(function, "__module__", "")
        called = f"{module}:{getattr(function, '__qualname__', type(function).__name__)}"
        raise Refusal(f"component {name!r}: {called} raised {_told(error, module)}, for {sample}", AGAIN) from error
    if not isinstance(numbers, Iterable) or isinstance(numbers, str | Mapping):
        raise Refusal(
            f"component {name!r} gave {type(numbers).__name__}, no list of numbers", "return one float or None a sample"
        )
    return [_reward(name, sample, number) for sample, number in enumerate(numbers)]


def _call(name: str, function: Callable[..., Any], given: Mapping[str, Any], batch: Batch) -> Any:
    completions = [[{"role": "assistant", "content": text}] for text in batch.texts]
    arguments = {"prompts": batch.prompts, "completions": completions} | _columns(name, function, given, batch)
    accepted = inspect.signature(function).parameters
    result = function(**{k: v for k, v in arguments.items() if k in accepted or _takes_any(function)})
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def _culprit(name: str, function: Callable[..., Any], given: Mapping[str, Any], batch: Batch) -> int | None:
    """The first sample for which the function raises alone too; None where there is none, or where a call may cost money."""
    if inspect.iscoroutinefunction(function):
        return None
    for sample in range(len(batch.texts)):
        try:
            _call(name, function, given, batch.at([sample]))
        except Exception:  # the user's own code may raise anything
            return sample
    return None


def _told(error: BaseException, module_name: str) -> str:
    """Type, text and place of an exception: the last line within the user's module, or the line where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    source = getattr(sys.modules.get(module_name), "__file__", None)
    places = [frame for frame in frames if frame.filename == source] or frames[-1:]
    at = f" at {places[-1].filename}:{places[-1].lineno}" if places else ""
    text = str(error)
    return f"{type(error).__name__}{f': {text}' if text else ''}{at}"


def _columns(name: str, function: Callable[..., Any], given: Mapping[str, Any], batch: Batch) -> dict[str, Any]:
    available = {key: getattr(batch, key) for key in LISTS} | batch.columns
    chosen: dict[str, Any] = dict(batch.columns) if _takes_any(function) else {}
    for key, parameter in inspect.signature(function).parameters.items():
        if key in available:
            chosen[key] = available[key]
        elif _required(parameter) and key not in {"prompts", "completions"} | given.keys():
            raise Refusal(
                f"component {name!r}: its function asks for {key!r}, which no column holds; {nearest(key, available)}",
                f"give `{key}` a default, or map a prompt column to it in the recipe",
            )
    return chosen | dict(given)


def _required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_KEYWORD,
        parameter.VAR_POSITIONAL,
    )


def _reward(name: str, sample: int, number: Any) -> Reward:
    if number is None:
        return Reward.missing("the function gave None")
    wrong = Refusal(
        f"component {name!r} gave {number!r} for sample {sample}, which is no number",
        "return a float or None for each sample",
    )
    if isinstance(number, str):
        raise wrong
    try:
        return Reward(float(number))
    except (TypeError, ValueError) as error:
        raise wrong from error
