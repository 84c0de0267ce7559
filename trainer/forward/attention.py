"""Rows of token ids through the transformer: padding, masks, positions, and the shared prefix.

Every call passes the attention mask and the positions: transformers otherwise guesses a packed batch from restarting positions,
and the completions do not see their prompt. Prompts are padded on the left and completions on the right, so that a prompt and its
continuation stand side by side in the cache and an index distance is the logical distance, which sliding windows need."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.forward.interface import Layout


@dataclass
class Prefix:
    """Prompts encoded once: what their continuations need."""

    last_gd: Tensor
    """Hidden state of each prompt's last token: it predicts the first token of every continuation."""
    cache: Any
    """transformers' `DynamicCache`, one row a prompt, with gradient where gradients are on."""
    mask_gt: Tensor
    length_g: Tensor


def pad_rows(rows: Sequence[Sequence[int]], device: torch.device, side: str) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, mask (int64, 1 = real) and positions (from 0 at the first real token), each (b, t), padded on `side`.

    Padding repeats the row's own first token: a tokenizer need not have a padding token, and a repetition penalty sees no
    token that the row does not have. The mask hides it."""
    width = max(len(row) for row in rows)
    fill = [[row[0]] * (width - len(row)) for row in rows]
    padded = [[*pad, *row] if side == "left" else [*row, *pad] for pad, row in zip(fill, rows, strict=True)]
    ids_bt = torch.tensor(padded, dtype=torch.long, device=device)
    length_b1 = torch.tensor([[len(row)] for row in rows], device=device)
    index_1t = torch.arange(width, device=device)[None]
    first_b1 = width - length_b1 if side == "left" else torch.zeros_like(length_b1)
    mask_bt = (index_1t >= first_b1) & (index_1t < first_b1 + length_b1)
    return ids_bt, mask_bt.long(), (index_1t - first_b1).clamp(min=0) * mask_bt


def encode(model: Any, ids_bt: Tensor, mask_bt: Tensor, position_bt: Tensor, cache: Any = None) -> Tensor:
    """Last hidden states (b, t, d) of the rows, after the final norm and before the head.

    With a cache, mask_bt covers the cached positions too, and the cache grows by the rows' keys and values."""
    body = model.get_decoder()
    accepted = inspect.signature(body.forward).parameters
    given: dict[str, Any] = {"input_ids": ids_bt, "attention_mask": mask_bt, "use_cache": cache is not None}
    if "position_ids" in accepted:  # ALiBi families take their positions from the mask
        given["position_ids"] = position_bt
    if cache is not None:
        given["cache" if "cache" in accepted else "past_key_values"] = cache  # the name changed within transformers 5
    return body(**given, return_dict=True).last_hidden_state


def encode_packed(model: Any, ids_1n: Tensor, position_1n: Tensor, packed: Layout) -> Tensor:
    """Last hidden states (n, d) of one packed row. The layout travels with the call down to the attention function.

    The mask is a stand-in: a four-dimensional one is handed on unseen, so that none of n × n is made."""
    unused = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids_1n.device)
    body = model.get_decoder()
    given: dict[str, Any] = {"input_ids": ids_1n, "attention_mask": unused, "position_ids": position_1n}
    return body(**given, use_cache=False, packed=packed, return_dict=True).last_hidden_state[0]


def prefill(model: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> Prefix:
    """Encode each prompt once, keeping keys and values, differentiable where gradients are on."""
    from transformers import DynamicCache

    ids_gt, mask_gt, position_gt = pad_rows(prompts, device, "left")
    cache = DynamicCache(
        config=model.config
    )  # sliding layers keep their window alone, as in the library's own decoding
    hidden_gtd = encode(model, ids_gt, mask_gt, position_gt, cache)
    return Prefix(hidden_gtd[:, -1], cache, mask_gt, mask_gt.sum(1))


def repeat(prefix: Prefix, count_g: Sequence[int]) -> Prefix:
    """Each prompt's row count_g times (0 drops it), in order, with gradient. The given prefix must not be used afterwards.

    Expanded and concatenated, because the backward of `index_select` on keys costs more than the attention itself."""
    for layer in prefix.cache.layers:
        layer.keys, layer.values = _repeated(layer.keys, count_g), _repeated(layer.values, count_g)
    last, mask, length = (_repeated(x, count_g) for x in (prefix.last_gd, prefix.mask_gt, prefix.length_g))
    return Prefix(last, prefix.cache, mask, length)


def select(prefix: Prefix, row_b: Tensor) -> Prefix:
    """The listed rows of the prefix, without gradient. The given prefix must not be used afterwards."""
    prefix.cache.reorder_cache(row_b)
    return Prefix(prefix.last_gd[row_b], prefix.cache, prefix.mask_gt[row_b], prefix.length_g[row_b])


def extend(model: Any, prefix: Prefix, rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Hidden states (b, t, d) of rows that continue the prefix's rows, one each."""
    ids_bt, mask_bt, position_bt = pad_rows(rows, device, "right")
    whole_mask = torch.cat([prefix.mask_gt, mask_bt], dim=1)
    return encode(model, ids_bt, whole_mask, position_bt + prefix.length_g[:, None], prefix.cache)


def _repeated(rows: Tensor, counts: Sequence[int]) -> Tensor:
    return torch.cat([row.expand(count, *row.shape[1:]) for row, count in zip(rows.split(1), counts, strict=True)])
