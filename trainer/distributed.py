"""Data parallelism by torchrun: every process plans the same step, forwards its share, and sums gradients with the others.

Reads torchrun's variables. A run of one process makes no process group and opens no socket."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from data.refusal import Refusal

Result = TypeVar("Result")
CHUNK = 1 << 24  # elements of one all-reduce: 64 MiB of float32


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where tensors must lie to be sent."""
        return torch.device("cuda" if self.size > 1 and torch.distributed.get_backend() == "nccl" else "cpu")

    def say(self, text: str) -> None:
        """Print a line once, not once a process."""
        if self.first:
            print(text, flush=True)

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            torch.distributed.barrier()

    def sum_(self, tensor: Tensor) -> Tensor:
        """The sum over processes, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def agreed(self, value: dict[str, float]) -> dict[str, float]:
        """The first process's figures, everywhere."""
        return value if self.size == 1 else self.gathered(value)[0]

    def gathered(self, value: Any) -> list[Any]:
        """Every process's value, which must be JSON, by rank, everywhere."""
        return [json.loads(text.decode()) for text in self._gathered_bytes(json.dumps(value).encode())]

    def gathered_tensors(self, tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Every process's named tensors by rank, everywhere; a process may have none. Safetensors travel, nothing is pickled."""
        if self.size == 1:
            return [tensors]
        from safetensors.torch import load, save

        device = next(iter(tensors.values())).device if tensors else self.device
        parts = self._gathered_bytes(save({name: value.contiguous().cpu() for name, value in tensors.items()}))
        return [{name: value.to(device) for name, value in load(part).items()} for part in parts]

    def together(self, work: Callable[[], Result]) -> Result:
        """What `work` gives, once it has gone well in every process.

        A Refusal in any of them ends all: the first process that refuses says it, the others exit with code 2 in silence."""
        result, refused = None, None
        try:
            result = work()
        except Refusal as refusal:
            refused = list(refusal.args)
        said = self.gathered(refused)
        first = next((rank for rank, one in enumerate(said) if one is not None), None)
        if first is None:
            return cast("Result", result)
        if first == self.rank:
            raise Refusal(*said[first])
        raise SystemExit(2)

    def _gathered_bytes(self, text: bytes) -> list[bytes]:
        """Every process's bytes by rank, everywhere."""
        if self.size == 1:
            return [text]
        sizes = [torch.zeros(1, dtype=torch.long, device=self.device) for _ in range(self.size)]
        torch.distributed.all_gather(sizes, torch.tensor([len(text)], device=self.device))
        width = max(int(size) for size in sizes)
        row = torch.zeros(width, dtype=torch.uint8, device=self.device)
        row[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(self.device)
        rows = [torch.zeros_like(row) for _ in range(self.size)]
        torch.distributed.all_gather(rows, row)
        return [bytes(r[: int(size)].cpu().numpy()) for r, size in zip(rows, sizes, strict=True)]

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum gradients over processes in float32; a process without work adds zeros, or the others would wait for ever.

        Weights that are spread (fsdp.py) have been summed in the backward pass."""
        if self.size == 1:
            return
        for part in _chunks([p for p in parameters if not hasattr(p, "full_tensor")]):
            flat = torch.cat([_gradient(p).reshape(-1).float() for p in part])
            torch.distributed.all_reduce(flat)
            for parameter, summed in zip(part, flat.split([p.numel() for p in part]), strict=True):
                parameter.grad = summed.view_as(parameter).to(parameter.dtype)


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _chunks(parameters: Sequence[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    part: list[torch.nn.Parameter] = []
    for parameter in parameters:
        if part and sum(p.numel() for p in part) + parameter.numel() > CHUNK:
            yield part
            part = []
        part.append(parameter)
    if part:
        yield part


def world() -> World:
    """The processes torchrun started; alone, nothing is set up."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return World(torch.distributed.get_rank(), size)
