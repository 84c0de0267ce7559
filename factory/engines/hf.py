"""The engine of transformers: sampling, scoring and answering through the trainer's own forward path.

Reads a model folder. The only module of the factory that imports trainer.forward, so that what is sampled, scored, rescored and
trained is one code path. Its `ValueError`s leave here as refusals."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.config import ModelSettings
from data.refusal import Refusal
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
)
from factory.engines.tokens import Tokens
from trainer import forward


class HfEngine:
    """One loaded model. A batch never mixes samplings, and results come batch by batch, shortest prompts first."""

    can = ENGINES["hf"]

    def __init__(
        self,
        folder: Path,
        model: ModelSettings,
        row: dict[str, Any],
        tokens: Tokens,
        *,
        batch_tokens: int,
        device: str,
        seed: int,
    ):
        self.model, self.tokens, self.batch_tokens, self.name = row, tokens, batch_tokens, model.path
        with _refusals(f"model {model.path}"):
            self.policy = forward.load(
                str(folder),
                dtype=model.dtype,
                gguf_file=model.gguf_file,
                trust_remote_code=model.trust_remote_code,
                initial=model.initial,
                seed=seed,
                device=device,
            )

    @property
    def device(self) -> str:
        """cpu, or the GPU's name."""
        import torch

        device = self.policy.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    def __enter__(self) -> HfEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model's memory."""
        import torch

        del self.policy
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def generate(self, requests: Iterable[GroupRequest], mixing: Mixing | None = None) -> Iterator[Group]:
        """The samples of each request; batches hold at most `batch_tokens` positions of this model's cache.

        With `mixing` the teacher's policy is taken from its own engine, which must be of this class."""
        for batch in self._batches(list(requests)):
            sampling = batch[0].sampling
            with _refusals(f"model {self.name}"):
                drawn = forward.generate(
                    self.policy,
                    [r.prompt_ids for r in batch],
                    len(batch[0].seeds),
                    forward.Sampling(
                        temperature=sampling.temperature or 1.0,
                        top_p=sampling.top_p,
                        top_k=sampling.top_k,
                        max_tokens=sampling.max_tokens,
                        stop_ids=sampling.stop_ids,
                        repetition_penalty=sampling.repetition_penalty,
                        greedy=sampling.greedy,
                    ),
                    [r.seeds for r in batch],
                    _mix(mixing, batch),
                )
            for request, samples in zip(batch, drawn, strict=True):
                draws = [Draw(s.token_ids, s.logprobs, s.finish_reason, s.stop_token) for s in samples]
                yield Group(request.group_id, request.first_index, draws)

    def score(self, requests: Iterable[ScoreRequest], temperature: float = 1.0) -> Iterator[Scored]:
        """log p of each completion token, each prompt encoded once per group."""
        import torch

        ordered = sorted(requests, key=lambda r: (len(r.prompt_ids), r.group_id))
        groups = [forward.GroupTokens(r.prompt_ids, r.completions) for r in ordered]
        for batch in forward.plan(groups, self.batch_tokens, self.policy.layout):
            with _refusals(f"model {self.name}"), torch.no_grad():
                logprob_n = forward.group_logprobs(self.policy, [groups[i] for i in batch], temperature=temperature)
            values = iter(logprob_n.tolist())
            for i in batch:
                yield Scored(ordered[i].group_id, [[next(values) for _ in c] for c in ordered[i].completions])

    def distribution(self, requests: Iterable[ScoreRequest], spec: SoftSpec) -> Iterator[Soft]:
        """Ids that the spec picks at every completion token, each prompt encoded once per group."""

        def support(groups: Sequence[forward.GroupTokens], asked: Sequence[ScoreRequest]) -> forward.Support:
            if spec.kind == "top_k":
                return forward.top_support(self.policy, groups, spec.k, spec.vocabulary)
            return forward.drawn_support(self.policy, groups, spec.draws, [r.seeds for r in asked], spec.vocabulary)

        return self._soft(requests, support)

    def at(self, requests: Iterable[ScoreRequest], given: Mapping[int, Soft], vocabulary: int) -> Iterator[Soft]:
        """The given ids of each request's group, with this model's log p."""
        import numpy as np
        import torch

        def support(groups: Sequence[forward.GroupTokens], asked: Sequence[ScoreRequest]) -> forward.Support:
            rows = [row for r in asked for row in given[r.group_id].rows]
            sizes, ids = (
                torch.from_numpy(np.concatenate(x)) for x in zip(*((r.sizes, r.ids) for r in rows), strict=True)
            )
            return forward.support_at(self.policy, groups, sizes, ids, vocabulary)

        return self._soft(requests, support)

    def _soft(self, requests: Iterable[ScoreRequest], support: Callable[..., forward.Support]) -> Iterator[Soft]:
        ordered = sorted(requests, key=lambda r: (len(r.prompt_ids), r.group_id))
        groups = [forward.GroupTokens(r.prompt_ids, r.completions) for r in ordered]
        for batch in forward.plan(groups, self.batch_tokens, self.policy.layout):
            asked = [ordered[i] for i in batch]
            with _refusals(f"model {self.name}"):
                found = support([groups[i] for i in batch], asked)
            rows = _soft_rows(found, [len(c) for r in asked for c in r.completions])
            for request in asked:
                yield Soft(request.group_id, [next(rows) for _ in request.completions])

    def answer(self, requests: Iterable[ChatRequest]) -> Iterator[Answer]:
        """Answers in text and ids, the conversation in this model's chat template."""
        asked = list(requests)
        prompts = {r.request_id: self.tokens.prompt_ids(r.messages) for r in asked}
        groups = [GroupRequest(r.request_id, prompts[r.request_id], r.seeds, r.sampling) for r in asked]
        for group in self.generate(groups):
            for candidate, draw in enumerate(group.samples):
                yield Answer(
                    group.group_id,
                    candidate,
                    self.tokens.text(draw.token_ids).strip(),
                    len(prompts[group.group_id]),
                    draw.token_ids,
                    draw.logprobs,
                    draw.finish_reason,
                )

    def _batches(self, requests: Sequence[GroupRequest]) -> Iterator[list[GroupRequest]]:
        """Requests of one sampling and one number of samples, similar lengths together."""
        ordered = sorted(requests, key=lambda r: (len(r.seeds), len(r.prompt_ids), r.group_id))
        batch: list[GroupRequest] = []
        for request in ordered:
            same = batch and (len(request.seeds), request.sampling) == (len(batch[0].seeds), batch[0].sampling)
            width = len(request.prompt_ids) + request.sampling.max_tokens
            if batch and not (same and (len(batch) + 1) * len(request.seeds) * width <= self.batch_tokens):
                yield batch
                batch = []
            batch.append(request)
        if batch:
            yield batch


def _mix(mixing: Mixing | None, batch: Sequence[GroupRequest]) -> forward.Mix | None:
    if mixing is None:
        return None
    assert isinstance(mixing.teacher, HfEngine)
    return forward.Mix(mixing.teacher.policy, [mixing.prompts[r.group_id] for r in batch], mixing.alpha)


def _soft_rows(found: forward.Support, lengths: Sequence[int]) -> Iterator[SoftRow]:
    """The support cut by completions of these lengths."""
    sizes, ids, logprobs = found.size_n.numpy(), found.id_m.numpy(), found.logprob_m.numpy()
    counts = None if found.count_m is None else found.count_m.numpy()
    token = first = 0
    for length in lengths:
        own = sizes[token : token + length]
        part = slice(first, first + int(own.sum()))
        yield SoftRow(own, ids[part], logprobs[part], None if counts is None else counts[part])
        token, first = token + length, part.stop


@contextlib.contextmanager
def _refusals(where: str) -> Iterator[None]:
    """The forward path's own sentences, with the model they are about."""
    try:
        yield
    except ValueError as error:
        raise Refusal(
            f"{where}: {error}", "correct the recipe's model or sampling, then run the same command"
        ) from error
