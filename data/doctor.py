"""`python -m data doctor`: what is installed, what machine this is, and whether the lake is whole, in one screen.

Reads package metadata, the lake's manifests and the last bytes of its files, and run.json of each run; writes nothing and loads
neither torch nor an engine: of GPUs it knows what nvidia-smi says. A finding
is well, absent (and says what brings it), or broken."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.refusal import Refusal

if TYPE_CHECKING:
    from data.lake import Lake

PROJECT = "grpo-kd"
VERSIONS = (
    "torch",
    "transformers",
    "duckdb",
    "pyarrow",
    "polars",
    "datasets",
    "hydra-core",
    "peft",
)  # the rest if it is amiss
LOW = 2**30  # bytes; below it a shard of a large pool may not fit
SHOWN = 3  # faults that are printed; `verify` prints more
OUTSIDE = {  # optional parts that live in environments or folders of their own: what shows that they are there, what brings them
    "vllm on a CPU": (".venv-vllm/.installed", "make vllm-env"),
    "euroeval": (
        ".venv-euroeval/bin/euroeval",
        "python3.12 -m venv .venv-euroeval && .venv-euroeval/bin/pip install 'euroeval[generative]'",
    ),
    "Faroese dictionary": ("build/bench/npm/node_modules/dictionary-fo/index.dic", "make dictionary"),
}


@dataclass(frozen=True)
class Finding:
    """One line: where it belongs, what was looked at, what it is, how it stands, and what to do about it."""

    section: str
    name: str
    value: str
    state: str = "well"
    """well, absent or broken."""
    next: str | None = None


def examine(lake: str, runs: str) -> list[Finding]:
    """Everything, in the order in which it is shown."""
    return [*versions(), *optional(), *devices(), *disks(lake, runs), *lake_health(lake), *run_health(runs)]


def requirements() -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """What the project needs, as (package, versions), and its extras as name → packages, from its installed metadata."""
    from packaging.requirements import Requirement

    needed, extras = [], dict[str, list[str]]()
    for requirement in map(Requirement, importlib.metadata.requires(PROJECT) or ()):
        if requirement.marker is None:
            needed.append((requirement.name, str(requirement.specifier)))
        elif found := re.search(r"extra == ['\"]([\w-]+)", str(requirement.marker)):
            extras.setdefault(found[1], []).append(requirement.name)
    return needed, extras


def versions() -> Iterator[Finding]:
    """Python and what the project cannot do without."""
    yield Finding("versions", "Python", f"{platform.python_version()} in {sys.prefix}")
    try:
        needed, _ = requirements()
        yield Finding("versions", PROJECT, importlib.metadata.version(PROJECT))
    except importlib.metadata.PackageNotFoundError:
        yield Finding("versions", PROJECT, "not installed", "broken", "pip install -e .")
        return
    for name, wanted in sorted(needed, key=lambda pair: (pair[0] not in VERSIONS, pair[0])):
        found = installed(name)
        if found is None:
            yield Finding("versions", name, "not installed", "broken", f"pip install '{name}{wanted}'")
        elif not allowed(found, wanted):
            yield Finding("versions", name, f"{found}, wanted {wanted}", "broken", f"pip install '{name}{wanted}'")
        elif name in VERSIONS:
            yield Finding("versions", name, found)


def installed(name: str) -> str | None:
    """A package's version, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def allowed(version: str, wanted: str) -> bool:
    """Whether a version is one of those wanted; builds and pre-releases count as their release.

    >>> allowed("2.13.0+cpu", ">=2.13,<2.15"), allowed("2.15.0", ">=2.13,<2.15")
    (True, False)
    """
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    return SpecifierSet(wanted).contains(Version(version).public, prereleases=True)


def optional() -> Iterator[Finding]:
    """Parts that may be left out, with the command that brings each."""
    try:
        extras = requirements()[1]
    except importlib.metadata.PackageNotFoundError:
        return
    for extra, packages in extras.items():
        if extra == "dev":
            continue
        for name in packages:
            found = installed(name)
            brings = None if found else f"pip install -e '.[{extra}]'"
            yield Finding("optional", name, found or "not installed", "well" if found else "absent", brings)
    for name, (path, brings) in OUTSIDE.items():
        there = Path(path).exists()
        place = path if there else "not here"
        yield Finding("optional", name, place, "well" if there else "absent", None if there else brings)


def devices() -> Iterator[Finding]:
    """Processors, and GPUs as nvidia-smi names them; whether torch was built for them stands in its version file."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("devices", "CPU", f"{usable} of {os.cpu_count()} cores, {platform.machine()}")
    gpus, cuda = gpu_names(), torch_cuda()
    for number, name in enumerate(gpus):
        yield Finding("devices", f"cuda:{number}", name)
    if not gpus:
        yield Finding("devices", "CUDA", "no GPU by nvidia-smi; torch was not asked", "absent")
    elif cuda is None:
        built = "torch is built without CUDA: these GPUs will not be used"
        yield Finding(
            "devices", "CUDA", built, "broken", "pip install --force-reinstall torch, from an index of CUDA builds"
        )
    else:
        yield Finding("devices", "CUDA", f"torch is built for {cuda}; it was not asked whether the driver suits")


def gpu_names() -> list[str]:
    """GPUs by name and memory; [] where nvidia-smi is missing or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def torch_cuda() -> str | None:
    """CUDA version that torch was built for, read from its version file; None for a CPU build or where torch is missing."""
    spec = importlib.util.find_spec("torch")  # finds, does not import
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "version.py"
    found = re.search(r"^cuda\b.*=\s*'([\d.]+)'", file.read_text(encoding="utf-8"), re.M) if file.is_file() else None
    return found[1] if found else None


def disks(lake: str, runs: str) -> Iterator[Finding]:
    """Free bytes where lake and runs are, or would be made, and whether that can be written to."""
    for name, place in (("lake", lake), ("runs", runs)):
        if "://" in place:
            continue
        folder = Path(place).absolute()
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        value = f"{size(free)} free at {folder}"
        if not os.access(folder, os.W_OK):
            yield Finding("disk", name, f"{folder} cannot be written", "broken", f"make it writable, or {name}=…")
        elif free < LOW:
            yield Finding("disk", name, value, "broken", f"free disk space, or {name}=ANOTHER_FOLDER")
        else:
            yield Finding("disk", name, value)


def size(count: int) -> str:
    """Bytes for people.

    >>> size(512), size(5 * 2**30)
    ('512 bytes', '5.0 GiB')
    """
    value, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


def lake_health(place: str) -> Iterator[Finding]:
    """Slices, faults that show without reading whole files, unfinished slices, garbage."""
    from data.lake import Lake
    from data.verify import verify

    try:
        lake = Lake.open(place)
        if not lake.place.exists():
            yield Finding("lake", place, "no lake yet", "absent", f"python -m factory recipe=demo lake={place}")
            return
        found = verify(lake, fast=True)
    except Refusal as error:
        yield Finding("lake", place, str(error.args[0]), "broken", str(error.args[1]))
        return
    counts = found.counts
    whole = f"{counts['slices']} slices, {counts['rows']:,} rows, {counts['files']} files of {size(counts['bytes'])}"
    yield Finding("lake", place, f"{whole}, {counts['journal files']} journal files")
    for fault in found.faults[:SHOWN]:
        yield Finding("lake", "fault", fault, "broken")
    if found.faults:
        more = f"{len(found.faults)} faults in all" if len(found.faults) > SHOWN else "whole files were not read"
        yield Finding("lake", "faults", more, "broken", f"python -m data verify --lake {place}")
    else:
        yield Finding("lake", "faults", "none in manifests and footers; `verify` compares sha256 and keys")
    yield from _left(lake, place)


def _left(lake: Lake, place: str) -> Iterator[Finding]:
    """Slices without manifest, and what `gc` would remove."""
    from data.verify import garbage, unfinished

    for path, writing in unfinished(lake):
        value = "being written" if writing else "unfinished: the same factory command goes on with it"
        yield Finding("lake", path, value)
    try:
        files = garbage(lake)
    except Refusal:  # a broken manifest; it is among the faults
        yield Finding("lake", "garbage", "not counted while a manifest is broken", "absent")
        return
    taken = sum(lake.place.size(path.relative_to(lake.root).as_posix()) for path in files)
    clean = f"python -m data gc --dry-run --lake {place}" if files else None
    yield Finding("lake", "garbage", f"{len(files)} files, {size(taken)}", "well", clean)


def run_health(runs: str) -> Iterator[Finding]:
    """Runs by status; a record that cannot be read is named."""
    statuses = dict[str, list[str]]()
    for path in sorted(Path(runs).glob("*/run.json")):
        try:
            statuses.setdefault(str(json.loads(path.read_text(encoding="utf-8"))["status"]), []).append(
                path.parent.name
            )
        except (OSError, ValueError, KeyError, TypeError):
            yield Finding("runs", path.parent.name, f"{path} is no record of a run", "broken", f"rm -r {path.parent}")
    if not statuses:
        yield Finding("runs", runs, "no run yet", "absent", "python -m trainer recipe=demo")
        return
    yield Finding("runs", runs, ", ".join(f"{len(names)} {status}" for status, names in sorted(statuses.items())))
    for name in statuses.get("running", ()):
        yield Finding(
            "runs", name, "unfinished, unless a process is at it", "well", f"python -m trainer recipe=… resume={name}"
        )


def as_text(findings: Iterable[Finding]) -> str:
    """A block a section; `!` marks what is broken, `-` what is absent; the next command behind an arrow."""
    marks, lines, section = {"well": " ", "absent": "-", "broken": "!"}, list[str](), None
    findings = list(findings)
    for finding in findings:
        if finding.section != section:
            section = finding.section
            lines += ["", section] if lines else [section]
        arrow = f"   → {finding.next}" if finding.next else ""
        lines.append(f"{marks[finding.state]} {finding.name:<20} {finding.value}{arrow}")
    broken = sum(finding.state == "broken" for finding in findings)
    lines += ["", f"{broken} broken (marked !)" if broken else "nothing is broken"]
    return "\n".join(lines) + "\n"
