"""Trackers, the real packages offline: they hold metrics.jsonl's rows, a resumed run once, no credential; a failing one is left."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data.refusal import Refusal
from trainer import loop
from trainer.loop import train

ROOT = Path(__file__).resolve().parents[2]
CANARY = "sk-canary-4e81b7d2"
Read = Callable[[Path, Path], dict[int, dict[str, float]]]


class Killed(BaseException):
    """What a signal does to a run, without a process of its own."""


def _tensorboard(run: Path, _: Path) -> dict[int, dict[str, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events, found = EventAccumulator(str(run / "tensorboard")), dict[int, dict[str, float]]()
    events.Reload()
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            assert name not in found.setdefault(event.step, {}), "a step that was trained again stands there twice"
            found[event.step][name] = event.value
    return found


def _records(file: Path) -> Iterator[bytes]:
    """Records of a file in LevelDB's log format: blocks of 32 KiB; checksum, length, kind (whole, first, middle, last), bytes."""
    content, at, whole = file.read_bytes(), 7, b""  # wandb's own first bytes
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def _wandb(run: Path, _: Path) -> dict[int, dict[str, float]]:
    from wandb.proto.wandb_internal_pb2 import Record

    found, ids = dict[int, dict[str, float]](), set()
    for file in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        ids.add(file.stem)
        for data in _records(file):
            record = Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                row = {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}
                found[int(row["_step"])] = {k: v for k, v in row.items() if not k.startswith("_")}
    assert len(ids) == 1, "a resumed run has the same id"
    return found


def _trackio(run: Path, home: Path) -> dict[int, dict[str, float]]:
    from trackio.sqlite_storage import SQLiteStorage

    assert SQLiteStorage.get_runs("tiny") == [run.name]
    rows, found = SQLiteStorage.get_logs("tiny", run.name), dict[int, dict[str, float]]()
    for row in rows:
        assert row["step"] not in found
        found[row["step"]] = {k: v for k, v in row.items() if k not in ("step", "timestamp")}
    return found


READ: dict[str, Read] = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where trackers keep what is not the run's; nothing is sent, and the environment has credentials."""
    folder = tmp_path / "home"
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_API_KEY": CANARY,
        "OPENAI_API_KEY": CANARY,
        "WANDB_CONFIG_DIR": str(folder / "config"),
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "TRACKIO_DIR": str(folder / "trackio"),
    }.items():
        monkeypatch.setenv(name, value)
    if importlib.util.find_spec("trackio"):  # it reads its folder once, when it is imported
        utils, storage = (importlib.import_module(f"trackio.{name}") for name in ("utils", "sqlite_storage"))
        for module in (utils, storage):
            monkeypatch.setattr(module, "TRACKIO_DIR", folder / "trackio")
    return folder


def _rows(run: Path) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {line.pop("step"): line for line in lines}


def _recipe(made: Any, *names: str, **changes: Any) -> Any:
    student = dataclasses.replace(made.recipe.student, request={"authorization": f"Bearer {CANARY}"})
    settings = {
        "steps": 5,
        "replay__bc": "teacher",
        "replay__prompts": 2,
        "checkpoint__every": 2,
        "run": "tracked",
        **changes,
    }
    return made.with_(trackers=list(names), student=student, **settings)


def _killed_at(monkeypatch: pytest.MonkeyPatch, step: int, recipe: Any) -> None:
    real = loop.one_step

    def dying(training: Any) -> None:
        if training.step == step:
            raise Killed
        real(training)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "one_step", dying)
        with pytest.raises(Killed):
            train(recipe)


@pytest.mark.parametrize("name", READ)
def test_a_resumed_run_is_one_run_of_the_tracker_with_the_rows_of_metrics_and_no_credential(
    name: str, made: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed: pip install -e '.[tracking]'")
    recipe, run = _recipe(made, name), tmp_path / "runs" / "tracked"
    _killed_at(monkeypatch, 4, recipe)  # step 3 was logged, and is trained again from the checkpoint of step 2
    train(dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, run=None, resume="tracked")))
    out = capfd.readouterr().out
    assert out.count(f"tracked by {name}: ") == 2 and "failed" not in out
    found, expected = READ[name](run, home), _rows(run)
    assert sorted(found) == sorted(expected) == [1, 2, 3, 4, 5]
    for step, row in expected.items():
        assert set(found[step]) == set(row)
        steady = {k: v for k, v in row.items() if k != "tokens_per_second"}
        assert {k: found[step][k] for k in steady} == pytest.approx(steady, rel=1e-6, abs=1e-12), step
    places = [run / name, home]
    written = [path.read_bytes() for place in places for path in place.rglob("*") if path.is_file()]
    assert any(b"trl_k1" in content or b"seq" in content or b"points" in content for content in written)
    assert not any(CANARY.encode() in content for content in written)


def test_a_tracker_that_fails_is_said_once_and_the_run_goes_on(
    made: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tensorboard = importlib.import_module("trainer.trackers.tensorboard")
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    real = tensorboard.TensorBoard.log

    def failing(self: Any, step: int, values: Any) -> None:
        if step >= 2:
            raise ConnectionError(f"no route\nfor {CANARY}")
        real(self, step, values)

    monkeypatch.setattr(tensorboard.TensorBoard, "log", failing)
    train(_recipe(made, "tensorboard"))
    out = capfd.readouterr().out
    said = [line for line in out.splitlines() if "tracker tensorboard failed" in line]
    assert said == ["tracker tensorboard failed and is left; the run goes on: ConnectionError: no route for (hidden)"]
    record = json.loads((tmp_path / "runs" / "tracked" / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "finished" and sorted(_rows(tmp_path / "runs" / "tracked")) == [1, 2, 3, 4, 5]


def test_one_that_cannot_begin_is_said_too(
    made: Any, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run = tmp_path / "runs" / "tracked"
    recipe = _recipe(made, "tensorboard", checkpoint__every=None)
    run.mkdir(parents=True)
    (run / ".lock").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.utils.tensorboard.SummaryWriter", None)
        train(recipe)
    out = capfd.readouterr().out
    assert out.count("tracker tensorboard failed") == 1 and "tracked by" not in out and "run tracked: finished" in out


@pytest.mark.parametrize(
    ("name", "missing", "says"),
    [
        ("wanb", None, ("did you mean 'wandb'", "trackers=[")),
        ("trackio", "trackio", ("not installed", "pip install trackio")),
    ],
)
def test_an_unknown_or_missing_tracker_is_refused_before_training(
    name: str, missing: str | None, says: tuple[str, str], made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == missing else real(asked))
    with pytest.raises(Refusal) as refused:
        train(_recipe(made, name))
    assert says[0] in refused.value.args[0] and says[1] in refused.value.args[1]
    assert not (tmp_path / "runs").exists()


def test_trackers_change_no_configuration_hash_and_stand_on_the_command_line(made: Any, home: Path) -> None:
    from trainer.sources import configuration_hash, resolve

    plain, tracked = _recipe(made), _recipe(made, "tensorboard")
    assert configuration_hash(plain, resolve(plain)) == configuration_hash(tracked, resolve(tracked))
    done = made.cli("trackers=[tensorbord]")
    assert done.returncode == 2 and "did you mean 'tensorboard'" in done.stderr


def test_nothing_of_a_tracker_is_loaded_where_none_is_named(made: Any) -> None:
    code = (
        "import sys; import trainer.__main__ as m; assert m.COMMAND.main(sys.argv[1:]) == 0;"
        "print(sorted({'trackio', 'wandb', 'tensorboard'} & set(sys.modules)))"
    )
    overrides = ["replay.bc=teacher", "replay.prompts=2", "steps=1", "run=plain"]
    command = made.command(*overrides)
    done = subprocess.run([sys.executable, "-c", code, *command[3:]], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
