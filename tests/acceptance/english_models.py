"""The English teachers' world as models and a recipe: what the acceptance test and tests/bench/teachers.py both begin with.

Runs the demo's own commands; writes below the place's folder alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # pytest imports by path: the folder is no package
from conftest import DEMO_TEXT, Place
from english_world import write

BC = (
    "losses.rl=0",
    "losses.pt=0",
    "losses.kl=0",
    "probe.every=null",
    "steps=120",
    "replay.answers=32",
    "optimiser.lr=2e-3",
)
MODELS = {  # folder of the demo, steps at most, further words
    "teacher": ("teacher", 300, ("probe.prompts=100",)),
    "second": ("teacher", 300, ("probe.prompts=100",)),
    "translator": ("teacher", 300, ("probe.prompts=100",)),
    "student": ("student", 200, ("probe.every=null", "stop=[]")),
}


def train(place: Place, files: Path, name: str) -> None:
    """One of MODELS by the demo's command."""
    folder, steps, more = MODELS[name]
    words = (
        "recipe=demo_teacher",
        f"name=w_{name}",
        f"student.path={DEMO_TEXT / folder}",
        f"prompts.path={files / name}.jsonl",
    )
    place.factory(*words, f"factory.imports.text.path={files / name}.jsonl")
    probing = () if "probe.every=null" in more else ("probe.every=50", "probe.start=100")
    place.trainer(*words, f"run=w-{name}", f"steps={steps}", "replay.answers=64", *probing, *more)


def recipe(files: Path) -> str:
    """The recipe's file; its folder is what --config-dir takes."""
    demo, short = str(DEMO_TEXT), {"wording": "{text}", "max_tokens": 16}
    check = {"use": "back_translation", "metric": "exact", **short}
    agree = {"use": "agreement", "lexicon": f"{demo}/lexicon.json", "content_file": f"{demo}/content.txt"}
    told = {
        "name": "english",
        "student": {"path": "run:w-student"},
        "teacher": {"path": "run:w-teacher"},
        "models": {"second": {"path": "run:w-second"}, "translator": {"path": "run:w-translator"}},
        "co_teachers": ["second"],
        "prompts": {"path": f"{files}/prompts.jsonl"},
        "sampling": {"n": 4, "max_tokens": 12},
        "answers": {"max_tokens": 16},
        "translate": {**short, "prompts": False},
        "rephrase": {"wording": "{answer}", "max_tokens": 16, "check": check},
        "components": {
            "agreement": agree,
            "language": {"use": "language", "method": "words", "file": f"{demo}/words.txt"},
            "back": {"use": "back_translation", **short},
            "bilingual": {"use": "bilingual", **short},
            "right": {"use": "similarity", "metric": "exact", "to": "references"},
        },
        "reward": "agreement + language + 0.1*back",
        "where": "agreement = 1 and language = 1 and method <> 'direct' and (method <> 'rephrase' or check_score = 1)",
        "factory": {
            "stages": ["prompts", "answers", "translate", "rephrase", "samples", "rewards", "selections"],
            "benchmarks": {
                "held_out": {
                    "metrics": {
                        "exact": {"use": "similarity", "metric": "exact", "to": "references"},
                        "language": {"use": "language", "method": "words", "file": f"{demo}/words.txt"},
                    }
                }
            },
        },
    }
    folder = files / "conf" / "recipe"
    folder.mkdir(parents=True)
    (folder / "english.yaml").write_text(f"# @package _global_\n{json.dumps(told)}\n", encoding="utf-8")
    return str(files / "conf")


def made(place: Place) -> tuple[str, ...]:
    """Everything from the world's text to the pool with its answers and components; the words of its commands."""
    files = place.folder / "files"
    if not (DEMO_TEXT / "world.json").is_file():
        place.ran("data.demo")
    write(files)
    for name in MODELS:
        train(place, files, name)
    words = ("recipe=english", "--config-dir", recipe(files))
    place.factory(*words)
    return words
