"""Shards computed where the command runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pyarrow as pa

from data.lake import Shard


def computed(
    shards: Sequence[Shard], compute: Callable[[Shard], pa.Table], at_once: int
) -> Iterator[tuple[Shard, pa.Table]]:
    """Each shard with its rows, `at_once` of them in the making: as they are done, or in order where there is one at a time."""
    if at_once == 1:
        yield from ((shard, compute(shard)) for shard in shards)
        return
    waiting, threads = iter(shards), ThreadPoolExecutor(at_once)
    try:
        running = {threads.submit(compute, shard): shard for shard in itertools.islice(waiting, at_once)}
        while running:
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                shard = running.pop(done)
                yield shard, done.result()
                running |= {threads.submit(compute, s): s for s in itertools.islice(waiting, 1)}
    finally:  # after an error nobody waits for the rest: the engine is closed, which ends them
        threads.shutdown(wait=False, cancel_futures=True)
