"""Samples with their behaviour log-probabilities: each prompt encoded once, its cache expanded, tokens drawn by inverse CDF.

Every sampling field is explicit: nothing comes from a model's generation configuration. Each sample's random numbers come from its
own seed, so the other rows of the batch do not change what it sees. A second model may be mixed in, token by token; the mixture is
then the behaviour. Refuses empty prompts, prompts too long for `max_tokens`, and a mixture without a share of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.forward.attention import Prefix, encode, pad_rows, prefill, select
from trainer.forward.head import Head
from trainer.forward.model import Policy, context_length, head_of

CACHED = 2**18  # float64 numbers (2 MiB) drawn from at once: six times faster than a whole batch of 128 rows


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The defaults are the policy itself: temperature 1 and nothing cut."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 = off."""
    max_tokens: int = 16
    stop_ids: tuple[int, ...] = ()
    """A sample ends with any of these; the end token stays in it."""
    repetition_penalty: float = 1.0
    greedy: bool = False
    """Take the most probable token; temperature, top_p and top_k are then without effect."""


@dataclass(frozen=True)
class Generated:
    """One sample."""

    token_ids: list[int]
    logprobs: list[float]
    """Behaviour, nats: log of the processed distribution that the token was drawn from; with `greedy` the raw log π."""
    finish_reason: str
    """`stop` or `length`."""
    stop_token: int | None


@dataclass(frozen=True)
class Mix:
    """A teacher whose distribution p is mixed into the policy's, token by token: μ = α·p + (1 − α)·π.

    Source: MiniLLM, arXiv 2306.08543, §2.2, "teacher-mixed sampling". Both are processed alike (temperature, top_p, top_k,
    penalty), so that w = π/μ ≤ 1/(1 − α) for each token."""

    policy: Policy
    """The teacher; its ids must mean what the policy's mean."""
    prompts: Sequence[Sequence[int]]
    """What the teacher reads, one for each of the policy's prompts."""
    alpha: float
    """Share of the teacher, above 0 and below 1."""


@dataclass
class _Row:
    """A sample in the making."""

    uniform: np.ndarray
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False


@torch.no_grad()
def generate(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    n: int,
    sampling: Sampling,
    seeds: Sequence[Sequence[int]],
    mix: Mix | None = None,
) -> list[list[Generated]]:
    """n samples of each prompt, in order. seeds[i][j] (0 ≤ seed < 2**128) belongs to sample j of prompt i.

    Step t of a sample uses the t-th uniform number of a Philox stream keyed by its seed. Rows that have ended leave the batch
    once they are half of it. Raises ValueError where prompts, seeds, sampling and the model's context do not fit together."""
    _refuse(policy, prompts, n, sampling, seeds)
    if mix is not None:
        _refuse_mix(mix, prompts, n, sampling, seeds)
    rows = [
        _Row(np.random.Generator(np.random.Philox(key=seed)).random(sampling.max_tokens)) for s in seeds for seed in s
    ]
    processors, live = _processors(sampling), list(rows)
    readers = [_Reader.open(policy, prompts, n)] + ([_Reader.open(mix.policy, mix.prompts, n)] if mix else [])
    for step in range(sampling.max_tokens):
        token_b = _draw(readers, processors, sampling, mix.alpha if mix else 0.0, live, step)
        kept = [i for i, row in enumerate(live) if not row.stopped]
        if not kept or step + 1 == sampling.max_tokens:
            break
        kept = kept if 2 * len(kept) <= len(live) else list(range(len(live)))
        for reader in readers:
            reader.advance(token_b, kept)
        live = [live[i] for i in kept]
    samples = [_finished(row) for row in rows]
    return [samples[i * n : (i + 1) * n] for i in range(len(prompts))]


@dataclass
class _Reader:
    """One model and what it has read of every living sample."""

    model: Any
    head: Head
    prefix: Prefix
    ids_bt: Tensor
    hidden_bd: Tensor
    owner_b: Tensor | None
    """The prompt of each row, until the prompts' cache is expanded to the rows."""

    @classmethod
    def open(cls, policy: Policy, prompts: Sequence[Sequence[int]], n: int) -> _Reader:
        """The prompts encoded once, seen as n rows each."""
        prefix = prefill(policy.model, prompts, policy.device)
        ids_bt = pad_rows(prompts, policy.device, "left")[0].repeat_interleave(n, dim=0)
        owner_b = torch.arange(len(prompts), device=policy.device).repeat_interleave(n)
        return cls(policy.model, head_of(policy.model), prefix, ids_bt, prefix.last_gd[owner_b], owner_b)

    def logits(self) -> Tensor:
        """Raw logits of the next token (b, v), float32."""
        return self.head.logits(self.hidden_bd).float()

    def advance(self, token_b: Tensor, kept: list[int]) -> None:
        """Read one more token of the rows that are kept."""
        device = self.hidden_bd.device
        kept_b, token_b = torch.tensor(kept, device=device), token_b.to(device)
        if self.owner_b is not None or len(kept) < len(token_b):
            self.prefix = select(self.prefix, kept_b if self.owner_b is None else self.owner_b[kept_b])
        self.owner_b = None
        self.ids_bt = torch.cat([self.ids_bt, token_b[:, None]], dim=1)[kept_b]
        self.hidden_bd = _advance(self.model, self.prefix, token_b[kept_b])


def _advance(model: Any, prefix: Prefix, token_b: Tensor) -> Tensor:
    """Run one token a row; the prefix's mask and lengths grow with its cache."""
    prefix.mask_gt = torch.cat([prefix.mask_gt, torch.ones_like(token_b)[:, None]], dim=1)
    hidden_btd = encode(model, token_b[:, None], prefix.mask_gt, prefix.length_g[:, None], prefix.cache)
    prefix.length_g = prefix.length_g + 1
    return hidden_btd[:, -1]


def _draw(
    readers: Sequence[_Reader], processors: Any, sampling: Sampling, alpha: float, live: list[_Row], step: int
) -> Tensor:
    """Draw one token a row, record it with its log-probability on rows that have not ended, and mark those that end.

    readers: the policy, and the teacher where one is mixed in."""
    logits_bv = readers[0].logits()
    processed_bv = _processed(processors, readers[0].ids_bt, logits_bv)
    if sampling.greedy:
        token_b = processed_bv.argmax(-1)
        logprob_b = _chosen(logits_bv, token_b)
    else:
        for teacher in readers[1:]:
            told_bv = _as_wide(teacher.logits().to(logits_bv.device), logits_bv.shape[1])
            told_bv = _processed(processors, teacher.ids_bt.to(logits_bv.device), told_bv)
            own_bv = processed_bv.double().log_softmax(-1)
            processed_bv = mixed(told_bv.double().log_softmax(-1), own_bv, alpha)
        uniform_b = torch.tensor([row.uniform[step] for row in live], dtype=torch.float64, device=logits_bv.device)
        token_b, logprob_b = draw(processed_bv, uniform_b)
    logprobs = logprob_b.tolist()
    for row, token, logprob in zip(live, token_b.tolist(), logprobs, strict=True):
        if not row.stopped:
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            row.stopped = token in sampling.stop_ids
    return token_b


def mixed(teacher_bv: Tensor, policy_bv: Tensor, alpha: float) -> Tensor:
    """log(α·p + (1 − α)·π) of log p and log π (b, v), any float type (MATH §5).

    >>> mixed(torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0]).log(), 0.2).exp()
    tensor([0.9000, 0.1000])
    """
    return torch.logaddexp(teacher_bv + math.log(alpha), policy_bv + math.log1p(-alpha))


def _as_wide(logits_bv: Tensor, width: int) -> Tensor:
    """The same logits over the policy's ids: heads of one tokenizer are padded to different widths."""
    missing = width - logits_bv.shape[1]
    return torch.nn.functional.pad(logits_bv, (0, missing), value=-torch.inf) if missing else logits_bv


def _processed(processors: Any, ids_bt: Tensor, logits_bv: Tensor) -> Tensor:
    return processors(ids_bt, logits_bv.clone()) if len(processors) else logits_bv


def draw(logits_bv: Tensor, uniform_b: Tensor) -> tuple[Tensor, Tensor]:
    """Token (b,) of softmax(logits) by inverse CDF of uniform_b in [0, 1), and its log p (b,), nats; both in float64.

    >>> token_b, logprob_b = draw(torch.tensor([[0.0, 0.0], [0.0, -torch.inf]]), torch.tensor([0.5, 0.9]).double())
    >>> token_b.tolist(), logprob_b.exp().tolist()
    ([1, 0], [0.5, 1.0])
    """
    tokens, logprobs = [], []
    for logit_bv, own_b in zip(_few(logits_bv), _few(uniform_b, logits_bv), strict=True):
        shifted_bv = logit_bv.double() - logit_bv.amax(1, keepdim=True).double()
        weight_bv = shifted_bv.exp()
        tokens.append(inverse_cdf(weight_bv, own_b))
        logprobs.append(shifted_bv.gather(1, tokens[-1][:, None]).squeeze(1) - weight_bv.sum(1).log())
    return torch.cat(tokens), torch.cat(logprobs)


def _chosen(logits_bv: Tensor, token_b: Tensor) -> Tensor:
    """log p (b,) of these tokens, float64."""
    parts = zip(_few(logits_bv), _few(token_b, logits_bv), strict=True)
    return torch.cat([x.double().log_softmax(-1).gather(1, own[:, None]).squeeze(1) for x, own in parts])


def _few(rows: Tensor, logits_bv: Tensor | None = None) -> tuple[Tensor, ...]:
    """The rows a few at a time, as many as stay in a processor's cache; all at once on a GPU."""
    logits_bv = rows if logits_bv is None else logits_bv
    count, width = logits_bv.shape
    return rows.split(max(1, CACHED // width) if logits_bv.device.type == "cpu" else count)


def inverse_cdf(probability_bv: Tensor, uniform_b: Tensor) -> Tensor:
    """Token (b,) whose interval of the cumulated float64 probabilities holds uniform_b in [0, 1); never one of probability 0.

    A row may be any multiple of probabilities.

    >>> probability_bv = torch.tensor([[0.0, 0.5, 0.0, 0.5]], dtype=torch.float64).repeat(3, 1)
    >>> inverse_cdf(probability_bv, torch.tensor([0.0, 0.5, 0.99], dtype=torch.float64))
    tensor([1, 3, 3])
    """
    return draw_bk(probability_bv, uniform_b[:, None]).squeeze(1)


def draw_bk(probability_bv: Tensor, uniform_bk: Tensor) -> Tensor:
    """As `inverse_cdf`, k draws from each row: tokens (b, k) of uniform numbers (b, k)."""
    cdf_bv = probability_bv.cumsum(-1)
    total_b1 = cdf_bv[:, -1:].contiguous()
    # right: the first entry above the number, which a zero interval never is; rounding up to the total must not run past the end
    token_bk = torch.searchsorted(cdf_bv, uniform_bk * total_b1, right=True)
    return torch.minimum(token_bk, torch.searchsorted(cdf_bv, total_b1))


def _processors(sampling: Sampling) -> Any:
    """transformers' own processors, in the order in which `model.generate` applies them."""
    from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor
    from transformers import TemperatureLogitsWarper as Temperature
    from transformers import TopKLogitsWarper as TopK
    from transformers import TopPLogitsWarper as TopP

    chosen = LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        chosen.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    if not sampling.greedy:
        chosen += [Temperature(float(sampling.temperature))] if sampling.temperature != 1.0 else []
        chosen += [TopK(sampling.top_k)] if sampling.top_k else []
        chosen += [TopP(sampling.top_p)] if sampling.top_p < 1.0 else []
    return chosen


def _finished(row: _Row) -> Generated:
    stop_token = row.token_ids[-1] if row.stopped else None
    return Generated(row.token_ids, row.logprobs, "stop" if row.stopped else "length", stop_token)


def _refuse(
    policy: Policy, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling, seeds: Sequence[Sequence[int]]
) -> None:
    if len(seeds) != len(prompts) or any(len(s) != n for s in seeds):
        raise ValueError(
            f"{len(prompts)} prompts of {n} samples, but seeds for {[len(s) for s in seeds]}: one a sample"
        )
    if not prompts or n < 1 or not all(len(prompt) for prompt in prompts):
        raise ValueError(f"prompts of {[len(p) for p in prompts]} tokens, {n} samples each: none may be empty")
    if sampling.max_tokens < 1 or not (sampling.greedy or sampling.temperature > 0) or not 0 < sampling.top_p <= 1:
        raise ValueError(f"{sampling}: max_tokens ≥ 1, temperature > 0 (or greedy) and 0 < top_p ≤ 1 are needed")
    limit, longest = context_length(policy), max(len(prompt) for prompt in prompts)
    if limit is not None and longest + sampling.max_tokens > limit:
        raise ValueError(
            f"a prompt of {longest} and max_tokens of {sampling.max_tokens} are longer than the model's context of {limit}"
        )


def _refuse_mix(
    mix: Mix, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling, seeds: Sequence[Sequence[int]]
) -> None:
    if not 0 < mix.alpha < 1:
        raise ValueError(f"alpha is {mix.alpha}: a mixture needs a share of each, above 0 and below 1")
    if sampling.greedy:
        raise ValueError("a mixture is drawn, greedy takes the most probable token: one of them")
    if len(mix.prompts) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts for the policy and {len(mix.prompts)} for the teacher: one each")
    _refuse(mix.policy, mix.prompts, n, sampling, seeds)
