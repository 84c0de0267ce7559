"""`python -m data doctor` over a whole lake, damaged ones and none, and with packages that are missing or of another version."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from data import Lake, doctor
from data.__main__ import main
from data.manifest import FILE

ROOT = Path(__file__).parents[2]


def _doctor(capfd: pytest.CaptureFixture[str], lake: object, runs: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--lake", str(lake), "--runs", str(runs)])
    return int(ended.value.code or 0), capfd.readouterr().out


def _line(out: str, beginning: str) -> str:
    return next(line for line in out.splitlines() if line[2:].startswith(beginning))


def test_a_whole_lake_is_well_and_its_counts_are_verifys(
    lake: Lake, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out = _doctor(capfd, lake.root, tmp_path)
    assert code == 0 and out.endswith("\nnothing is broken\n")
    assert "17 slices" in _line(out, str(lake.root)) and "6 journal files" in out
    assert _line(out, "torch ").split()[1] == importlib.metadata.version("torch")
    assert "free at" in _line(out, "lake ") and "0 files, 0 bytes" in _line(out, "garbage")
    assert "python -m trainer recipe=demo" in out  # no run yet


def test_without_a_lake_nothing_is_broken_and_the_command_that_makes_one_is_named(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out = _doctor(capfd, tmp_path / "none", tmp_path / "runs")
    assert code == 0
    assert f"no lake yet   → python -m factory recipe=demo lake={tmp_path}/none" in out
    assert not list(tmp_path.iterdir())


def _remove(lake: Lake) -> str:
    path = lake.slices("samples", label="demo")[0].files[0]
    path.unlink()
    return "part-00000.parquet is missing"


def _cut(lake: Lake) -> str:
    path = lake.slices("rewards", label="length")[0].files[1]
    path.write_bytes(path.read_bytes()[:-20])
    return "part-00001.parquet is no Parquet file"


def _orphan(lake: Lake) -> str:
    (lake.root / lake.slices("groups", label="demo")[0].path / FILE).unlink()
    return "is gone"


def _manifest(lake: Lake) -> str:
    (lake.root / lake.slices("groups", label="demo")[0].path / FILE).write_text("{", encoding="utf-8")
    return "is not a manifest"


def _journal(lake: Lake) -> str:
    lake.journal("metrics")[0].write_bytes(b"no table")
    return "r1.parquet is no Parquet file"


@pytest.mark.parametrize("damage", [_remove, _cut, _orphan, _manifest, _journal])
def test_a_damaged_lake_is_broken_and_verify_is_named(
    lake_copy: Lake, capfd: pytest.CaptureFixture[str], tmp_path: Path, damage: Callable[[Lake], str]
) -> None:
    fault = damage(lake_copy)
    code, out = _doctor(capfd, lake_copy.root, tmp_path)
    assert code == 1
    assert any(line.startswith("! fault") and fault in line for line in out.splitlines()), out
    assert f"→ python -m data verify --lake {lake_copy.root}" in out


def test_unfinished_slices_and_garbage_are_counted_and_gc_is_named(
    lake_copy: Lake, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("killed", "going"):
        part = lake_copy.root / "rewards" / name / "part-00000.parquet"
        part.parent.mkdir()
        part.write_bytes(b"12345")
    with filelock.FileLock(lake_copy.root / "rewards" / ".going.lock"):
        code, out = _doctor(capfd, lake_copy.root, tmp_path)
    assert code == 0
    assert "unfinished" in _line(out, "rewards/killed") and "being written" in _line(out, "rewards/going")
    assert "1 files, 5 bytes" in _line(out, "garbage") and "python -m data gc --dry-run" in _line(out, "garbage")


def test_runs_are_counted_by_status_and_a_broken_record_is_named(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, record in (("a", {"status": "finished"}), ("b", {"status": "running"}), ("c", [])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(record), encoding="utf-8")
    code, out = _doctor(capfd, tmp_path / "none", tmp_path)
    assert code == 1 and "1 finished, 1 running" in out and "resume=b" in _line(out, "b ")
    assert "is no record of a run" in _line(out, "c ")


def test_a_missing_package_and_one_of_another_version_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError(name)
        return "9.9" if name == "torch" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {f.name: f for f in doctor.versions()}
    assert {name for name, f in found.items() if f.state == "broken"} == {"peft", "torch"}
    assert found["torch"].value.startswith("9.9, wanted") and found["peft"].next == "pip install 'peft>=0.18'"


def test_what_may_be_left_out_says_what_brings_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "installed", lambda name: "1.0" if name == "ray" else None)
    found = {f.name: f for f in doctor.optional()}
    assert (found["ray"].state, found["ray"].next) == ("well", None)
    assert (found["trackio"].state, found["trackio"].next) == ("absent", "pip install -e '.[tracking]'")
    assert found["Faroese dictionary"].next == "make dictionary"


def test_an_address_without_a_lake_is_a_finding(
    s3: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, make_lake: Callable[[Lake], Lake]
) -> None:
    assert "no lake yet" in _doctor(capfd, s3, tmp_path)[1]
    make_lake(Lake.open(s3))
    code, out = _doctor(capfd, s3, tmp_path)
    assert code == 0 and "17 slices" in out


def test_nothing_heavy_is_loaded(lake: Lake, tmp_path: Path) -> None:
    code = (
        "import sys; from data.doctor import examine; examine(*sys.argv[1:]);"
        "print(sorted({'torch', 'transformers', 'vllm', 'duckdb', 'polars', 'datasets'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(lake.root), str(tmp_path)]
    assert subprocess.check_output(command, text=True, cwd=ROOT).strip() == "[]"
