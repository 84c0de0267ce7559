"""Every command that the documentation shows is run, in the order it is read, in a copy of the project with the demo's lake."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "data/README.md",
    *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md")),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
FROM_HUB = {"recipe=smollm2", "recipe=capitals", "recipe=from_trl"}  # recipes whose student a hub would have to give
CELLS = """
import json, sys
for cell in json.loads(open(sys.argv[1], encoding="utf-8").read())["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), globals())
"""
ELSEWHERE = (
    "make ",
    "git ",
    "cd ",
)  # make demo, test, check and bench are run by the CI and by people, not from within a test


def commands(page: str) -> Iterator[str]:
    """Lines of the page that a reader would type: of bash blocks all, of console blocks those behind `$`."""
    for language, block in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip()
            if language in ("console", "text") and line.startswith("$ "):
                yield line[2:]
            elif language in ("", "bash", "sh") and re.match(r"(\.venv/bin/)?python |make |cp ", line):
                yield line


@pytest.fixture(scope="module")
def checkout(demo, tmp_path_factory) -> Path:
    """The project's files in another folder, with the demo's lake and runs where the documentation says."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("data", "factory", "trainer", "conf", "docs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("lake", "__pycache__"))
    shutil.copytree(demo.lake, folder / "data" / "lake")
    shutil.copytree(demo.runs, folder / "runs")
    _instead_of_the_hub(folder)
    return folder


def _instead_of_the_hub(folder: Path) -> None:
    """The corpus of `mistral_fa` as a file of made sentences, and its training in three steps."""
    sentence = "báturin siglir yvir breiða havið og fólkið býr á smáum grønum oyggjum har seyðurin etur gras"
    words = sentence.split()
    draw = random.Random(0)
    rows = [
        {"text": " ".join(draw.choices(words, k=12)), "split": "train" if n % 9 else "held_out"} for n in range(300)
    ]
    (folder / "made.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    corpus, recipe = folder / "conf" / "corpus" / "fineweb2_fo.yaml", folder / "conf" / "recipe" / "mistral_fa.yaml"
    corpus.write_text("# @package factory.corpus.fineweb2_fo\npath: made.jsonl\nlicence: CC0-1.0\n", encoding="utf-8")
    text = recipe.read_text(encoding="utf-8")
    for long, short in (
        ("steps: 2000", "steps: 3"),
        ("steps: 400", "steps: 1"),
        ("131072", "512"),
        ("warmup: 50", "warmup: 1"),
    ):
        assert long in text
        text = text.replace(long, short)
    recipe.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def standing_in(tiny_model) -> str:
    """A tiny random model in place of one that a hub would have to give."""
    return f"student.path={tiny_model('llama')}"


@pytest.fixture(scope="module")
def storage(s3_server, tmp_path_factory) -> dict[str, str]:
    """The environment of a user whose lakes lie on object storage: here a server of this machine, with the bucket `lakes`."""
    return {
        "AWS_ENDPOINT_URL": s3_server[0],
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "GRPO_KD_CACHE": str(tmp_path_factory.mktemp("copies")),
    }


@pytest.mark.parametrize("page", [page for page in PAGES if any(not c.startswith(ELSEWHERE) for c in commands(page))])
def test_every_command_of_the_page_runs(page, checkout, standing_in, storage):
    for command in commands(page):
        if command.startswith(ELSEWHERE):
            continue
        if command.startswith("cp "):
            subprocess.run(shlex.split(command), cwd=checkout, check=True)
            continue
        words = [
            word for word in shlex.split(command, comments=True) if word != ".venv/bin/python" and word != "python"
        ]
        hub = bool(FROM_HUB & set(words)) or ("recipe=mistral_fa" in words and "student.path=" not in command)
        words += [standing_in] if hub else []
        done = subprocess.run(
            [sys.executable, *words],
            cwd=checkout,
            env=os.environ | storage | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{page}: {command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


@pytest.mark.parametrize("notebook", sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/examples/*.ipynb")))
def test_the_cells_of_a_notebook_run_in_their_order(notebook, checkout):
    done = subprocess.run(
        [sys.executable, "-c", CELLS, notebook],
        cwd=checkout,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


def test_every_target_that_the_documentation_names_is_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in PAGES]
    named = {word for text in texts for word in re.findall(r"(?:`|^ +|\$ )make ([a-z-]+)", text, re.M)}
    assert named >= {"demo", "test", "check", "bench"}
    assert [name for name in named if not re.search(rf"^{name}:", makefile, re.M)] == []


def test_the_readmes_table_has_the_lines_that_the_demo_prints():
    from data.demo.run import POLICIES

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [
        name for name in POLICIES.values() if not re.search(rf"^{re.escape(name)} +[\d.]+ +[\d.]+ +[\d.]+$", text, re.M)
    ] == []
