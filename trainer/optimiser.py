"""The optimiser by name, its gradient norm, and its state as plain tensors by parameter name.

Reads and writes no file (checkpoint.py does). Refuses a gradient that is not finite before it reaches a weight."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from data.refusal import Refusal
from trainer.config import Optimiser
from trainer.fsdp import placed, whole


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that move, by name, tied ones once, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def build(settings: Optimiser, model: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101), which decays matrices only (vectors are norms' gains and biases), or plain SGD without decay."""
    parameters = list(trained(model).values())
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, lr=settings.lr)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    kept = [group for group in groups if group["params"]]
    return torch.optim.AdamW(kept, lr=settings.lr, betas=(settings.betas[0], settings.betas[1]))


def embeddings(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters of the input embedding and of the output layer; one where they are tied."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[operator]
    return list({id(p): p for layer in layers if layer is not None for p in layer.parameters()}.values())


def hold(model: torch.nn.Module, moving: Sequence[torch.nn.Parameter]) -> None:
    """Forget the gradients of all other parameters: an optimiser leaves alone, decay and state too, what has none."""
    kept = {id(parameter) for parameter in moving}
    for parameter in trained(model).values():
        if id(parameter) not in kept:
            parameter.grad = None


def move(optimiser: torch.optim.Optimizer, model: torch.nn.Module, rate: float, clip: float | None, step: int) -> float:
    """One step at this learning rate; returns the gradient's norm before clipping and clears the gradients."""
    gradients = [p.grad for p in trained(model).values() if p.grad is not None]
    norm = gradient_norm(gradients)
    if not math.isfinite(norm):
        raise Refusal(
            f"step {step}: the gradient's norm is {norm}; the weights were not changed",
            f"lower the learning rate, e.g. optimiser.lr={rate / 10:g}, or inspect the rewards",
        )
    if clip is not None and norm > clip:
        for gradient in gradients:
            gradient.mul_(clip / norm)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return norm


def gradient_norm(gradients: Sequence[Tensor]) -> float:
    """The 2-norm over all of them, in float32 at least; of spread gradients it is the whole's, and every process must ask."""
    if not gradients:
        return 0.0
    wide = [g if g.dtype in (torch.float32, torch.float64) else g.float() for g in gradients]
    return float(whole(torch.nn.utils.get_total_norm(wide)))


def state_tensors(optimiser: torch.optim.Optimizer, model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The optimiser's state as (`parameter|entry`, whole tensor); none before the first step. Every process must ask."""
    for name, parameter in trained(model).items():
        for entry, value in optimiser.state.get(parameter, {}).items():
            if value is not None:
                yield f"{name}|{entry}", whole(torch.as_tensor(value)).clone()


def load_state(optimiser: torch.optim.Optimizer, model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `state_tensors` gave, bit by bit."""
    parameters = trained(model)
    for key, value in tensors.items():
        name, entry = key.rsplit("|", 1)
        parameter = parameters[name]
        # AdamW keeps its step count on the CPU
        place = value if entry == "step" else placed(value, parameter)
        optimiser.state[parameter][entry] = place
