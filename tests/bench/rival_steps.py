"""Loss and backward pass of one group, four ways with the same gradient: ours, plain transformers, TRL, and TRL patched.

Needs TRL's environment (`make bench-env`) for the last two. `ours` is `trainer.step.run_step` itself. `plain` runs padded rows with
`logits_to_keep`. `trl` is `GRPOTrainer.compute_loss` on prepared inputs, as TRL comes: on a CPU its head runs over prompts too.
`trl_completions` makes it take the head over completion tokens only, as on CUDA. All: objective grpo, π_old = μ given, clip 0.2,
mean over samples of the mean over tokens, no KL. Axis suffixes: b sample, t token. Log-probabilities in nats."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from our_step import CLIP, draw_tokens, group_of, our_step
from shapes import VOCABULARY, Shape, policy
from torch import Tensor

if TYPE_CHECKING:
    from trainer.replay import Group

VARIANTS = ("ours", "plain", "trl", "trl_completions")
PAD = 2


@dataclass
class Work:
    """One group with its behaviour and advantages, in the form of each variant; the model carries the gradients."""

    model: Any
    step: Callable[[], float]
    """Forward and backward; returns the loss. Gradients are added to those that stand."""
    detail: dict[str, Any] = field(default_factory=dict)


def work(variant: str, shape: Shape, layers: int, device: str = "cpu", dtype: str = "float32") -> Work:
    """The variant with a model of its own; the same weights, tokens, μ and advantages for every variant."""
    found = policy(layers, device, dtype)
    prompt, completions = draw_tokens(shape.prompt, shape.lengths, seed=0, vocabulary=VOCABULARY)
    behaviour = _behaviour(found, prompt, completions)
    group = group_of(prompt, completions, behaviour, np.random.default_rng(1).normal(size=shape.samples))
    if variant == "ours":
        return _ours(found, shape, group)
    found.model.set_attn_implementation("sdpa")
    found.model.get_input_embeddings().sparse = False  # as transformers leaves it
    rows = _padded(group, device)
    if variant == "plain":
        return Work(found.model, lambda: _plain(found.model, rows))
    return _trl(found, shape, rows, compact=variant == "trl_completions")


@torch.no_grad()
def _behaviour(found: Any, prompt: list[int], completions: list[list[int]]) -> list[np.ndarray]:
    """log μ: the policy's own, moved so far that a part of the ratios is clipped."""
    from trainer.forward import GroupTokens, group_logprobs

    source = np.random.default_rng(2)
    rows = [group_logprobs(found, [GroupTokens(prompt, [completion])]).cpu().numpy() for completion in completions]
    return [(row + source.normal(scale=0.15, size=len(row))).astype(np.float32) for row in rows]


def _ours(found: Any, shape: Shape, group: Group) -> Work:
    step, plan = our_step(found, [group], shape.budget)
    return Work(found.model, step, {"layout": found.layout, "passes": len(plan.micro[0])})


def _padded(group: Group, device: str) -> dict[str, Tensor]:
    """What TRL's generation would have handed to its loss: prompts, completions padded on the right, masks."""
    completions, count = group.completions, len(group.completions)
    longest = max(map(len, completions))
    ids_bt, mask_bt, old_bt = (np.full((count, longest), fill) for fill in (PAD, 0, 0.0))
    for b, completion in enumerate(completions):
        ids_bt[b, : len(completion)], mask_bt[b, : len(completion)] = completion, 1
        old_bt[b, : len(completion)] = group.behaviour[b]
    prompt_bt = torch.tensor([group.prompt] * count)
    rows = {
        "prompt_ids": prompt_bt,
        "prompt_mask": torch.ones_like(prompt_bt),
        "completion_ids": torch.from_numpy(ids_bt),
        "completion_mask": torch.from_numpy(mask_bt),
        "old_per_token_logps": torch.from_numpy(old_bt).float(),
        "advantages": torch.from_numpy(group.advantages),
        "num_items_in_batch": torch.tensor(float(mask_bt.sum())),
    }
    return {name: tensor.to(device) for name, tensor in rows.items()}


def _plain(model: Any, rows: dict[str, Tensor]) -> float:
    """Padded rows through transformers, whole logits of the completions, the clipped surrogate as written in the paper."""
    target_bt, mask_bt, a_b1 = rows["completion_ids"], rows["completion_mask"], rows["advantages"][:, None]
    logits_btv = model(
        input_ids=torch.cat([rows["prompt_ids"], target_bt], 1),
        attention_mask=torch.cat([rows["prompt_mask"], mask_bt], 1),
        logits_to_keep=target_bt.shape[1] + 1,
    ).logits[:, :-1]
    logprob_bt = -torch.nn.functional.cross_entropy(
        logits_btv.float().flatten(0, 1), target_bt.flatten(), reduction="none"
    ).view_as(target_bt)
    ratio_bt = (logprob_bt - rows["old_per_token_logps"]).exp()
    surrogate_bt = torch.min(ratio_bt * a_b1, ratio_bt.clamp(1 - CLIP, 1 + CLIP) * a_b1)
    loss = -((surrogate_bt * mask_bt).sum(1) / mask_bt.sum(1)).mean()
    loss.backward()
    return loss.item()


def _trl(found: Any, shape: Shape, rows: dict[str, Tensor], compact: bool) -> Work:
    """TRL's own trainer, its own `compute_loss`. `compact`: its head takes the rows that have a label, its CUDA way."""
    trainer = grpo_trainer(found, shape, [lambda completions, **_: [0.0] * len(completions)])
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()

    def step() -> float:
        with compacted() if compact else nullcontext():
            loss = trainer.compute_loss(trainer.model, rows)
        loss.backward()
        return loss.item()

    return Work(trainer.model, step)


def compacted() -> AbstractContextManager[Any]:
    """Within it TRL's head takes only the rows that have a label, as it decides for itself on CUDA."""
    return mock.patch("trl.trainer.utils._use_triton", lambda _: True)


def grpo_trainer(
    found: Any,
    shape: Shape,
    rewards: list[Any],
    prompts: list[str] | None = None,
    settings: dict[str, Any] | None = None,
    **beside: Any,
) -> Any:
    """TRL's GRPOTrainer on this model: one group a step, no KL, no activation checkpointing, the model's own precision."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    chosen = {
        "output_dir": tempfile.mkdtemp(prefix="bench-trl-"),
        "per_device_train_batch_size": shape.samples,
        "num_generations": shape.samples,
        "max_completion_length": shape.longest,
        "beta": 0.0,
        "epsilon": CLIP,
        "loss_type": "grpo",
        "activation_checkpointing": False,
        "bf16": False,
        "use_cpu": found.device.type == "cpu",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    trainer = GRPOTrainer(
        model=found.model,
        reward_funcs=rewards,
        args=GRPOConfig(**(chosen | (settings or {}))),
        train_dataset=Dataset.from_dict({"prompt": prompts or ["t3"] * shape.samples}),
        processing_class=found.tokenizer,
        **beside,
    )
    if trainer.model.is_gradient_checkpointing:
        raise RuntimeError("TRL recomputes its activations here: it would be slower than it need be")
    return trainer
