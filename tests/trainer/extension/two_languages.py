"""Two made languages, and the project's commands on them: corpora, recipes, a lake and runs in one folder.

Also what measures a folder's model on held-out text by transformers alone. For the tests here and tests/bench/extension.py."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENGLISH = """the a boat ship sails over wide water and people live on small green islands where sheep eat grass in summer wind"""
FAROESE = """báturin siglir yvir hitt breiða havið og fólkið býr á smáum grønum oyggjum har seyðurin etur gras í summarvindinum
 kvøldið heiðin føroyingar høvuðsstaðurin skúlin lærarin dagurin ljósið bøndurnir áarføri vøllurin tjørnin eydnan"""


def made(text: str, count: int, seed: int) -> list[str]:
    """Sentences of 6 to 14 words, frequent ones first as in a language."""
    words = text.split()
    draw, weights = random.Random(seed), [1 / (i + 1) for i in range(len(words))]
    return [" ".join(draw.choices(words, weights, k=draw.randint(6, 14))) + "." for _ in range(count)]


@dataclass(frozen=True)
class World:
    """A folder with corpora, recipes, a lake and runs; its methods are the project's commands."""

    folder: Path

    def corpus(self, name: str, train: list[str], held_out: list[str]) -> None:
        """A corpus file, and the recipe that reads it alone."""
        rows = [{"text": t, "split": s} for s, texts in (("train", train), ("held_out", held_out)) for t in texts]
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        asked = self.folder / "asked.jsonl"
        asked.write_text(
            json.dumps({"messages": "hvat?", "references": "ja", "split": "train"}) + "\n", encoding="utf-8"
        )
        recipe = self.folder / "conf" / "recipe" / f"{name}.yaml"
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(
            f"""# @package _global_
# a made corpus
name: {name}
lake: {self.folder / "lake"}
runs: {self.folder / "runs"}
prompts: {{path: {asked}}}
factory:
  stages: [prompts, corpus]
  corpus: {{{name}: {{path: {path}}}}}
trainer:
  losses: {{rl: 0, bc: 0, pt: 1, kl: 0}}
  optimiser: {{lr: 3e-3, warmup: 5}}
  replay: {{corpus_tokens: 1536}}
"""
        )

    def words(self, recipe: str, student: str, *more: str) -> list[str]:
        return ["--config-dir", str(self.folder / "conf"), f"recipe={recipe}", f"student.path={student}", *more]

    def factory(self, recipe: str, student: str, *more: str) -> None:
        from factory.__main__ import COMMAND

        assert COMMAND.main(self.words(recipe, student, *more)) == 0

    def trainer(self, recipe: str, student: str, *more: str) -> int:
        from trainer.__main__ import COMMAND

        return COMMAND.main(self.words(recipe, student, *more))

    def extend(self, recipe: str, student: str, *more: str) -> int:
        from trainer.extend import main

        return main(self.words(recipe, student, *more))

    def final(self, run: str) -> Path:
        return self.folder / "runs" / run / "final"

    def record(self, run: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / "runs" / run / "run.json").read_text(encoding="utf-8")))


def bits_per_byte(folder: Path, texts: list[str]) -> float:
    """Of documents behind a begin token, by transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    nats = 0.0
    for text in texts:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]])
        with torch.no_grad():
            logprobs_tv = model(ids).logits[0, :-1].log_softmax(-1)
        nats -= logprobs_tv.gather(1, ids[0, 1:, None]).sum().item()
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)
