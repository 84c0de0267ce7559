"""A policy: a causal language model of transformers, its tokenizer, and the layout that was found exact for it.

Reads a folder or a hub id (safetensors, or GGUF through `gguf_file`). Writes a folder that
`AutoModelForCausalLM.from_pretrained` loads unchanged. Refuses, naming the path, what is no model or has no tokenizer, and a head
whose logits differ from the model's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer.forward import interface
from trainer.forward.attention import encode, pad_rows
from trainer.forward.head import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# largest |Δ log π| between layouts; half types round differently in every matrix product (.017 to .036 on average)
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.25}
LAYOUTS = ("split", "kv", "flex", "plain")
LAYOUT_ERRORS = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


@dataclass
class Policy:
    """A model with its tokenizer. The model stays in eval mode: dropout would make π differ from the π that was sampled."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    layout: str
    """`split`, `flex` and `kv` (each prompt once) or `plain` (every sample a row): see `pack`."""
    reason: str = ""
    """Why the layout is not the one that was wanted first; empty otherwise."""

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.device


def load(
    path: str,
    *,
    dtype: str = "float32",
    revision: str | None = None,
    gguf_file: str | None = None,
    trust_remote_code: bool = False,
    initial: str = "pretrained",
    seed: int = 0,
    layout: str = "auto",
    device: str = "auto",
) -> Policy:
    """The policy at `path` (folder or hub id), in eval mode, its head and its layout checked.

    initial: `pretrained`, or `random` (weights drawn under `seed` from the configuration alone). layout: one of
    `LAYOUTS`, or `auto`: the first of split (flex on CUDA) and kv that gives plain's log π on a small probe group, else plain, with
    the reasons. Raises ValueError where the model, its tokenizer or a type of that name is missing, the head is not understood, or
    the model cannot take the layout that was named."""
    from transformers.utils import logging

    origin: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if gguf_file is not None:
        origin["gguf_file"] = gguf_file
    if layout not in ("auto", *LAYOUTS):
        raise ValueError(f"layout is {layout!r}; known: auto, {', '.join(LAYOUTS)}")
    _refuse_missing_folder(path)
    logging.disable_progress_bar()  # the commands show bars of their own
    tokenizer = _tokenizer(path, origin)
    model = _model(path, origin, _dtype(dtype), initial, seed).eval()
    torch.nn.Module.to(model, _device(device))
    check_head(model)
    _gather_few_rows(model)
    if layout == "auto":
        return _with_exact_layout(Policy(model, tokenizer, "plain"))
    return _with_named_layout(Policy(model, tokenizer, layout))


def save(policy: Policy, folder: str) -> None:
    """Write weights (safetensors), configuration, generation configuration and tokenizer into `folder`."""
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


def head_of(model: PreTrainedModel) -> Head:
    """The model's output layer as its configuration describes it; `load` has checked it against the model's logits.

    Of a sharded model the whole weight is gathered at every call, which all processes make: call it once a micro-batch."""
    layer = model.get_output_embeddings()
    weight_vd = getattr(layer, "weight", None)
    if weight_vd is None or hasattr(layer, "base_layer"):
        raise ValueError(
            f"{type(model).__name__} has the output layer {type(layer).__name__}; a plain linear head is needed"
        )
    config = model.config.get_text_config()
    weight_vd, bias_v = _whole(weight_vd), _whole(getattr(layer, "bias", None))
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return Head(weight_vd, bias_v, scale, getattr(config, "final_logit_softcapping", None))


def _whole(weight: Any) -> Any:
    """A sharded weight (`DTensor`) gathered, its gradients summed over the processes; any other as it is."""
    if not hasattr(weight, "full_tensor"):
        return weight
    from torch.distributed.tensor import Partial

    return weight.full_tensor(grad_placements=[Partial()] * weight.device_mesh.ndim)


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Raise ValueError unless `head_of` gives the model's own logits on a few tokens."""
    ids = [token % model.config.get_text_config().vocab_size for token in (3, 17, 5, 11)]
    ids_bt, mask_bt, position_bt = pad_rows([ids], model.device, "right")
    head = head_of(model)
    ours_tv = head.logits(encode(model, ids_bt, mask_bt, position_bt)[0])
    theirs_tv = model(input_ids=ids_bt, attention_mask=mask_bt).logits[0].float()
    rounding = 1.0 if model.dtype in (torch.float32, torch.float64) else max(1.0, theirs_tv.abs().max().item())
    delta = (ours_tv - theirs_tv).abs().max().item()
    if not delta <= TOLERANCE.get(model.dtype, 1e-4) * rounding:
        raise ValueError(
            f"{type(model).__name__}'s own logits differ by up to {delta:.2g} from those of its head as configured"
            f" (scale {head.scale:g}, soft cap {head.soft_cap}, bias {'no' if head.bias_v is None else 'yes'})"
        )


def _gather_few_rows(model: PreTrainedModel) -> None:
    """Let the input embedding's gradient hold the rows that were read, where the head shares the weight and has a dense one.

    Otherwise each backward pass fills and adds a whole (v, d) of zeros. The head's gradient comes first and takes the rows in."""
    embedding, layer = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embedding, torch.nn.Embedding):
        embedding.sparse = embedding.weight is layer.weight


def checkpoint_activations(policy: Policy) -> None:
    """Recompute each layer in the backward pass. Layout kv becomes plain: a cache with gradient cannot be recomputed.

    Only the layers themselves are told that they train: what is inside them stays in eval mode, without dropout."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    # named gradient_… before transformers 5.20, and vLLM's environment has an older one
    enable = (
        getattr(policy.model, "activation_checkpointing_enable", None) or policy.model.gradient_checkpointing_enable
    )
    enable()
    for module in policy.model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True
    if policy.layout == "kv":
        policy.layout, policy.reason = "plain", "activation checkpointing drops the cache that layout kv needs"


def end_token_ids(policy: Policy) -> list[int]:
    """Ids that end an answer: the generation configuration's, the configuration's, the tokenizer's, without repetition."""
    generation = getattr(policy.model, "generation_config", None)
    found: list[int] = []
    sources = (generation, policy.model.config.get_text_config(), policy.model.config, policy.tokenizer)
    for ids in (getattr(source, "eos_token_id", None) for source in sources):
        found += ids if isinstance(ids, list) else [] if ids is None else [ids]
    rows = policy.model.get_output_embeddings().weight.shape[0]  # a sharded head need not be gathered for its size
    return [token for token in dict.fromkeys(found) if 0 <= token < rows]


def context_length(policy: Policy) -> int | None:
    """The most positions that the configuration allows (prompt and completion together); None where it names no limit (ALiBi)."""
    return getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)


def _with_named_layout(policy: Policy) -> Policy:
    """The layout that was asked for, unchecked but for what it cannot do at all."""
    if policy.layout in ("split", "flex"):
        try:
            interface.install(policy.model)
        except LAYOUT_ERRORS as error:
            raise ValueError(
                f"layout {policy.layout} cannot be had: {error}; layout auto finds one that can"
            ) from error
    return policy


def _with_exact_layout(policy: Policy) -> Policy:
    """The first layout that gives plain's log π; the reasons of those before it are kept."""
    reasons: list[str] = []
    own = policy.model.config.get_text_config()._attn_implementation
    for layout in ("flex" if policy.device.type == "cuda" else "split", "kv"):
        reason = _wrong(Policy(policy.model, policy.tokenizer, layout))
        if not reason:
            return Policy(policy.model, policy.tokenizer, layout, "; ".join(reasons))
        reasons.append(reason)
        if policy.model.config.get_text_config()._attn_implementation != own:
            policy.model.set_attn_implementation(own)
    return Policy(policy.model, policy.tokenizer, "plain", "; ".join(reasons))


def _wrong(policy: Policy) -> str:
    """Why the policy's layout is not exact on a small probe group; empty where it is.

    A window need not be shorter than the probe: the packed layouts refuse a layer whose window does not reach its attention
    (`interface`), kv keeps the library's own, and the tests try windows shorter than prompts with both."""
    from trainer.forward.logprobs import check_layout  # logprobs needs Policy
    from trainer.forward.rows import GroupTokens

    rows = head_of(policy.model).weight_vd.shape[0]
    ids = torch.randint(rows, (32,), generator=torch.Generator().manual_seed(0)).tolist()
    probe = [
        GroupTokens(ids[:7], [ids[7:12], ids[12:13], ids[13:16]]),
        GroupTokens(ids[16:20], [ids[20:22], ids[22:26]]),
        GroupTokens(ids[26:28], [ids[28:32]]),
    ]
    tolerance = TOLERANCE.get(policy.model.dtype, 1e-4)
    try:
        if policy.layout in ("split", "flex"):
            interface.install(policy.model)
        delta = check_layout(policy, probe)
    except LAYOUT_ERRORS as error:
        return f"layout {policy.layout} fails on this model: {_first_line(error)}"
    if delta <= tolerance:
        return ""
    return f"layouts {policy.layout} and plain differ by {delta:.2g} nats on the probe group, more than {tolerance:g}"


def _model(path: str, origin: dict[str, Any], dtype: torch.dtype, initial: str, seed: int) -> PreTrainedModel:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM

    if initial not in ("pretrained", "random"):
        raise ValueError(f"initial is {initial!r}; known: pretrained, random")
    try:
        config = AutoConfig.from_pretrained(path, **origin)
        choice: dict[str, Any] = {"dtype": dtype}
        if initial == "random":
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(config, trust_remote_code=origin["trust_remote_code"], **choice)
        if "gguf_file" in origin:
            return _dense_from_gguf(path, config=config, **origin, **choice)
        return AutoModelForCausalLM.from_pretrained(path, config=config, **origin, **choice)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"no causal language model can be loaded from '{path}': {_first_line(error)}") from error


def _dense_from_gguf(path: str, **given: Any) -> PreTrainedModel:
    """Weights unpacked and the quantisation forgotten: packed blocks can neither be trained nor saved."""
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(path, quantization_config=GgufConfig(dequantize=True), **given)
    quantizer: Any = getattr(model, "hf_quantizer", None)
    if quantizer is not None:  # absent where the file holds plain floats
        quantizer.remove_quantization_config(model)
    return model


def _tokenizer(path: str, origin: dict[str, Any]) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, **origin)
    except (OSError, ValueError) as error:
        raise ValueError(f"no tokenizer can be loaded from '{path}': {_first_line(error)}") from error
    # some families answer missing files with an empty tokenizer, which would encode every text to nothing
    if not set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab()) - set(tokenizer.all_special_tokens):
        raise ValueError(f"no tokenizer can be loaded from '{path}': it has no vocabulary file")
    return tokenizer


def _refuse_missing_folder(path: str) -> None:
    """A path that is plainly local is refused at once: asking the hub for it takes most of a minute where there is no network."""
    folder = Path(path)
    local = folder.is_absolute() or path.startswith(".") or len(folder.parts) > 2
    if not folder.exists() and (local or (len(folder.parts) == 2 and folder.parent.exists())):
        raise ValueError(f"there is no model folder at '{path}'")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(
            f"dtype is {name!r}; known: {', '.join(str(known).removeprefix('torch.') for known in TOLERANCE)}"
        )
    return dtype


def _device(name: str) -> torch.device:
    if name != "auto":
        try:
            return torch.device(name)
        except RuntimeError as error:
            raise ValueError(f"device is {name!r}: {str(error).splitlines()[0]}") from error
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
