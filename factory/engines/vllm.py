"""The engine of vLLM: many samples at once, drawn and scored. The only module that imports vllm (in an environment of its own).

Reads a model folder. Every sampling field is passed, nothing comes from the model's generation configuration. Each sample is a
request with its own seed, so that a group can be topped up; the prefix cache shares the prompt as it would for vLLM's `n`. μ is the
log-probability of the processed distribution (temperature, penalty, cuts) that the token was drawn from. Refuses a temperature
that vLLM would change, texts beyond the length it was opened for, and the weights that `vllm_arguments` refuses."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.config import ModelSettings
from data.refusal import Refusal
from factory.config import VllmSettings
from factory.engines import (
    ENGINES,
    Answer,
    ChatRequest,
    Draw,
    Group,
    GroupRequest,
    Mixing,
    Scored,
    ScoreRequest,
    Soft,
    SoftRow,
    SoftSpec,
    TokenSampling,
)
from factory.engines.queue import Queue
from factory.engines.tokens import Tokens
from factory.engines.vllm_arguments import ENVIRONMENT, INSTEAD, arguments, refuse_other_weights

LONGEST = 2048  # positions, where neither the model (ALiBi) nor the settings name a limit
SEED_BITS = (1 << 63) - 1  # seeds are unsigned there and signed here


class VllmEngine:
    """One loaded model, with the device to itself. Results come as they finish; several threads may ask at once."""

    can = ENGINES["vllm"]

    def __init__(self, folder: Path, model: ModelSettings, row: dict[str, Any], tokens: Tokens, settings: VllmSettings):
        self.model, self.tokens, self.name = row, tokens, model.path
        self.longest = settings.max_model_len or tokens.context or LONGEST
        refuse_other_weights(folder, model)
        engine = _opened(arguments(folder, model, settings, self.longest), model.path)
        self._width = engine.model_config.get_vocab_size()
        self._queue = Queue(engine, 2 * settings.max_num_seqs)

    @property
    def device(self) -> str:
        """cpu, or the GPU's name."""
        from vllm.platforms import current_platform

        return str(current_platform.get_device_name())

    def __enter__(self) -> VllmEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the device."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self._queue.close()
        self._queue.engine.engine_core.shutdown()  # type: ignore[attr-defined]
        del self._queue
        cleanup_dist_env_and_memory()

    def generate(self, requests: Iterable[GroupRequest], mixing: Mixing | None = None) -> Iterator[Group]:
        """One `Group` a request, once all of its samples have ended."""
        if mixing is not None:
            raise Refusal("vLLM mixes no teacher into samples", INSTEAD)
        parts = ((r, [(r.prompt_ids, self._drawing(r, seed)) for seed in r.seeds]) for r in requests)
        for request, outputs in self._whole(parts):
            yield Group(request.group_id, request.first_index, [_draw(output.outputs[0]) for output in outputs])

    def answer(self, requests: Iterable[ChatRequest]) -> Iterator[Answer]:
        """Answers in text and ids, the conversation in this model's chat template."""
        read: dict[int, int] = {}

        def groups() -> Iterator[GroupRequest]:
            for request in requests:
                prompt = self.tokens.prompt_ids(request.messages)
                read[request.request_id] = len(prompt)
                yield GroupRequest(request.request_id, prompt, request.seeds, request.sampling)

        for group in self.generate(groups()):
            for candidate, draw in enumerate(group.samples):
                text = self.tokens.text(draw.token_ids).strip()
                told = (text, read[group.group_id], draw.token_ids, draw.logprobs, draw.finish_reason)
                yield Answer(group.group_id, candidate, *told)

    def score(self, requests: Iterable[ScoreRequest], temperature: float = 1.0) -> Iterator[Scored]:
        """log p of each completion token. Every completion is read behind its own copy of the prompt."""
        if temperature != 1:
            raise Refusal(f"vLLM scores at temperature 1, not {temperature}", "engine.scorer=hf")

        def logprobs(row: Any, position: int) -> float:
            return float(row.logprobs[row.start_indices[position]])

        for request, rows in self._read(requests, 0, logprobs):
            yield Scored(request.group_id, rows)

    def distribution(self, requests: Iterable[ScoreRequest], spec: SoftSpec) -> Iterator[Soft]:
        """The k most probable ids at every completion token, of the whole head: refused where one of them is no token."""
        import numpy as np

        k = min(spec.k, self._width)

        def top(row: Any, position: int) -> tuple[list[int], list[float]]:
            first = row.start_indices[position] + 1  # before it stands the token itself
            return row.token_ids[first : first + k], row.logprobs[first : first + k]

        for request, rows in self._read(requests, k, top):
            made = []
            for row in rows:
                ids, logprobs = (np.array([v for at in row for v in at[i]]) for i in (0, 1))
                if len(ids) and ids.max() >= spec.vocabulary:
                    raise Refusal(
                        f"model {self.name}: id {ids.max()} is among the {k} most probable, but its tokenizer has"
                        f" {spec.vocabulary} tokens: the head is padded, and its padding was never trained",
                        "engine.scorer=hf, which leaves the padding out",
                    )
                made.append(SoftRow(np.full(len(row), k), ids.astype(np.int64), logprobs.astype(np.float32)))
            yield Soft(request.group_id, made)

    def at(self, requests: Iterable[ScoreRequest], given: Mapping[int, Soft], vocabulary: int) -> Iterator[Soft]:
        """Refused: of a prompt's tokens vLLM tells the most probable, not ids that one names."""
        raise Refusal("vLLM gives no log-probabilities of given ids", "factory.engine.scorer=hf")

    def _read(
        self, requests: Iterable[ScoreRequest], k: int, value: Callable[[Any, int], Any]
    ) -> Iterator[tuple[ScoreRequest, list[list[Any]]]]:
        """Each request with a value for every completion token, from vLLM's flat record of prompt and completion."""
        parameters = _parameters(max_tokens=1, temperature=0.0, prompt_logprobs=k)

        def parts() -> Iterator[tuple[ScoreRequest, list[tuple[Sequence[int], Any]]]]:
            for request in requests:
                texts = [[*request.prompt_ids, *completion] for completion in request.completions if completion]
                self._refuse_longer(max(map(len, texts), default=0))
                yield request, [(text, parameters) for text in texts]

        for request, outputs in self._whole(parts()):
            left, start = iter(outputs), len(request.prompt_ids)
            rows = [next(left).prompt_logprobs if completion else None for completion in request.completions]
            lengths = [len(completion) for completion in request.completions]
            yield request, [[value(row, start + t) for t in range(n)] for row, n in zip(rows, lengths, strict=True)]

    def _whole(self, requests: Iterable[tuple[Any, list[tuple[Sequence[int], Any]]]]) -> Iterator[tuple[Any, list]]:
        """Each request with the outputs of its parts, in order, once they are all there."""
        from vllm.inputs import TokensPrompt

        waiting: dict[int, tuple[Any, list[Any], int]] = {}
        empty: list[Any] = []

        def single() -> Iterator[tuple[tuple[int, int], Any, Any]]:
            for number, (request, parts) in enumerate(requests):
                waiting[number] = (request, [None] * len(parts), len(parts))
                if not parts:
                    empty.append(waiting.pop(number)[0])
                for i, (ids, parameters) in enumerate(parts):
                    yield (number, i), TokensPrompt(prompt_token_ids=list(ids)), parameters

        with _refusals(self.name):
            for (number, i), output in self._queue.run(single()):
                request, outputs, missing = waiting.pop(number)
                outputs[i] = output
                if missing > 1:
                    waiting[number] = (request, outputs, missing - 1)
                else:
                    yield request, outputs
        yield from ((request, []) for request in empty)

    def _drawing(self, request: GroupRequest, seed: int) -> Any:
        sampling = request.sampling
        self._refuse_longer(len(request.prompt_ids) + sampling.max_tokens)
        if 0 < sampling.temperature < 0.01:
            raise Refusal(f"temperature {sampling.temperature}: vLLM would take .01 in its place", INSTEAD)
        return _drawing(sampling, seed)

    def _refuse_longer(self, tokens: int) -> None:
        if tokens > self.longest:
            raise Refusal(
                f"model {self.name}: a text may have {tokens} tokens, vLLM was opened for {self.longest}",
                "make engine.vllm.max_model_len larger, or null, or shorten prompts or max_tokens",
            )


def _parameters(**given: Any) -> Any:
    """vLLM's parameters of one request: ids in, ids and flat log-probabilities out, once it has ended."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    # ends are the request's own stop ids, which hold the model's: vLLM must add none
    fixed = {
        "detokenize": False,
        "flat_logprobs": True,
        "ignore_eos": True,
        "output_kind": RequestOutputKind.FINAL_ONLY,
    }
    return SamplingParams(**fixed, **given)


def _drawing(sampling: TokenSampling, seed: int) -> Any:
    return _parameters(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=0.0,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        max_tokens=sampling.max_tokens,
        min_tokens=0,
        stop_token_ids=list(sampling.stop_ids),
        seed=seed & SEED_BITS,
        logprobs=0,
    )


def _draw(output: Any) -> Draw:
    ids, flat = list(output.token_ids), output.logprobs
    if output.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended a sample with {output.finish_reason!r}")
    logprobs = [float(flat.logprobs[start]) for start in flat.start_indices]  # the drawn token stands first
    return Draw(ids, logprobs, output.finish_reason, ids[-1] if output.finish_reason == "stop" else None)


def _opened(given: dict[str, Any], name: str) -> Any:
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    try:
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine
    except ImportError as error:
        raise Refusal(
            f"vLLM cannot be imported here: {error}", "make vllm-env, then .venv-vllm/bin/python -m factory …"
        ) from error
    _leave_uncompiled_on_cpu()
    with _refusals(name):
        return LLMEngine.from_engine_args(EngineArgs(**given))


def _leave_uncompiled_on_cpu() -> None:
    """Eager means all of it: some of vLLM's functions compile themselves even so, which on a CPU hung at the first score."""
    import torch

    if not torch.cuda.is_available():
        torch._dynamo.config.disable = True


@contextlib.contextmanager
def _refusals(name: str) -> Iterator[None]:
    """vLLM's own sentences about settings and requests, with the model they are about."""
    try:
        yield
    except ValueError as error:
        first = " ".join(str(error).split())
        raise Refusal(f"model {name}: vLLM: {first}", "correct the recipe's model, sampling or engine.vllm") from error
