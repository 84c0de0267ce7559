"""Loss memory of the chunked head against whole logits at a vocabulary of 262k and 2,048 tokens."""

from __future__ import annotations

from figures import Figure, in_child


def measure() -> list[Figure]:
    """One figure; both variants must give the same loss and gradient."""
    chunked, whole = in_child("head_memory.py", "chunked"), in_child("head_memory.py", "whole")
    if (
        abs(chunked["loss"] - whole["loss"]) > 1e-4 * whole["loss"]
        or abs(chunked["gradient"] - whole["gradient"]) > 1e-3 * whole["gradient"]
    ):
        raise RuntimeError(f"the two heads disagree: {chunked} {whole}")
    beside = f"{chunked['bytes'] / 1e6:.0f} MB against {whole['bytes'] / 1e6:.0f} MB above weights and gradients"
    return [
        Figure(
            "loss memory, chunked head ÷ whole logits (vocabulary 262k, 2,048 tokens)",
            chunked["bytes"] / whole["bytes"],
            1 / 8,
            "×",
            beside=beside,
        )
    ]
