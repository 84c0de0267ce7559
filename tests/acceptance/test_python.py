"""The blocks of docs/python.md run, in their order, as one program over the demo's lake."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "python.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)


def test_every_block_of_the_page_on_python_runs(demo, tmp_path: Path) -> None:
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) == 4
    place, script = tmp_path / "project", tmp_path / "page.py"
    (place / "data").mkdir(parents=True)
    (place / "data" / "demo").symlink_to(ROOT / "data" / "demo")
    (place / "docs").symlink_to(ROOT / "docs")
    shutil.copytree(demo.lake, place / "data" / "lake")
    shutil.copytree(demo.runs, place / "runs")
    script.write_text("\n".join(blocks), encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    assert "runs/notebook/final finished" in done.stdout and (place / "runs" / "longer" / "final").is_dir()
    assert "[ 1.1052,  1.1052]" in done.stdout and "[-1.1052, -1.1052]" in done.stdout
