"""LoRA (arXiv 2106.09685): low-rank adapters beside frozen weights; the model stays transformers' own class.

Reads and writes adapter folders as peft has them. Refuses targets that are no linear layers of the transformer: the head above all,
whose weight the forward path reads directly. Adapters are float32 whatever the model is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.refusal import Refusal, nearest
from trainer.config import Lora
from trainer.forward import Policy
from trainer.fsdp import placed, whole, whole_state

LARGE = 3_000_000_000  # parameters above which adapters are the default
NAME = "default"
WEIGHTS = "adapter_model.safetensors"
_INSIDE = re.compile(rf"\.lora_([AB])\.{NAME}\.weight$")


def wanted(settings: Lora, parameters: int) -> bool:
    """Whether a model of so many parameters is trained by adapters."""
    return parameters > LARGE if settings.enabled is None else settings.enabled


def with_adapter(policy: Policy, settings: Lora, *, seed: int = 0) -> Policy:
    """The policy with adapters that change nothing yet (B = 0), its own weights frozen; A is drawn under `seed`.

    In place. Refusal where a target names no linear layer of the transformer."""
    from peft import LoraConfig, inject_adapter_in_model

    names = targets(policy.model, settings.targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides it; a float is as good
        target_modules=names,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        fan_in_fan_out=policy.model.config.model_type == "gpt2",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, policy.model, adapter_name=NAME)
    for name, parameter in policy.model.named_parameters():
        if _INSIDE.search(name):
            parameter.data = parameter.data.float()
    policy.model.eval()
    return policy


def adapted(model: torch.nn.Module) -> bool:
    """Whether the model carries adapters."""
    return any(True for _ in _layers(model))


def linear_names(model: Any) -> list[str]:
    """Last parts of the names of the transformer's linear layers; the output layer is none of them."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    kinds = (torch.nn.Linear, Conv1D)
    found = (n for n, m in model.named_modules() if isinstance(m, kinds) and m is not head)
    return sorted({name.rpartition(".")[2] for name in found})


def targets(model: Any, asked: list[str] | None) -> list[str]:
    """The layers to adapt: as asked, or every linear one. Refusal for the head and for unknown names."""
    known = linear_names(model)
    head = next((n for n, m in model.named_modules() if m is model.get_output_embeddings()), "")
    for name in asked or []:
        if head and name == head.rpartition(".")[2]:
            raise Refusal(
                f"optimiser.lora.targets names {name!r}, the output layer, whose weight is read without its adapter",
                f"leave it out, e.g. 'optimiser.lora.targets=[{','.join(known)}]'",
            )
        if name not in known:
            raise Refusal(
                f"optimiser.lora.targets: no linear layer is named {name!r}: {nearest(name, known)}",
                f"'optimiser.lora.targets=[{','.join(known)}]'",
            )
    return list(asked) if asked else known


@contextmanager
def switched_off(policy: Policy) -> Iterator[None]:
    """The policy as it started, without its adapters, for a while; nothing is copied."""
    layers = [layer for _, layer in _layers(policy.model)]
    for layer in layers:
        layer._disable_adapters = True  # enable_adapters() would also freeze them, and a graph may be open
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merged_weights(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The state of the model without adapters that computes the same, by name: W + B·A·alpha/rank, in float32, then in W's type.

    Tensors that are spread over processes are gathered one layer at a time: every process must ask. What is tied comes once."""
    layers = dict(_layers(model))
    for name, weight in whole_state(model, leave=".lora_"):
        layer = layers.get(name.removesuffix(".base_layer.weight"))
        if layer is not None and name.endswith(".base_layer.weight"):
            delta = whole(layer.lora_B[NAME].weight).float() @ whole(layer.lora_A[NAME].weight).float()
            delta = delta * layer.scaling[NAME]
            weight = (weight.float() + (delta.T if layer.fan_in_fan_out else delta)).to(weight.dtype)
        yield name.replace(".base_layer.", "."), weight


def adapter_weights(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The adapters' tensors by the names that peft's files give them."""
    names = ((name, value) for name, value in model.state_dict().items() if _INSIDE.search(name))
    return ((_outside(name), whole(value).clone()) for name, value in names)


def write_adapter(model: Any, weights: Mapping[str, Tensor], folder: Path, start: str) -> None:
    """adapter_config.json and the tensors, as `PeftModel.from_pretrained` reads them over the model at `start`."""
    from safetensors.torch import save_file

    config = model.peft_config[NAME]
    config.base_model_name_or_path, config.inference_mode = start, True
    config.save_pretrained(str(folder))
    save_file(
        {name: value.contiguous().cpu() for name, value in weights.items()}, folder / WEIGHTS, metadata={"format": "pt"}
    )


def read_adapter(policy: Policy, folder: Path) -> None:
    """Put the tensors of an adapter folder into the policy's adapters. Raises ValueError where names or shapes differ."""
    from safetensors.torch import load_file

    found = load_file(folder / WEIGHTS)
    inside = {_outside(n): p for n, p in policy.model.named_parameters() if _INSIDE.search(n)}
    if {n: p.shape for n, p in inside.items()} != {n: v.shape for n, v in found.items()}:
        raise ValueError(f"{folder} holds {len(found)} adapter tensors that differ from the model's {len(inside)}")
    with torch.no_grad():
        for name, parameter in inside.items():
            parameter.copy_(placed(found[name], parameter))


def merged(folder: str, start: str | None = None, **how: Any) -> Policy:
    """The adapter in `folder` merged into the model it was trained from: an ordinary policy, to be averaged or saved.

    start: the model's folder or hub id in place of the one that the adapter names; how: `load`'s options."""
    import json

    from trainer.forward import load

    stored = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
    origin = start or stored["base_model_name_or_path"]
    rank, alpha, names = stored["r"], stored["lora_alpha"], stored["target_modules"]
    policy = with_adapter(load(origin, **how), Lora(True, rank, alpha, sorted(names)))
    read_adapter(policy, Path(folder))
    plain = load(origin, **how)
    plain.model.load_state_dict(dict(merged_weights(policy.model)), strict=False)  # what is tied comes once
    return plain


def _layers(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in model.named_modules() if hasattr(module, "lora_A"))


def _outside(name: str) -> str:
    return "base_model.model." + name.replace(f".{NAME}.", ".")
