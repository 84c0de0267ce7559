"""A model's whole next-token distribution at given texts, kept as a few ids a token: drawn, the most probable, or given ones.

Reads a policy and groups of token ids; gives ids, counts and log-probabilities in nats at temperature 1. The logits of a chunk of
rows are the largest tensor; tokens × vocabulary is never held. Refuses ids outside the vocabulary and seeds that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.forward.generate import draw_bk
from trainer.forward.head import CHUNK_ELEMENTS
from trainer.forward.model import Policy, head_of
from trainer.forward.pack import GroupTokens, hidden_states

CHUNK_ROWS = 256


@dataclass(frozen=True)
class Support:
    """Ids with their log-probabilities for each completion token, flat: size_n[i] of them belong to token i."""

    size_n: Tensor
    """int64 (n,), tokens flat in order group, sample, token."""
    id_m: Tensor
    """int64 (m,), m = Σ size_n; ascending within a token where drawn, most probable first where chosen."""
    logprob_m: Tensor
    """float32 (m,), nats, of the distribution over the first `vocabulary` ids."""
    count_m: Tensor | None = None
    """int64 (m,): draws of each id; None where nothing was drawn."""


@torch.no_grad()
def drawn_support(
    policy: Policy, groups: Sequence[GroupTokens], draws: int, seeds: Sequence[Sequence[int]], vocabulary: int
) -> Support:
    """`draws` draws with replacement from p at each completion token: counts/draws is an unbiased estimate of p (MATH §7).

    seeds[g][s] belongs to sample s of group g: token t uses the numbers t·draws … (t + 1)·draws − 1 of its Philox stream, so the
    batch changes nothing. Raises ValueError where there is not one seed a sample, or draws < 1."""
    lengths = [[len(completion) for completion in group.completions] for group in groups]
    if draws < 1 or [len(s) for s in seeds] != [len(ls) for ls in lengths]:
        raise ValueError(f"{draws} draws with seeds for {[len(s) for s in seeds]} samples of {list(map(len, lengths))}")
    streams = [
        np.random.Generator(np.random.Philox(key=seed)).random((length, draws))
        for own, ls in zip(seeds, lengths, strict=True)
        for seed, length in zip(own, ls, strict=True)
    ]
    uniform_nk = torch.from_numpy(np.concatenate(streams))

    def one(logprob_rv: Tensor, rows: slice) -> Support:
        drawn_rk = draw_bk(logprob_rv.exp(), uniform_nk[rows].to(logprob_rv.device))
        row_r1 = torch.arange(len(drawn_rk), device=drawn_rk.device)[:, None]
        cell_m, count_m = torch.unique(row_r1 * logprob_rv.shape[1] + drawn_rk, return_counts=True)
        row_m, id_m = cell_m // logprob_rv.shape[1], cell_m % logprob_rv.shape[1]
        size_r = torch.bincount(row_m, minlength=len(drawn_rk))
        return Support(size_r, id_m, logprob_rv[row_m, id_m].float(), count_m)

    return _joined(_chunks(policy, groups, vocabulary, one))


@torch.no_grad()
def top_support(policy: Policy, groups: Sequence[GroupTokens], k: int, vocabulary: int) -> Support:
    """The k most probable ids at each completion token, most probable first (all of them where the vocabulary is smaller).

    Raises ValueError where k < 1."""
    if k < 1:
        raise ValueError(f"the {k} most probable ids were asked for; at least 1 is needed")

    def one(logprob_rv: Tensor, rows: slice) -> Support:
        top = logprob_rv.topk(min(k, logprob_rv.shape[1]), dim=1)
        size_r = torch.full((len(logprob_rv),), top.indices.shape[1], device=logprob_rv.device)
        return Support(size_r, top.indices.flatten(), top.values.flatten().float())

    return _joined(_chunks(policy, groups, vocabulary, one))


@torch.no_grad()
def support_at(policy: Policy, groups: Sequence[GroupTokens], size_n: Tensor, id_m: Tensor, vocabulary: int) -> Support:
    """log p of given ids at each completion token; they come back in the order in which they were given.

    Raises ValueError where the sizes are not those of the tokens, or an id is outside the vocabulary."""
    tokens = sum(len(completion) for group in groups for completion in group.completions)
    if len(size_n) != tokens or int(size_n.sum()) != len(id_m):
        raise ValueError(
            f"{tokens} tokens and {len(id_m)} ids, but {len(size_n)} sizes that sum to {int(size_n.sum())}"
        )
    if len(id_m) and not 0 <= int(id_m.min()) <= int(id_m.max()) < vocabulary:
        raise ValueError(f"ids run from {int(id_m.min())} to {int(id_m.max())}, the vocabulary has {vocabulary}")
    end_n = size_n.cumsum(0).tolist()

    def one(logprob_rv: Tensor, rows: slice) -> Support:
        device, size_r = logprob_rv.device, size_n[rows]
        part_m = id_m[end_n[rows.start] - int(size_r[0]) : end_n[rows.start + len(size_r) - 1]].to(device)
        size_r = size_r.to(device)
        row_m = torch.arange(len(size_r), device=device).repeat_interleave(size_r)
        return Support(size_r, part_m, logprob_rv[row_m, part_m].float())

    return _joined(_chunks(policy, groups, vocabulary, one))


def _chunks(
    policy: Policy, groups: Sequence[GroupTokens], vocabulary: int, one: Callable[[Tensor, slice], Support]
) -> Iterator[Support]:
    """`one` of each chunk of rows, with their float64 log-probabilities (r, v) over the first `vocabulary` ids."""
    hidden_nd, _ = hidden_states(policy, groups)
    head = head_of(policy.model)
    if not 1 <= vocabulary <= head.weight_vd.shape[0]:
        raise ValueError(f"a vocabulary of {vocabulary} ids was asked for, the head has {head.weight_vd.shape[0]}")
    # float64 and its cumulated sum: a quarter of the rows that a float32 chunk of the head may have
    rows = max(1, min(CHUNK_ROWS, CHUNK_ELEMENTS // 4 // head.weight_vd.shape[0]))
    for start in range(0, len(hidden_nd), rows):
        logits_rv = head.logits(hidden_nd[start : start + rows])[:, :vocabulary]
        yield one(logits_rv.double().log_softmax(-1), slice(start, start + rows))


def _joined(parts: Iterator[Support]) -> Support:
    """The chunks' supports, on the CPU."""
    kept = [
        (p.size_n.cpu(), p.id_m.cpu(), p.logprob_m.cpu(), None if p.count_m is None else p.count_m.cpu()) for p in parts
    ]
    size, ids, logprob, counts = zip(*kept, strict=True)
    counted = [c for c in counts if c is not None]
    return Support(torch.cat(size), torch.cat(ids), torch.cat(logprob), torch.cat(counted) if counted else None)
