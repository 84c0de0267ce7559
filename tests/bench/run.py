"""Every figure of speed and memory beside its goal: `make bench`. With --write, the table goes into docs/benchmarks.md.

Reads and changes nothing else but build/bench, where long measurements keep what they have. A missed goal is printed as missed; the
exit code is 0 all the same: a busy machine is no fault."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import sys
from collections.abc import Sequence

from figures import REPETITIONS, ROOT, Figure, Options

BENCHES = (
    "forward",
    "head",
    "lake",
    "start",
    "alignment",
    "components",
    "factory",
    "vllm",
    "linear",
    "rivals",
    "online",
)
# where a module of the section's name would hide a library or a package
MODULES = {"vllm": "vllm_agreement", "factory": "factory_speed"}
TELLABLE = ("linear", "rivals", "online")
CHANGING = ("layers", "repetitions", "shapes", "device", "dtype")
PAGE = ROOT / "docs" / "benchmarks.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for and print a table a section."""
    chosen = _parser().parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    options = Options(
        chosen.layers,
        chosen.repetitions,
        tuple(filter(None, chosen.shapes.split(","))),
        chosen.device,
        chosen.dtype,
        chosen.fresh,
        chosen.python,
    )
    for name in chosen.benches or BENCHES:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        module = importlib.import_module(MODULES.get(name, name))
        table = _table(name, module.measure(options) if name in TELLABLE else module.measure(), options)
        print(table, flush=True)
        if chosen.write:
            _write(name, options, table)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Speed and memory, each figure beside its goal.")
    parser.add_argument(
        "benches", nargs="*", help=f"which: {', '.join(BENCHES)} (default: all; the last two take hours)"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--layers", type=int, default=30, help="rivals, online: layers of the model (30, as SmolLM2)")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="rivals, online, linear: measured steps")
    parser.add_argument("--shapes", default="", help="rivals: which, e.g. 512/16,128/ragged (default: all)")
    parser.add_argument("--device", default="cpu", help="rivals, linear: cpu or cuda")
    parser.add_argument("--dtype", default="float32", help="rivals, linear: float32 or bfloat16")
    parser.add_argument("--fresh", action="store_true", help="rivals, online: forget what an interrupted run left")
    parser.add_argument(
        "--python", default="", help="TRL's interpreter (default .venv-bench, made by `make bench-env`)"
    )
    return parser


def _table(name: str, figures: Sequence[Figure], options: Options) -> str:
    command = f"`python tests/bench/run.py {' '.join([name, *(_told(options) if name in TELLABLE else ())])}`"
    head = "| what | measured | goal | | beside |\n|---|---|---|---|---|"
    return "\n".join([f"{command}: {machine(name, options)}", "", head, *(figure.row() for figure in figures)])


def _told(options: Options) -> list[str]:
    """The options that change a figure, where they are not the default.

    >>> _told(Options(layers=2, shapes=("512/16",)))
    ['--layers 2', '--shapes 512/16']
    """
    usual = Options()
    told = {name: getattr(options, name) for name in CHANGING if getattr(options, name) != getattr(usual, name)}
    return [f"--{name} {','.join(value) if isinstance(value, tuple) else value}" for name, value in told.items()]


def _write(name: str, options: Options, table: str) -> None:
    """Put the section's table between its marks; a section of another device stands beside the CPU's."""
    mark = name if options.device == "cpu" else f"{name}-{options.device}"
    begin, end = f"<!-- {mark} -->", f"<!-- end {mark} -->"
    text = PAGE.read_text(encoding="utf-8")
    if begin not in text:
        raise SystemExit(f"{PAGE.name} has no place for this table; next: add the lines {begin} and {end}")
    block = f"{begin}\n{table}\n{end}"
    PAGE.write_text(re.sub(f"{begin}.*?{end}", lambda _: block, text, flags=re.S), encoding="utf-8")


def machine(name: str, options: Options) -> str:
    """What the figures were measured on, and with."""
    import torch

    where = f"{os.cpu_count()} cores, {torch.get_num_threads()} thread(s) a process, {platform.machine()}"
    if options.device != "cpu" and torch.cuda.is_available() and name in TELLABLE:
        where = torch.cuda.get_device_name()
    with_ = f"torch {torch.__version__}"
    if name in ("rivals", "online"):
        rivals = importlib.import_module("rivals")
        with_ = rivals.versions(rivals.environment(options))
    return f"{where}, {with_}."


if __name__ == "__main__":
    sys.exit(main())
