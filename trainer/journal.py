"""A run's folder and its rows in the lake: run.json, metrics.jsonl, and the journal tables `metrics`, `runs`, `costs`.

Writes runs/NAME/. A run is finished when run.json says so, which is written last. Refuses a name that exists, names that are no
file names, and a resume under another configuration."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from data.config import Recipe
from data.lake import Lake
from data.refusal import Refusal, nearest
from data.storage import disk_refusal, read_shard, replace_durably
from data.typed import again

RECORD, METRICS = "run.json", "metrics.jsonl"
NAME = re.compile(r"[A-Za-z0-9][\w.\-]*")
CHANGES, WIDE = 3, 40  # settings named where two configurations differ, and characters of a value


@dataclass(frozen=True)
class Run:
    """A run by its folder."""

    name: str
    folder: Path

    @property
    def record(self) -> dict[str, Any] | None:
        """run.json, or None where the run does not exist."""
        path = self.folder / RECORD
        if not path.is_file():
            return None
        try:
            record = dict(json.loads(path.read_text(encoding="utf-8")))
            return record | {name: record[name] for name in ("configuration_hash", "status")}
        except (ValueError, TypeError, KeyError) as error:
            raise Refusal(
                f"{path} is no record of a run: {error!r}", f"run=ANOTHER_NAME, or rm -r {self.folder}"
            ) from error

    @property
    def metrics_path(self) -> Path:
        """metrics.jsonl."""
        return self.folder / METRICS

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Replace run.json atomically."""
        with disk(self.folder):
            temporary = self.folder / f".{RECORD}.tmp"
            try:
                temporary.write_text(
                    json.dumps(record, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
                )
                replace_durably(temporary, self.folder / RECORD)
            finally:
                temporary.unlink(missing_ok=True)  # a full disk leaves half of it


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    """A full or closed disk as a refusal."""
    try:
        yield
    except OSError as error:
        raise disk_refusal(error, str(folder)) from error


@contextmanager
def held(run: Run) -> Iterator[None]:
    """The run's folder, made and locked. The system frees the lock of a killed process."""
    import filelock

    with disk(run.folder):
        run.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(run.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise Refusal(
                f"run {run.name} is being trained by another process", "wait for it, or run=ANOTHER_NAME"
            ) from error
    try:
        yield
    finally:
        lock.release()


def claim(recipe: Recipe, hash_: str) -> tuple[Run, str]:
    """The run's name and whether it is new, found or resumed. Writes nothing.

    found: finished under the same configuration, and the recipe says reuse. resumed: asked for by name, or unfinished and reuse."""
    settings, runs = recipe.trainer, Path(recipe.runs)
    name = settings.resume or settings.run or f"{recipe.name}-{hash_[:8]}"
    if not NAME.fullmatch(name):
        raise Refusal(
            f"run={name}: letters, digits, dot, dash and underscore only", f"run={re.sub(r'[^A-Za-z0-9]', '-', name)}"
        )
    run = Run(name, runs / name)
    record, other = run.record, again("trainer", recipe.name, ["run=ANOTHER_NAME"], ("resume",))
    if record is None:
        if settings.resume:
            known = [path.parent.name for path in runs.glob(f"*/{RECORD}")]
            raise Refusal(
                f"no run named {name} in {runs}: {nearest(name, known)}", "python -m trainer recipe=… run=NAME"
            )
        if run.folder.exists() and not run.folder.is_dir():
            raise Refusal(f"{run.folder} is a file", "run=ANOTHER_NAME")
        if run.folder.exists() and any(path.name != ".lock" for path in run.folder.iterdir()):
            raise Refusal(f"{run.folder} exists and is no run", "run=ANOTHER_NAME")
        _refuse_journalled(recipe, run)
        return run, "new"
    same, finished = record["configuration_hash"] == hash_, record["status"] != "running"
    if settings.resume and not same:
        raise Refusal(
            f"run {name} was started under another configuration or from other slices{_changes(record, recipe)}",
            f"give the same settings again, or {other}",
        )
    if settings.resume and finished:
        raise Refusal(f"run {name} is {record['status']}: nothing is left to train", other)
    if settings.resume:
        return run, "resumed"
    if settings.reuse and same:
        return run, "found" if finished else "resumed"
    if not same:
        raise Refusal(f"run {name} exists under another configuration{_changes(record, recipe)}", other)
    if finished:
        raise Refusal(f"run {name} exists", other)
    raise Refusal(f"run {name} exists and is not finished", again("trainer", recipe.name, [f"resume={name}"], ("run",)))


def _changes(record: Mapping[str, Any], recipe: Recipe) -> str:
    """What differs between a run's settings and a recipe's, as a clause: the first three of them."""
    before, now = _flat(record.get("configuration") or {}), _flat(json.loads(json.dumps(asdict(recipe))))
    outside = {"lake", "runs", "trainer.run", "trainer.resume", "trainer.reuse"}
    both = [k for k in now | before if k not in outside and k.partition(".")[0] not in ("factory", "executor")]
    keys = [k for k in both if before.get(k) != now.get(k)]
    told = [f"{k.removeprefix('trainer.')} {_short(before.get(k))} → {_short(now.get(k))}" for k in keys[:CHANGES]]
    more = f" and {len(keys) - CHANGES} more" if len(keys) > CHANGES else ""
    return f": {', '.join(told)}{more}" if told else ": other slices or weights, the settings are the same"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their whole keys; a list is one value, and so is what is empty."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {f"{prefix}{name}": value}
        )
    return found


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= WIDE else text[: WIDE - 1] + "…"


def claim_made(name: str, runs: str) -> Run:
    """The run of a command that makes a model without training; new, or made already. Refuses folders that are no runs."""
    if not NAME.fullmatch(name):
        raise Refusal(f"run={name}: letters, digits, dot, dash and underscore only", "run=ANOTHER_NAME")
    run = Run(name, Path(runs) / name)
    if run.record is None and run.folder.exists() and any(path.name != ".lock" for path in run.folder.iterdir()):
        raise Refusal(f"{run.folder} exists and is no run", "run=ANOTHER_NAME")
    return run


def refuse_other(run: Run, hash_: str) -> None:
    """Refuse a run that exists and was made from something else."""
    if run.record is None or run.record["configuration_hash"] != hash_:
        raise Refusal(f"run {run.name} exists and is another model", "run=ANOTHER_NAME")


def _refuse_journalled(recipe: Recipe, run: Run) -> None:
    """Refuse a name under which the lake knows a run in another folder: its rows would be replaced."""
    known = [path for path in Lake.open(recipe.lake).journal("runs") if path.stem == run.name]
    folders = [name for path in known for name in read_shard(path, run.name, ["folder"]).column(0).to_pylist()]
    for folder in (Path(name) for name in folders if name):
        if folder.resolve() != run.folder.resolve() and folder.is_dir():
            raise Refusal(
                f"run {run.name} exists in this lake, in {folder}", f"run=ANOTHER_NAME, or runs={folder.parent}"
            )


def refuse_unknown(recipe: Recipe) -> None:
    """Refuse to resume a run that is not there, before anything is read."""
    name, runs = recipe.trainer.resume, Path(recipe.runs)
    if name and Run(name, runs / name).record is None:
        known = [path.parent.name for path in runs.glob(f"*/{RECORD}")]
        hint = f": {nearest(name, known)}" if known else ""
        raise Refusal(
            f"no run named {name} in {runs}{hint}", again("trainer", recipe.name, [f"run={name}"], ("resume",))
        )


class Metrics:
    """metrics.jsonl, one line a step: appended to while training, cut after a step on resume. `last`: the last one kept."""

    def __init__(self, run: Run, after: int):
        self.run = run
        with disk(run.folder):
            kept = [line for line in read_metrics(run) if line["step"] <= after]
            temporary = run.folder / f".{METRICS}.tmp"
            temporary.write_text("".join(_line(values) for values in kept), encoding="utf-8")
            replace_durably(temporary, run.metrics_path)
            self.file: IO[str] = run.metrics_path.open("a", encoding="utf-8")
        self.last: dict[str, float] = {k: v for k, v in kept[-1].items() if k != "step"} if kept else {}

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One step's figures."""
        with disk(self.run.folder):
            self.file.write(_line({"step": step, **values}))
            self.file.flush()

    def sync(self) -> None:
        """Bring all lines to the disk, before the checkpoint that counts on them."""
        with disk(self.run.folder):
            os.fsync(self.file.fileno())

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), sort_keys=True, allow_nan=False) + "\n"


def read_metrics(run: Run) -> list[dict[str, Any]]:
    """All whole lines of metrics.jsonl; a line that a kill cut short is none."""
    if not run.metrics_path.is_file():
        return []
    try:
        text = run.metrics_path.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [{**line, "step": int(line["step"])} for line in lines]
    except (ValueError, TypeError, KeyError) as error:
        raise Refusal(
            f"{run.metrics_path} holds a line that is no step's metrics: {error!r}",
            "remove that line, then run the same command",
        ) from error


def publish(lake: Lake, run: Run, row: Mapping[str, Any]) -> None:
    """The run's rows of `metrics` and `runs`, in place of older ones."""
    import pyarrow as pa

    from data.contract import METRICS as METRICS_TABLE
    from data.contract import RUNS

    values = [
        {"run": run.name, "step": line["step"], "name": name, "value": value}
        for line in read_metrics(run)
        for name, value in line.items()
        if name != "step"
    ]
    lake.append("metrics", pa.Table.from_pylist(values, schema=METRICS_TABLE.schema), run.name)
    stamped = {**row, "run": run.name, "created_at": datetime.now(UTC)}
    lake.append("runs", pa.Table.from_pylist([stamped], schema=RUNS.schema), run.name)


def publish_cost(
    lake: Lake, run: Run, recipe: str, model: str, tokens: int, seconds: float, steps: int, device: str
) -> None:
    """What the training cost, as one row of `costs`."""
    import pyarrow as pa

    from data.contract import COSTS

    row = {
        "stage": "training",
        "recipe": recipe,
        "produced": run.name,
        "model": model,
        "items": steps,
        "tokens_in": tokens,
        "seconds": seconds,
        "device": device,
        "created_at": datetime.now(UTC),
    }
    lake.append("costs", pa.Table.from_pylist([row], schema=COSTS.schema), f"training-{run.name}")
