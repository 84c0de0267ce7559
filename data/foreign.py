"""Names that a key is called by elsewhere, and what it is called here: TRL's, and the last part of our own.

The pairs are those of docs/glossary.md, which a test compares. Reads nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping

# TRL's name → ours; docs/glossary.md explains where the values differ
TRL = {
    "num_generations": "sampling.n",
    "max_completion_length": "sampling.max_tokens",
    "per_device_train_batch_size": "replay.prompts",
    "num_iterations": "replay.epochs",
    "reward_funcs": "components",
    "reward_weights": "reward",
    "scale_rewards": "replay.advantage",
    "mask_truncated_completions": "replay.truncated",
    "loss_type": "objective",
    "importance_sampling_level": "objective",
    "epsilon": "clip.clip_low",
    "epsilon_high": "clip.clip_high",
    "delta": "clip.dual_clip",
    "beta": "losses.kl",
    "output_dir": "run",
    "resume_from_checkpoint": "resume",
    "learning_rate": "optimiser.lr",
    "warmup_steps": "optimiser.warmup",
    "max_grad_norm": "optimiser.clip",
    "peft_config": "optimiser.lora",
    "gradient_checkpointing": "optimiser.compute.activation_checkpointing",
}
ALIKE = (
    "num_generations",
    "max_completion_length",
    "epsilon",
    "delta",
    "beta",
    "learning_rate",
    "warmup_steps",
    "max_grad_norm",
)
"""Those whose number means the same here."""
NUMBER = re.compile(r"-?[\d.]+(e-?\d+)?")


def ours(key: str, value: str, known: Mapping[str, str]) -> tuple[str, str] | None:
    """(a clause, the override to give) for a key that has another name here; None for a key that nobody knows.

    known: every setting's last part → its whole key, where only one has that part.
    >>> ours("learning_rate", "1e-6", {})
    ('learning_rate of TRL is optimiser.lr here', 'optimiser.lr=1e-6')
    >>> ours("lr", "3", {"lr": "optimiser.lr"})
    ('it is optimiser.lr', 'optimiser.lr=3')
    """
    if key in known:
        return f"it is {known[key]}", f"{known[key]}={value}"
    if key not in TRL:
        return None
    same = key in ALIKE and all(NUMBER.fullmatch(part) for part in value.split(","))
    return f"{key} of TRL is {TRL[key]} here", f"{TRL[key]}={value if same else '…'}"
