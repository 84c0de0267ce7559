"""What the pages say stands in the project: quoted sentences, files shown in full, links, and how long a line may be."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml

from data.command import Command
from factory.config import FactoryRecipe
from factory.rewards import Batch, component, names
from trainer.config import TrainerRecipe

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
GUIDES = [DOCS / f"{name}.md" for name in ("tutorial", "glossary", "faq", "costs")] + sorted(DOCS.glob("how-*.md"))
EXAMPLES = DOCS / "examples"
CLOUD = EXAMPLES / "cloud"
QUOTED = re.findall(r"^> (.+)$", (DOCS / "faq.md").read_text(encoding="utf-8"), re.M)
BLOCK = re.compile(r"^```(yaml|python)\n(.*?)^```", re.S | re.M)


def literals() -> str:
    """Every text that the packages' code holds; an f-string's places become … each."""
    found = []
    for package in ("data", "factory", "trainer"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
    return "\n".join(found)


@pytest.fixture(scope="module")
def said() -> str:
    return literals()


@pytest.mark.parametrize("sentence", QUOTED)
def test_every_sentence_that_the_faq_quotes_is_said_by_the_code(sentence, said):
    parts = [re.escape(part.strip()) for part in sentence.split("…")]
    assert re.search(r"[^\n]*".join(parts), said), sentence


def test_the_faq_quotes_sentences_at_all(said):
    assert len(QUOTED) >= 30 and "this sentence is said by nobody" not in said


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_lines_are_short(page):
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) > 128] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_recipes_and_code_that_pages_show_are_those_of_the_examples():
    files = [p.read_text(encoding="utf-8") for p in EXAMPLES.rglob("*") if p.suffix in (".py", ".yaml")]
    shown = {"tutorial.md": 1, "how-trl.md": 1, "how-reward.md": 2}
    for name, at_least in shown.items():
        blocks = [block for _, block in BLOCK.findall((DOCS / name).read_text(encoding="utf-8"))]
        assert len(blocks) >= at_least
        assert [block for block in blocks if not any(block in file for file in files)] == []


def commands(task: Path) -> list[str]:
    """What a task of SkyPilot runs."""
    told = yaml.safe_load(task.read_text(encoding="utf-8"))
    assert set(told) <= {"name", "resources", "workdir", "envs", "setup", "run"}
    return [line for line in told["run"].splitlines() if line.strip()]


@pytest.mark.parametrize("task", ["factory", "trainer"])
def test_commands_of_the_cloud_tasks_compose(task):
    composed = []
    for line in commands(CLOUD / f"{task}.yaml"):
        program, dash_m, module, *words = shlex.split(line.replace("$LAKE", "s3://bucket/lake"))
        assert (program, dash_m) == (".venv/bin/python", "-m")
        if module in ("factory", "trainer"):
            kind = FactoryRecipe if module == "factory" else TrainerRecipe
            assert Command(module, kind, composed.append, "", []).main(words) == 0, line
    assert composed and all(recipe.lake == "s3://bucket/lake" for recipe in composed)


def test_the_image_copies_what_is_there():
    for sources in re.findall(r"^COPY (.+) \S+$", (CLOUD / "Dockerfile").read_text(encoding="utf-8"), re.M):
        assert all((ROOT / source).exists() for source in sources.split())


def test_the_example_component_is_found_in_the_folder_of_rewards(monkeypatch):
    import factory.rewards

    monkeypatch.setattr(factory.rewards, "__path__", [*factory.rewards.__path__, str(EXAMPLES / "components")])
    assert "teacher_tokens" in names()
    batch = Batch.of_texts(["a b", "c"], scorer_logprobs=[[-1.0, -9.0], [None]])
    found, missing = component({"use": "teacher_tokens", "floor": -4.0}).score(batch)
    assert (found.value, found.values) == (-2.5, [-1.0, -4.0]) and missing.value is None
