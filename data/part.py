"""A part of a lake that is a lake itself: which slices and which files of journals go with a label, or with one slice.

With a label go its slices, all that was computed of their rows (scores, rewards, soft targets, …: a slice whose first parent is
there), what any of these was made from, the models that they name, and the journals' rows about them. Teacher answers go with
what hangs on them, also where they are somebody's parent only. Reads manifests and journals, writes nothing. Refuses labels and
slices that are not there."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.contract import TABLES
from data.lake import Lake
from data.manifest import Slice
from data.refusal import Refusal, nearest
from data.storage import read_shard

JOURNALS = tuple(name for name, table in TABLES.items() if table.journal)
POOLED = (
    "prompts",
    "samples",
    "answers",
)  # where a label's slices are of these, a recipe trains from it, a corpus beside
MODEL_SETTINGS = ("policy", "mixed_with")  # settings that name a model by its id


@dataclass(frozen=True)
class Part:
    """Slices, parents before what was made from them, and files of journals by table."""

    slices: list[Slice]
    journals: Mapping[str, Sequence[Path]]

    @property
    def files(self) -> int:
        """How many files it has, each once, without manifests."""
        return len({shard.file for s in self.slices for shard in s.shards}) + sum(map(len, self.journals.values()))


def part_of(lake: Lake, labels: Sequence[str] = (), paths: Sequence[str] = ()) -> Part:
    """The part of these labels and `table/name` paths; the whole lake, every journal with it, where neither is given.

    A path's slice goes with its parents and models alone."""
    every = {slice_.path: slice_ for name in TABLES for slice_ in lake.slices(name)}
    if not labels and not paths:
        return Part(_parents_first(every, every), {name: lake.journal(name) for name in JOURNALS})
    _refuse_unknown(lake, every, labels, paths)
    labelled = [s for s in every.values() if s.label in labels]
    held = _grown(every, [slice_.path for slice_ in labelled])
    if any(slice_.table in POOLED for slice_ in labelled):
        held |= _corpora(every, _above(every, held))
    held = _above(every, held | set(paths))
    held |= _models(every, held)
    return Part(_parents_first(every, held), _journals(lake, labels, held) if labels else {})


def _refuse_unknown(lake: Lake, every: Mapping[str, Slice], labels: Sequence[str], paths: Sequence[str]) -> None:
    known = {slice_.label for slice_ in every.values()}
    for what, asked, there in (("slice labelled", labels, known), ("slice", paths, set(every))):
        for name in asked:
            if name not in there:
                raise Refusal(
                    f"no {what} {name} in {lake.uri}: {nearest(name, there)}",
                    f"python -m data tables --lake {lake.uri}",
                )


def _above(every: Mapping[str, Slice], paths: Iterable[str]) -> set[str]:
    """These slices and all that they were made from, as far as it is there."""
    found: set[str] = set()
    left = list(paths)
    while left:
        if (path := left.pop()) in every and path not in found:
            found.add(path)
            left += every[path].parents
    return found


def _grown(every: Mapping[str, Slice], labelled: Iterable[str]) -> set[str]:
    """These slices and all that hangs on them by the first parent, which gives a slice its rows.

    By the first one alone: another pool's rewards compare with the same answers, and belong to that pool. Of what these were
    made from, the answers bring what hangs on them too, since a trainer reads them in the student's tokens, with their rewards."""
    hanging: dict[str, list[str]] = defaultdict(list)
    for slice_ in every.values():
        if slice_.parents:
            hanging[slice_.parents[0]].append(slice_.path)
    found: set[str] = set()
    left = list(labelled)
    while left:
        while left:
            if (path := left.pop()) not in found:
                found.add(path)
                left += hanging[path]
        left = [path for path in _above(every, found) - found if path.startswith("answers/")]
    return found


def _corpora(every: Mapping[str, Slice], held: set[str]) -> set[str]:
    """Corpora that were kept clear of prompts that are held: those of the prompts' recipes. They have no parents."""
    sources = [s.settings.get("source") for path, s in every.items() if path in held and s.table == "prompts"]
    return {p for p, s in every.items() if s.table == "corpus" and s.settings.get("clear_of", ()) in sources}


def _models(every: Mapping[str, Slice], held: set[str]) -> set[str]:
    """Slices of `models` whose model some held slice names: without them nobody knows whose scores and answers these are."""
    named: set[Any] = set()
    for slice_ in (every[path] for path in held):
        named |= {*slice_.models.values(), *(str(slice_.settings.get(name)) for name in MODEL_SETTINGS)}
    return {path for path, s in every.items() if s.table == "models" and s.models.get("model") in named}


def _parents_first(every: Mapping[str, Slice], held: Iterable[str]) -> list[Slice]:
    """The held slices in an order in which a cut copy lacks no parent."""
    wanted, found = set(held), dict[str, Slice]()

    def add(path: str) -> None:
        if path in wanted and path not in found:
            for parent in every[path].parents:
                add(parent)
            found[path] = every[path]

    for path in every:
        add(path)
    return list(found.values())


def _journals(lake: Lake, labels: Sequence[str], held: set[str]) -> dict[str, list[Path]]:
    """Runs of the labels' recipes and runs that read nothing but what is held; their metrics; what held slices and runs cost."""
    runs = []
    for path in lake.journal("runs"):
        rows = read_shard(path, path.stem, ["recipe", "slices"]).to_pylist()
        if any(row["recipe"] in labels or _read_only(row["slices"], held) for row in rows):
            runs.append(path)
    names = {path.stem for path in runs}
    metrics = [path for path in lake.journal("metrics") if path.stem in names]
    return {
        "runs": runs,
        "metrics": metrics,
        "costs": [p for p in lake.journal("costs") if _cost(p, held | names, labels)],
    }


def _read_only(slices: str, held: set[str]) -> bool:
    read = set(json.loads(slices))
    return bool(read) and read <= held


def _cost(path: Path, made: set[str], labels: Sequence[str]) -> bool:
    """Whether a row is about one of these slices and runs, or about what a labelled recipe paid over an API."""
    rows = read_shard(path, path.stem, ["produced", "recipe"]).to_pylist()
    return any(
        row["produced"] in made or (row["produced"].startswith("ledger/") and row["recipe"] in labels) for row in rows
    )
