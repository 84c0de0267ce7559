"""`estimate=true`: tokens, floating-point operations, GPU-hours and disk of a recipe, for the factory and the trainer.

Reads the prompts' source, tokenizers and configurations; loads no weights and writes nothing. Lengths are the recipe's
limits, so each figure is "at most". A token costs 2 operations a parameter forward, 6 with backward (Kaplan et al. 2020, arXiv
2001.08361, §2.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from data.config import ModelSettings
from data.fingerprint import policy_model
from data.refusal import Refusal
from data.scorers import scorer_model
from factory.benchmarks import Sizes
from factory.config import FactoryRecipe
from factory.engines.tokens import Tokens
from factory.estimate_asked import asked
from factory.estimate_evaluated import evaluated
from factory.sizes import PARAMETERS
from factory.stages.scores import scorers

SAMPLE = 500  # prompts whose length is measured
STREAM_BYTES = (
    2.4  # bytes a token of one log-probability stream on disk (measured: float32 at 15 bits, byte-stream split, zstd)
)
TOKEN_BYTES = 4.0  # bytes a token of ids and text on disk
SOFT_BYTES = 7.0  # bytes an id of a soft target on disk: the id, its count, its log-probability
DISTINCT = 25  # distinct ids among the draws of a token, about (12 to 25 were seen)
REPLAY = {
    "prompts": 16,
    "answers": 32,
    "corpus_tokens": 512,
}  # what the trainer replays in a step where the recipe is silent
PROBE = 256  # prompts of a probe, likewise
# stages whose tables a training reads: without one of them nothing is trained for the first time
TRAINED = {"import", "answers", "translate", "rephrase", "samples", "scores", "soft_targets", "rewards", "corpus"}
METADATA = ("*.json", "*.model", "*.txt", "*.jinja")
CHARACTERS, TURN = 2, 10  # of a model that is not here: characters a token, tokens of its chat template


@dataclass(frozen=True)
class Line:
    """One piece of work: tokens read, tokens written or scored, passes over the parameters, bytes left on disk."""

    name: str
    model: str
    parameters: int
    tokens_in: float
    tokens_out: float
    passes: int = 1
    disk: float = 0.0
    bill: str = ""
    """What an endpoint's answers cost, as a sentence; empty where nobody is paid."""

    @property
    def operations(self) -> float:
        """Floating-point operations; three passes where gradients are taken."""
        return 2.0 * self.passes * self.parameters * (self.tokens_in + self.tokens_out)


def estimate(recipe: FactoryRecipe) -> None:
    """Print the estimate of every stage in the recipe, and of its training."""
    print(text(recipe))


def text(recipe: FactoryRecipe) -> str:
    """The estimate as a table."""
    from factory.stages.prompts import read_prompts

    rows = [prompt for prompt, first in read_prompts(recipe) if first]
    train = [row for row in rows if row["split"] == "train"]
    if not train:
        raise Refusal(f"{recipe.prompts.path} has no train prompts", "prompts.held_out=0.1")
    length = _mean_length(policy_model(recipe), recipe, train)
    apart = any(row.get("teacher_messages") for row in rows)
    lines = list(_factory(recipe, len(train), length, len(rows) - len(train), apart=apart))
    if TRAINED & set(recipe.factory.stages):
        lines += _trainer(recipe, len(train), length, len(rows) - len(train))
    flops = recipe.factory.engine.flops
    guessed = "" if _here(policy_model(recipe)) else f", at {CHARACTERS} characters a token and {TURN} around them"
    head = (
        f"recipe {recipe.name}: {len(train):,} train prompts of {length:.1f} tokens{guessed},"
        f" {len(rows) - len(train):,} held out"
    )
    table = [
        f"{'work':<22}{'model':<28}{'parameters':>14}{'tokens in':>14}{'tokens out':>14}{'GPU-hours':>12}{'disk':>10}"
    ]
    table += [_shown(line, flops) for line in lines]
    hours = sum(line.operations for line in lines) / flops / 3600
    disk = sum(line.disk for line in lines)
    table.append(f"{'all':<92}{_hours(hours):>12}{_size(disk):>10}")
    bills = "; ".join(line.bill for line in lines if line.bill) or "No API is billed"
    notes = (
        f"At most: every sample as long as it may be. GPU-hours assume {flops / 1e12:,.0f} TFLOP/s sustained (engine.flops);"
        f" drawing tokens one by one is bound by memory and takes several times as long. {bills}. Nothing was written."
    )
    return "\n".join([head, *table, notes])


def _factory(
    recipe: FactoryRecipe, prompts: int, length: float, held_out: int = 0, *, apart: bool = False
) -> Iterator[Line]:
    """Every stage of the recipe. `apart`: whether the teacher is shown other messages than the student."""
    stages, policy, n = recipe.factory.stages, policy_model(recipe), recipe.sampling.n
    drawn = prompts * n * recipe.sampling.max_tokens
    imported = {source.kind for source in recipe.factory.imports.values()}
    if recipe.teacher and "answers" in stages and "answers" not in imported:
        told = prompts * recipe.answers.n * recipe.answers.max_tokens
        disk = told * (STREAM_BYTES + 2 * TOKEN_BYTES)
        if recipe.teacher.endpoint is None:
            yield _line("answers", recipe.teacher, recipe, prompts * length, told, disk=disk)
        else:
            yield _billed(recipe, recipe.teacher, prompts * recipe.answers.n * length, told, disk)
    for item in asked(recipe, prompts, length, held_out):
        disk = item.tokens_out * 2 * TOKEN_BYTES if item.kept else 0.0
        if item.model.endpoint is None:
            yield _line(item.name, item.model, recipe, item.tokens_in, item.tokens_out, disk=disk)
        else:
            yield replace(_billed(recipe, item.model, item.tokens_in, item.tokens_out, disk), name=item.name)
    if "samples" in stages and "samples" not in imported:
        yield _line("samples", policy, recipe, prompts * length, drawn, disk=drawn * (STREAM_BYTES + TOKEN_BYTES))
        if recipe.teacher and recipe.sampling.alpha:
            yield _line("samples (teacher)", recipe.teacher, recipe, prompts * length, drawn)
    if "scores" in stages:
        for name, model in _scoring(recipe, apart):
            yield _line(f"scores ({name})", model, recipe, prompts * length, drawn, disk=drawn * STREAM_BYTES)
    if "evaluate" in stages:
        for name, model, plan in evaluated(recipe, Sizes(prompts, held_out, length, _counter(policy, recipe.runs))):
            yield _line(f"evaluate ({name})", model, recipe, plan.tokens_in, plan.tokens_out)
    if recipe.teacher and "soft_targets" in stages:
        soft = recipe.factory.soft_targets
        tokens = drawn if soft.of == "samples" else prompts * recipe.answers.n * recipe.answers.max_tokens
        kept = min(soft.draws, DISTINCT) if soft.kind == "sampled" else soft.k
        disk = tokens * kept * SOFT_BYTES
        yield _line("soft targets", recipe.teacher, recipe, prompts * length, tokens, disk=disk)
        if soft.kind == "student_m":
            yield _line("soft targets (policy)", policy, recipe, prompts * length, tokens)


def _scoring(recipe: FactoryRecipe, apart: bool) -> Iterator[tuple[str, ModelSettings]]:
    """Who scores the pool: roles of one model at one temperature on one prompt share a slice, and only the first is named."""
    apart = apart or (recipe.translate is not None and recipe.translate.prompts)
    seen = set()
    for name in scorers(recipe):
        model = policy_model(recipe) if name == "policy" else scorer_model(recipe, name)
        other = name == "teacher" or (name in recipe.scorers and recipe.scorers[name].shown == "teacher_messages")
        reading = (model, recipe.sampling.temperature if name == "policy" else 1.0, apart and other)
        if model is not None and reading not in seen:
            seen.add(reading)
            yield name, model


def _counter(model: ModelSettings, runs: str) -> Callable[[str], int]:
    """Tokens of a text by a model's tokenizer, which is opened when first asked."""
    if not _here(model):
        return lambda text: math.ceil(len(text) / CHARACTERS)
    return lambda text: len(_tokens(model, runs).tokenizer(text).input_ids)


def _billed(recipe: FactoryRecipe, teacher: ModelSettings, tokens_in: float, told: float, disk: float) -> Line:
    """Answers over an endpoint: no operations here, and a prompt is billed with each of its answers."""
    price = recipe.factory.endpoints[str(teacher.endpoint)].prices.get(teacher.path)
    costs = f"${price.of(round(tokens_in), round(told)):,.2f}" if price else "an unknown sum (no price is set)"
    bill = f"{teacher.path} bills at most about {costs}, prompts counted in the student's tokens"
    return Line("answers (endpoint)", teacher.path, 0, tokens_in, told, disk=disk, bill=bill)


def _trainer(recipe: FactoryRecipe, prompts: int, length: float, held_out: int | None = None) -> Iterator[Line]:
    """One training run of the recipe's `trainer` section, or one pass over the pool where it says nothing; then its probes."""
    section: Mapping[str, Any] = recipe.trainer if isinstance(recipe.trainer, Mapping) else {}
    groups = _replay(recipe, section)["prompts"]
    steps = section.get("steps", max(prompts // groups, 1))
    per_step = _step_tokens(recipe, section, length)
    yield _line(f"training, {steps} steps", policy_model(recipe), recipe, steps * per_step, 0, passes=3)
    probe = dict(section.get("probe") or {})
    if every := probe.get("every"):
        there = prompts if probe.get("split") == "train" else held_out
        asked_now = probe.get("prompts", PROBE)
        probed = (steps // every) * (asked_now if there is None else min(asked_now, there))
        longest = probe.get("max_tokens") or recipe.sampling.max_tokens
        # greedy answers; sampled ones where they or the KL are asked for; the KL has those scored by the initial weights
        kl = bool(probe.get("kl"))
        passes = 1 + int(kl or bool(probe.get("sampled"))) + int(kl)
        yield _line("probes", policy_model(recipe), recipe, probed * length, probed * longest, passes=passes)


def _replay(recipe: FactoryRecipe, section: Mapping[str, Any]) -> dict[str, int]:
    """What a step replays: the section's numbers, else the trainer's own where the recipe makes such texts."""
    answered = recipe.teacher is not None or any(i.kind == "answers" for i in recipe.factory.imports.values())
    has = {"prompts": True, "answers": answered, "corpus_tokens": bool(recipe.factory.corpus)}
    return {name: REPLAY[name] if has[name] else 0 for name in REPLAY} | dict(section.get("replay") or {})


def _step_tokens(recipe: FactoryRecipe, section: Mapping[str, Any], length: float) -> float:
    """Tokens read in one step, by the terms of the loss that ever have a weight."""
    replay, losses = _replay(recipe, section), dict(section.get("losses") or {})
    weights = [{"rl": 1, "bc": 1, "pt": 1, "soft": 0} | losses, *(losses.get("phases") or [])]
    answers = replay["answers"] * (length + recipe.answers.max_tokens)
    read = {
        "rl": replay["prompts"] * (length + recipe.sampling.n * recipe.sampling.max_tokens),
        "bc": answers,
        "pt": replay["corpus_tokens"],
        "soft": answers,
    }
    return sum(tokens for term, tokens in read.items() if any(w.get(term) for w in weights))


def _line(
    name: str,
    model: ModelSettings,
    recipe: FactoryRecipe,
    tokens_in: float,
    tokens_out: float,
    passes: int = 1,
    disk: float = 0.0,
) -> Line:
    shown = model.path.rstrip("/").rpartition("/")[2]
    return Line(name, shown, parameters(model, recipe.runs), tokens_in, tokens_out, passes, disk)


@cache
def parameters(model: ModelSettings, runs: str) -> int:
    """The model's parameters, counted on a model without memory; as factory.sizes says where only the hub has its configuration."""
    if not _here(model):
        return PARAMETERS[model.path]
    import torch
    from transformers import AutoModelForCausalLM

    config = _tokens(model, runs).config
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    return sum(p.numel() for p in shell.parameters())


@cache
def _tokens(model: ModelSettings, runs: str) -> Tokens:
    return Tokens.open(model, _folder(model, runs))


@cache
def _here(model: ModelSettings) -> bool:
    """Whether configuration and tokenizer can be read. For a hub model whose size is known no network is asked."""
    if model.path not in PARAMETERS or not _on_hub(model):
        return True
    import huggingface_hub

    files = ("config.json", "tokenizer_config.json")
    return all(
        isinstance(huggingface_hub.try_to_load_from_cache(model.path, name, revision=model.revision), str)
        for name in files
    )


def _on_hub(model: ModelSettings) -> bool:
    return not (model.path.startswith("run:") or Path(model.path).is_dir() or model.path.count("/") != 1)


def _folder(model: ModelSettings, runs: str) -> Path:
    """The model's folder; of a hub model only configuration and tokenizer are fetched."""
    from data.fingerprint import model_folder

    if not _on_hub(model):
        return model_folder(model, runs)
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(model.path, revision=model.revision, allow_patterns=list(METADATA))
        )
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise Refusal(
            f"the configuration of {model.path} is not here and not to be had from the hub ({str(error).strip().splitlines()[0]})",
            "give a folder with config.json and a tokenizer in place of the hub id; no weights are needed for an estimate",
        ) from error


def _mean_length(model: ModelSettings, recipe: FactoryRecipe, rows: list[dict[str, Any]]) -> float:
    some = rows[:: max(len(rows) // SAMPLE, 1)]
    if not _here(model):
        return TURN + sum(len(m["content"]) for row in some for m in row["messages"]) / len(some) / CHARACTERS
    tokens = _tokens(model, recipe.runs)
    return sum(len(tokens.prompt_ids(row["messages"])) for row in some) / len(some)


def _shown(line: Line, flops: float) -> str:
    hours = _hours(line.operations / flops / 3600)
    return (
        f"{line.name:<22}{line.model[:26]:<28}{line.parameters:>14,}{line.tokens_in:>14,.0f}{line.tokens_out:>14,.0f}"
        f"{hours:>12}{_size(line.disk):>10}"
    )


def _hours(hours: float) -> str:
    return f"{hours:,.2f}" if hours >= 0.01 else "< 0.01"


def _size(size: float) -> str:
    """Bytes in the largest unit that leaves a number above 1.

    >>> _size(2_500_000)
    '2.5 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.1f} {unit}" if unit != "B" else f"{size:.0f} B"
        size /= 1000
    return f"{size:.1f} TB"
