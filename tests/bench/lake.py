"""Advantages of a large pool, streaming speed and stored size, each measured in a process of its own."""

from __future__ import annotations

from figures import Figure, in_child


def measure() -> list[Figure]:
    """Four figures; the pool has 16 M samples and three components."""
    pool, stream = in_child("lake_reading.py", "advantages"), in_child("lake_reading.py", "streaming")
    return [
        Figure("advantages of 16 M samples, 3 components, per group: wall", pool["seconds"], 2.5, "s"),
        Figure("advantages of 16 M samples: memory", pool["bytes"] / 1e9, 2.0, "GB"),
        Figure(
            "streaming shuffled groups with a scorer beside",
            stream["tokens_per_second"] / 1e6,
            10,
            "M tokens/s",
            at_least=True,
        ),
        Figure("two log-probability streams on disk", stream["bytes_per_token"], 5, "bytes/token"),
    ]
