"""Every figure of speed and memory beside its goal: `make bench`. With --write, the table goes into docs/benchmarks.md.

Reads and changes nothing else. A missed goal is printed as missed; the exit code is 0 all the same: a busy machine is no fault."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import sys
from collections.abc import Sequence

from figures import ROOT, Figure

BENCHES = ("forward", "head", "lake")
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- table -->", "<!-- end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for and print the table."""
    parser = argparse.ArgumentParser(description="Speed and memory, each figure beside its goal.")
    parser.add_argument("benches", nargs="*", help=f"which: {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    figures: list[Figure] = []
    for name in options.benches or BENCHES:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        figures += importlib.import_module(name).measure()
    table = "\n".join(
        [machine(), "", "| what | measured | goal | | beside |", "|---|---|---|---|---|", *(f.row() for f in figures)]
    )
    print(table)
    if options.write:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(re.sub(f"{BEGIN}.*{END}", f"{BEGIN}\n{table}\n{END}", text, flags=re.S), encoding="utf-8")
    return 0


def machine() -> str:
    """What the figures were measured on."""
    import torch

    threads = torch.get_num_threads()
    return f"{os.cpu_count()} cores, {threads} thread(s) a process, {platform.machine()}, torch {torch.__version__}."


if __name__ == "__main__":
    sys.exit(main())
