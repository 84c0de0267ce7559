"""The whole board of EuroEval, by its own command on the finished checkpoint: `euroeval --model FOLDER --language fo …`.

Runs the command in a folder of its own and reads `euroeval_benchmark_results.jsonl` from there: one row a data set and iteration,
the metrics named DATASET.METRIC on the scale of EuroEval's totals, `…_radius` its 1.96 standard errors. The command downloads data
sets and starts an engine itself, so every model here makes room for it, and its progress is its own. It runs once on this machine,
not in workers. Refuses where the command is missing (with what installs it), fails, or leaves no result."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from data.fingerprint import model_folder
from data.keys import digest
from data.lake import Key, Lake, Shard
from data.manifest import Slice
from data.refusal import Refusal, in_range
from factory.benchmarks import Benchmark
from factory.benchmarks._slices import Measured, named, table
from factory.config import FactoryRecipe
from factory.context import Context, Work

RESULTS = "euroeval_benchmark_results.jsonl"
ENVIRONMENT = ".venv-euroeval"  # its own: it wants Python 3.12, and pins what it needs
INSTALL = f"python3.12 -m venv {ENVIRONMENT} && {ENVIRONMENT}/bin/pip install 'euroeval[generative]'"


@dataclass(frozen=True)
class Settings:
    """What the command is told. An empty choice is EuroEval's own."""

    command: str = "euroeval"
    """Its name on the PATH, or its path."""
    language: str = "fo"
    """Language whose official data sets are taken."""
    datasets: tuple[str, ...] = ()
    """Only these data sets, e.g. [foqa, scala-fo]; empty: all official ones of the language."""
    evaluated: Literal["test", "val"] = "test"
    """Split that is asked; val while something is being developed."""
    iterations: int = 10
    """How often each data set is resampled and asked."""
    generative_type: Literal["base", "instruction_tuned", "reasoning"] | None = None
    """How the model is asked; null: EuroEval finds out."""
    cache: str = ".euroeval_cache"
    """Folder of its downloads and model outputs."""
    arguments: tuple[str, ...] = ()
    """Further words of the command line."""

    def __post_init__(self) -> None:
        in_range("benchmarks.NAME.iterations", self.iterations, 1)


def check(recipe: FactoryRecipe, item: Benchmark) -> None:
    """Refuse a missing command, unless the lake has results already: then whoever runs it last is asked."""
    if not Lake.open(recipe.lake).slices("evaluations", benchmark=item.name):
        _command(item)


def _command(item: Benchmark) -> str:
    found = shutil.which(item.settings.command)
    if found is None:
        where = f"benchmarks.{item.name}.command={ENVIRONMENT}/bin/euroeval"
        raise Refusal(
            f"benchmark {item.name}: there is no command {item.settings.command} on the PATH",
            f"{INSTALL}, then {where}",
        )
    return str(Path(found).absolute())


def make(context: Context, role: str, item: Benchmark) -> Slice:
    """One row a data set and iteration."""
    chosen, model = item.settings, context.model(role)
    told = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(chosen).items()}
    spec = {"kind": item.kind, **{name: v for name, v in told.items() if name not in ("command", "cache")}}
    spec["release"] = _release()
    settings = named(context, role, item, spec)

    def compute(_: Shard, work: Work) -> pa.Table:
        while context.engines:
            context.engines.popitem()[1].close()
        folder = model_folder(model, context.recipe.runs).absolute()
        results = _run(item, folder, model.trust_remote_code)
        rows = [row for result in results for row in rows_of(result)]
        work.done(len(results))
        return table(context, role, item, rows)

    key = Key(settings, (), {"policy": context.row(role)["model_id"]}, (digest(settings),))
    return context.make(
        "evaluate", "evaluations", key, context.recipe.name, compute, total=len(chosen.datasets) or 1, unit="data sets",
        model=model.path,
    )  # fmt: skip


def _release() -> str | None:
    """The package's version where it is installed in this environment; in another one only its results say it."""
    try:
        return version("euroeval")
    except PackageNotFoundError:
        return None


def _run(item: Benchmark, folder: Path, trust: bool) -> list[dict[str, Any]]:
    """Results that the command wrote. Its words and its progress go to the terminal."""
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(words(_command(item), item.settings, folder, trust), cwd=place)
        file = Path(place) / RESULTS
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    what = f"benchmark {item.name}: {item.settings.command} on {folder}"
    if done.returncode:
        raise Refusal(
            f"{what} ended with code {done.returncode}; its own words stand above", "run it again when it can work"
        )
    if not any(line.strip() for line in lines):
        raise Refusal(
            f"{what} left no result in {RESULTS}; its own words stand above", "look there for what it skipped"
        )
    return [json.loads(line) for line in lines if line.strip()]


def words(command: str, settings: Settings, folder: Path, trust: bool) -> list[str]:
    """The command line."""
    line = [command, "--model", str(folder), "--language", settings.language]
    line += [word for name in settings.datasets for word in ("--dataset", name)]
    line += [f"--evaluate-{settings.evaluated}-split", "--num-iterations", str(settings.iterations)]
    line += ["--generative-type", settings.generative_type] if settings.generative_type else []
    line += ["--trust-remote-code"] if trust else []
    return [*line, "--cache-dir", str(Path(settings.cache).absolute()), *settings.arguments]


def rows_of(result: Mapping[str, Any]) -> Iterator[Measured]:
    """Rows of one line of results: schema "every eval ever" 0.2, or the plain one that older releases wrote."""
    dataset, totals, raw = _read(result)
    metrics = [name for name in totals if name.startswith("test_") and not name.endswith("_se")]
    shared = {f"{dataset}.{m.removeprefix('test_')}_radius": totals[f"{m}_se"] for m in metrics if f"{m}_se" in totals}
    values = {metric: _scaled([_of(one, metric) for one in raw], totals[metric]) for metric in metrics}
    for number in range(len(raw) or 1):
        own = {f"{dataset}.{m.removeprefix('test_')}": (v[number] if v else totals[m]) for m, v in values.items()}
        yield Measured(dataset, None, None, {**own, **shared}, number if raw else None)


def _read(result: Mapping[str, Any]) -> tuple[str, dict[str, float], list[Mapping[str, float]]]:
    """(data set, totals, one mapping an iteration)."""
    if "schema_version" not in result:
        return result["dataset"], dict(result["results"]["total"]), list(result["results"].get("raw", []))
    details = result["eval_library"]["additional_details"]
    totals = {}
    for one in result["evaluation_results"]:
        name, told = one["evaluation_name"], one["score_details"]
        totals[name] = float(told["score"])
        ends = told.get("uncertainty", {}).get("confidence_interval", {})
        if ends:
            totals[f"{name}_se"] = (ends["upper"] - ends["lower"]) / 2
    return details["dataset"], totals, json.loads(details["raw_results"])


def _of(iteration: Mapping[str, float], metric: str) -> float | None:
    return iteration.get(metric, iteration.get(metric.removeprefix("test_")))


def _scaled(values: list[float | None], total: float) -> list[float]:
    """An iteration's values on the total's scale, which is a hundred times theirs but for squad's; [] where one is missing."""
    there = [value for value in values if value is not None]
    if len(there) < len(values) or not there:
        return []
    mean = sum(there) / len(there)
    scale = 100 if abs(100 * mean - total) < abs(mean - total) else 1
    return [scale * value for value in there]
