"""From a recipe to the first group of a large pool: wall and memory, in a process of its own."""

from __future__ import annotations

from figures import Figure, in_child


def measure() -> list[Figure]:
    """Two figures of a pool of 16 M samples in shards as the factory makes them."""
    found = in_child("start_reading.py")
    beside = ", ".join(f"{name} {found[name]:.1f} s" for name in ("resolve", "save", "first", "cpu"))
    return [
        Figure("16 M samples, from the recipe to the first group: wall", found["seconds"], 10, "s", beside=beside),
        Figure(
            "the same: memory above the start", found["bytes"] / 1e9, 2, "GB", beside=f"{found['shards']:.0f} shards"
        ),
    ]
