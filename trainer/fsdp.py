"""Weights that are spread over processes (FSDP2, arXiv 2304.11277): each holds its share of every tensor, gradients are summed.

Reads and writes no file. The decoder's layers gather their weights for their own pass and let go of them; the output layer is a
spread tensor that `head_of` gathers, once a micro-batch. Every call that gathers (forward, backward, `whole`, a norm) must be made
by every process, in the same order: a process without work takes an `idle_turn`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor

from trainer.distributed import World
from trainer.forward import GroupTokens, Policy, head_of, hidden_states


def spread(policy: Policy, world: World) -> Policy:
    """The policy with its weights spread over the processes, in place. Layout kv becomes plain.

    Gradients are summed, not averaged (the denominators are the whole step's), and travel as float32. Tied weights stay tied."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model: Any = policy.model
    body = model.get_decoder()
    outside = _outside(model, body)
    model.get_input_embeddings().sparse = False  # shares of a tensor have no sparse gradient
    mesh = init_device_mesh(world.device.type, (world.size,))
    how: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
        "reshard_after_forward": True,
    }
    for module in (*_layers(body), body):
        fully_shard(module, **how)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no premultiplied sum
    for holder, name, inside in outside:
        own = holder.get_parameter(name)
        setattr(holder, name, body.get_parameter(inside) if inside else _spread_alone(own, mesh))
    if policy.layout == "kv":
        policy.layout = "plain"
        policy.reason = "under fsdp every process makes as many decoder calls, which layout kv does not promise"
    return policy


def is_spread(model: torch.nn.Module) -> bool:
    """Whether the model's weights are spread over processes."""
    return any(_is_spread(parameter) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """The tensor without gradient; one that is spread is gathered from all processes, onto the CPU."""
    return tensor.detach().full_tensor().cpu() if _is_spread(tensor) else tensor.detach()  # type: ignore[attr-defined]


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor laid out as `like` is: on its device, or this process's share of it. Nothing is sent."""
    if not _is_spread(like):
        return value.to(like.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    model = cast("DTensor", like)
    return distribute_tensor(value.to(like.device), model.device_mesh, model.placements, src_data_rank=None)


def whole_state(model: torch.nn.Module, leave: str | None = None) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the model's state by name, gathered one at a time; what is tied comes once.

    leave: names that contain this are left out."""
    seen: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in seen and not (leave and leave in name):
            seen.add(id(value))
            yield name, whole(value)


def kept(pairs: Iterable[tuple[str, Tensor]], first: bool) -> dict[str, Tensor]:
    """What was gathered, for the first process; the others take part and hold one tensor at a time."""
    return {name: value for name, value in pairs if first}


def idle_turn(policy: Policy) -> Tensor:
    """A loss of 0 that joins the others in one micro-batch: the same gathers and sums in the same order, no gradient added.

    The order is step.py's: the decoder, then the head. Without gradients (a first pass) its value need not be used."""
    hidden_nd, _ = hidden_states(policy, [GroupTokens([0], [[0]])])
    head = head_of(policy.model)
    parts = [part for part in (hidden_nd, head.weight_vd, head.bias_v) if part is not None]
    return torch.stack([part.float().sum() * 0.0 for part in parts]).sum()


def _layers(body: torch.nn.Module) -> list[Any]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in body.modules() if isinstance(module, GradientCheckpointingLayer)]


def _outside(model: torch.nn.Module, body: torch.nn.Module) -> list[tuple[torch.nn.Module, str, str]]:
    """Parameters beyond the decoder: (module, name there, name in the decoder where it is tied or empty)."""
    inside = {id(parameter): name for name, parameter in body.named_parameters()}
    own = set(body.modules())
    return [
        (module, name, inside.get(id(parameter), ""))
        for module in model.modules()
        if module not in own
        for name, parameter in module.named_parameters(recurse=False)
    ]


def _spread_alone(parameter: torch.nn.Parameter, mesh: Any) -> torch.nn.Parameter:
    from torch.distributed.tensor import Shard, distribute_tensor

    value = parameter.detach().to(mesh.device_type)
    shares = distribute_tensor(value, mesh, [Shard(0)], src_data_rank=None)
    return torch.nn.Parameter(shares, requires_grad=parameter.requires_grad)


def _is_spread(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")
