"""How much of a stage's time is the model's, and what sampling and scoring cost: `factory_working.py shares|scoring|sampling`.

In a process of its own, with random models of SmolLM2-135M's shape. Prints one line of JSON. Seconds are [wall, CPU]."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from factory_models import write_model
from figures import interleaved

GROUP = 16
SCORED = {"prompt": 512, "completion": 16}
SAMPLED = {"prompts": (64, 128), "tokens": 32, "repetitions": 3}
SHARED = {"prompts": 8, "words": 40, "tokens": 32}


def main(kind: str) -> None:
    """Measure one kind."""
    measures = {"shares": shares, "scoring": scoring, "sampling": sampling}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        found = measures[kind](Path(folder))
    print(json.dumps(found))


def scoring(folder: Path) -> dict[str, Any]:
    """A group in one request beside the same samples in a request each, both in one call of the engine."""
    from factory.engines import ScoreRequest

    engine, (prompt,) = opened(folder), drawn((SCORED["prompt"],))
    completions = drawn((SCORED["completion"],) * GROUP, seed=1)
    requests = {"group": [ScoreRequest(0, prompt, completions)]}
    requests["single"] = [ScoreRequest(i, prompt, [own]) for i, own in enumerate(completions)]
    found: dict[str, Any] = {}

    def score(name: str) -> None:
        scored = sorted(engine.score(requests[name]), key=lambda s: s.group_id)
        found[name] = torch.tensor([own for one in scored for own in one.logprobs])

    times = interleaved({name: lambda name=name: score(name) for name in requests})
    return times | {"apart": (found["group"] - found["single"]).abs().max().item()}


def sampling(folder: Path) -> dict[str, Any]:
    """The engine beside `model.generate` on the same batch, without and with the prompts' repetition by hand."""
    from factory.engines import GroupRequest, TokenSampling

    engine, prompts = opened(folder), drawn(SAMPLED["prompts"])
    bare = opened(folder).policy.model
    bare.set_attn_implementation("sdpa")
    drawing = TokenSampling(temperature=0.7, max_tokens=SAMPLED["tokens"])
    requests = [GroupRequest(i, own, range(i * GROUP, (i + 1) * GROUP), drawing) for i, own in enumerate(prompts)]
    width = max(map(len, prompts))
    ids_bt = torch.tensor([[2] * (width - len(own)) + own for own in prompts])
    mask_bt = torch.tensor([[0] * (width - len(own)) + [1] * len(own) for own in prompts])
    lengths: dict[str, set[int]] = {}

    def ours() -> None:
        lengths["ours"] = {len(d.token_ids) for group in engine.generate(requests) for d in group.samples}

    @torch.no_grad()
    def transformers() -> None:
        tokens = {"min_new_tokens": SAMPLED["tokens"], "max_new_tokens": SAMPLED["tokens"]}
        told = {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 1.0, "num_return_sequences": GROUP}
        found = bare.generate(input_ids=ids_bt, attention_mask=mask_bt, pad_token_id=2, **tokens, **told)
        lengths["transformers"] = {found.shape[1] - width}

    times = interleaved({"ours": ours, "transformers": transformers}, SAMPLED["repetitions"])
    if lengths["ours"] != lengths["transformers"]:
        raise RuntimeError(f"the two drew different numbers of tokens: {lengths}")
    return dict(times)


def opened(folder: Path) -> Any:
    """The engine on a random model."""
    from data.config import ModelSettings
    from factory.engines.hf import HfEngine
    from factory.engines.tokens import Tokens

    model = ModelSettings(path=write_model(folder), initial="random")
    tokens = Tokens.open(model, folder)
    return HfEngine(folder, model, {}, tokens, batch_tokens=16384, device="cpu", seed=0)


def drawn(lengths: tuple[int, ...], seed: int = 0) -> list[list[int]]:
    """Random ids, none of them special."""
    source = torch.Generator().manual_seed(seed)
    return [torch.randint(300, 49_152, (n,), generator=source).tolist() for n in lengths]


def shares(folder: Path) -> dict[str, Any]:
    """Seconds of each stage: all of it, loading models and tokenizers, the engine's calls, and in them the model's."""
    recipe, found = recipe_of(folder), {}
    with clocked() as clocks:
        for stage in ("prompts", "samples", "scores", "across", "rewards"):
            before = dict(clocks)
            began = time.perf_counter()
            run_stage(recipe, stage)
            found[stage] = {"wall": time.perf_counter() - began} | {k: v - before[k] for k, v in clocks.items()}
    return found


def recipe_of(folder: Path) -> Any:
    """A few prompts, a teacher of the student's tokenizer, a scorer of another one, three components."""
    from data.config import ModelSettings, PromptSource, Sampling, Scorer
    from factory.config import FactoryRecipe

    words = iter("".join("abcdefghijklmnopqrstuvwxyz"[i % 26] for i in own) for own in drawn((3, 4, 5) * 1000))
    rows = [
        {"prompt": " ".join(next(words) for _ in range(SHARED["words"])), "references": [next(words)], "language": "fo"}
        for _ in range(SHARED["prompts"])
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "words.txt").write_text("\n".join(row["prompt"] for row in rows))
    own, other = (write_model(folder / kind, kind) for kind in ("threes", "twos"))
    return FactoryRecipe(
        name="shares",
        lake=str(folder / "lake"),
        runs=str(folder / "runs"),
        student=ModelSettings(path=own, initial="random"),
        teacher=ModelSettings(
            path=own, initial="random", chat_template="{% for m in messages %}{{ m.content }}{% endfor %} : "
        ),
        scorers={"other": Scorer(path=other, initial="random")},
        prompts=PromptSource(path=str(folder / "prompts.jsonl")),
        sampling=Sampling(n=GROUP, max_tokens=SHARED["tokens"]),
        components={
            "similarity": {"use": "similarity", "metric": "chrf"},
            "language": {"use": "language", "method": "words", "file": str(folder / "words.txt")},
            "length": {"use": "length", "unit": "tokens"},
        },
        reward="similarity + language - 0.01*length",
    )


def run_stage(recipe: Any, stage: str) -> None:
    """One stage as the command runs it. `scores` asks teacher and policy; `across` then asks the other tokenizer's model alone."""
    import dataclasses

    from factory.stages import run

    if stage == "scores":
        recipe = dataclasses.replace(recipe, scorers={})
    named = dataclasses.replace(recipe.factory, stages=["scores" if stage == "across" else stage])
    run(dataclasses.replace(recipe, factory=named))


class Clocks(dict[str, float]):
    """Seconds by name, and which clocks run. The model's runs within the engine's only: loading asks the model too."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(("loading", "engine", "model"), 0.0))
        self.running: set[str] = set()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with its seconds added to a clock; a call within a call counts once."""

        @functools.wraps(function)
        def call(*given: Any, **named: Any) -> Any:
            if name in self.running or (name == "model" and "engine" not in self.running):
                return function(*given, **named)
            self.running.add(name)
            began = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                self[name] += time.perf_counter() - began
                self.running.remove(name)

        return call

    def timed_rows(self, name: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """The same for a function that yields: what the caller does between two rows is not counted."""

        def rows(*given: Any, **named: Any) -> Iterator[Any]:
            following = self.timed(name, functools.partial(next, function(*given, **named), None))
            while (row := following()) is not None:
                yield row

        return rows


@contextlib.contextmanager
def clocked() -> Iterator[Clocks]:
    """Clocks for loading models and tokenizers, for the engine's calls, and for decoder and head within them."""
    from transformers.models.llama.modeling_llama import LlamaModel

    from factory.context import Context
    from factory.engines.hf import HfEngine
    from factory.engines.tokens import Tokens
    from trainer.forward import logprobs
    from trainer.forward.head import Head

    clocks = Clocks()
    put: list[tuple[Any, str, Any]] = [
        (Context, "_opened", clocks.timed("loading", Context._opened)),
        (Tokens, "open", staticmethod(clocks.timed("loading", Tokens.open))),
        (HfEngine, "generate", clocks.timed_rows("engine", HfEngine.generate)),
        (HfEngine, "score", clocks.timed_rows("engine", HfEngine.score)),
        (LlamaModel, "forward", clocks.timed("model", LlamaModel.forward)),
        (Head, "logits", clocks.timed("model", Head.logits)),
        (logprobs, "token_logprobs", clocks.timed("model", logprobs.token_logprobs)),
    ]
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in put]
    for owner, name, function in put:
        setattr(owner, name, function)
    try:
        yield clocks
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


if __name__ == "__main__":
    main(sys.argv[1])
