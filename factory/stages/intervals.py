"""Bootstrap intervals and paired differences of what was evaluated: the last step of the stage evaluate.

Reads the newest `evaluations` of every policy on the benchmarks at hand, those of earlier calls too. Writes `intervals`, a slice a
benchmark, named by the evaluations it was made from: a policy that is evaluated again brings new ones for all."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from data.contract import INTERVALS
from data.intervals import SETTINGS, interval_rows
from data.lake import Key, Shard
from data.manifest import Slice
from data.relations import current
from factory.context import Context, Work

MODELS_OWN = {
    "chat",
    "limit",
    "reasoning",
    "stop",
}  # how a model is spoken to, and how many items; common ones are compared
WHOLE = ("whole",)  # one shard, of how many shards ever the evaluations have


def publish(context: Context, evaluated: Iterable[Slice]) -> list[Slice]:
    """The intervals of each benchmark among these slices of `evaluations`, which are the newest from here on."""
    slices, label = list(evaluated), context.recipe.name
    for slice_ in slices:
        if slice_.path not in {held.path for held in _newest(context)}:
            context.lake.renew(slice_)  # found, but another model was evaluated under the policy's name since
    newest = _newest(context)
    made = []
    for benchmark in dict.fromkeys(slice_.settings["benchmark"] for slice_ in slices):
        parents = sorted((s for s in newest if s.settings.get("benchmark") == benchmark), key=lambda s: s.path)
        made.append(_made(context, label, benchmark, parents))
    return made


def _newest(context: Context) -> list[Slice]:
    """The newest evaluations of each policy and benchmark of the recipe."""
    return current(context.lake.slices("evaluations", label=context.recipe.name))


def _made(context: Context, label: str, benchmark: str, parents: list[Slice]) -> Slice:
    def compute(_: Shard, work: Work) -> pa.Table:
        columns = ["policy", "benchmark", "item", "gold", "metrics"]
        rows = interval_rows(pa.concat_tables([context.lake.read(parent, columns) for parent in parents]))
        work.done(len(rows))
        return pa.Table.from_pylist(rows, schema=INTERVALS.schema)

    key = Key({"benchmark": benchmark, **SETTINGS}, tuple(parents), contents=WHOLE)
    made = context.make("evaluate", "intervals", key, label, compute, total=len(parents) ** 2, unit="figures")
    if made.path not in {held.path for held in current(context.lake.slices("intervals", label=label))}:
        context.lake.renew(made)
    for name in unlike(parents):
        context.remark(
            made, f"policies were measured under other settings of {name}: their differences are of that, too"
        )
    return made


def unlike(evaluated: Iterable[Slice]) -> list[str]:
    """Settings of a benchmark that are not the same for all, but for those that are the model's own and choose no answer."""
    specs = [slice_.settings.get("spec", {}) for slice_ in evaluated]
    names = sorted({name for spec in specs for name in spec} - MODELS_OWN)
    return [name for name in names if any(spec.get(name) != specs[0].get(name) for spec in specs)]
