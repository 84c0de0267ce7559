"""The attention function that transformers' models call: packed rows where a layout comes with the call, the library's own else.

`install` registers it under one name and points a model's configuration at it. Refuses (NotImplementedError) models that do not
call their attention through transformers' interface, and layers whose attention a packed row cannot give: chunks, sinks, dropout,
a window that the configuration names and the call does not."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "grpo_kd_packed"
KNOWN_LAYERS = {"full_attention", "sliding_attention"}


class Layout(Protocol):
    """How a packed row attends to itself (`Split`, `Flex`)."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None, soft_cap: float | None
    ) -> Tensor:
        """Output (1, heads, n, d) of queries (1, heads, n, d) and keys and values (1, key heads, n, d)."""


def install(model: PreTrainedModel) -> None:
    """Let the model attend through `packed_attention`. Its configuration must be its own: the choice is written there."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    config = model.config.get_text_config()
    current = config._attn_implementation
    if current == NAME:
        return
    others = set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYERS
    if others:
        raise NotImplementedError(f"{type(model).__name__} has layers of kind {', '.join(sorted(others))}")
    forward = inspect.signature(model.get_decoder().forward).parameters.values()
    if current != "sdpa" or not any(p.kind is p.VAR_KEYWORD for p in forward):
        raise NotImplementedError(f"{type(model).__name__} ({current} attention) takes no attention of ours")
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)  # for calls without a packed row
    model.set_attn_implementation(NAME)
    if config._attn_implementation != NAME:
        raise NotImplementedError(f"{type(model).__name__} cannot change its attention")


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed: Layout | None = None,
    **given: Any,
) -> tuple[Tensor, None]:
    """Attention output (1, n, heads, d), and no weights. transformers' calling convention; `packed` comes with the call."""
    if packed is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **given
        )
    window = _window(module, given)
    _refuse(module, dropout, given)
    device = query.device.type
    if torch.is_autocast_enabled(device):  # as the library's own attention is cast
        query, key, value = (x.to(torch.get_autocast_dtype(device)) for x in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    out = packed.attend(query, key, value, scale, window, given.get("softcap"))
    return out.transpose(1, 2).contiguous(), None


def _window(module: Any, given: dict[str, Any]) -> int | None:
    """The layer's window, where configuration and call agree on it: a window that lives in the mask alone would be lost."""
    config, window = module.config.get_text_config(), given.get("sliding_window")
    kinds = getattr(config, "layer_types", None)
    slides = kinds[module.layer_idx] == "sliding_attention" if kinds else True
    expected = getattr(config, "sliding_window", None) if slides else None
    if window != expected:
        raise NotImplementedError(f"layer {module.layer_idx} has the window {expected}, its attention is told {window}")
    return window


def _refuse(module: Any, dropout: float, given: dict[str, Any]) -> None:
    causal = given.get("is_causal")
    sideways = not (getattr(module, "is_causal", True) if causal is None else causal)
    unknown = [name for name in ("s_aux", "position_bias", "cache") if given.get(name) is not None]
    if dropout or sideways or unknown:
        what = ", ".join([*unknown, *["dropout"] * bool(dropout), *["no causal order"] * sideways])
        raise NotImplementedError(f"attention with {what} cannot be packed")
