"""The end of a run: final weights as a folder that transformers loads, its card, and the rows of the journal.

Writes runs/NAME/final, `runs`, `metrics`, `costs`, and last run.json's status. The tokenizer's files are the start's own, byte by
byte, so that pools and answers of the start's tokens fit the trained model too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.fingerprint import TOKENIZER_FILES, chat_template, identity
from data.lake import Lake
from trainer import checkpoint
from trainer.card import adapter_alone, card
from trainer.ema import replaced
from trainer.journal import publish, publish_cost
from trainer.sources import Start
from trainer.state import Training

BESIDE = ("tokenizer_config.json", "added_tokens.json", "chat_template.jinja")


def finish(training: Training, record: Mapping[str, Any]) -> None:
    """Save the weights (the average, where one is kept), publish the rows, say it in one line.

    Where the weights are spread (fsdp.py) every process must call this; the first one writes."""
    recipe, run, ended = training.recipe, training.run, training.ended
    lora, start = recipe.trainer.optimiser.lora, training.reading.start
    average = training.average.weights if training.average else None
    with replaced(training.policy.model, average):
        weights = checkpoint.gathered(training.policy, training.world.first, merge=lora.merge)
    if not training.world.first:
        return
    done = {
        **record,
        "status": ended.status if ended else "finished",
        "reason": ended.text() if ended else None,
        "steps": training.step,
        "seconds": training.seconds,
    }
    with checkpoint.appearing(run.folder / "final") as temporary:
        with replaced(training.policy.model, average if weights is None else None):
            checkpoint.save_weights(training.policy, temporary, weights, start.settings.path)
        keep_tokenizer(start, temporary)
        (temporary / "README.md").write_text(card(training, done), encoding="utf-8")
    if not adapter_alone(training):  # that is no model that the factory can sample from
        model = replace(recipe.student, path=f"run:{run.name}", revision=None, gguf_file=None, initial="pretrained")
        done["model_id"] = identity(model, recipe.runs)["model_id"]
    lake = Lake.open(recipe.lake)
    publish(lake, run, row_of(training, done))
    if training.step:
        device = training.policy.device.type
        name = training.reading.start.settings.path
        publish_cost(lake, run, recipe.name, name, training.tokens, training.seconds, training.step, device)
    run.write_record(done)
    print(summary(training, done), flush=True)


def keep_tokenizer(start: Start, folder: Path) -> None:
    """Put the start's tokenizer files in place of re-written ones: another spelling of the same JSON is another fingerprint."""
    if start.settings.gguf_file is None:
        for name in (*TOKENIZER_FILES, *BESIDE):
            (folder / name).unlink(missing_ok=True)
            if (start.folder / name).is_file():
                shutil.copyfile(start.folder / name, folder / name)
    template = chat_template(start.settings, start.folder)
    if start.settings.chat_template and template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def row_of(training: Training, record: Mapping[str, Any]) -> dict[str, Any]:
    """The run's row of `runs`."""
    return {
        "recipe": record["recipe"],
        "status": record["status"],
        "reason": record.get("reason"),
        "configuration": json.dumps(record["configuration"], ensure_ascii=False, sort_keys=True),
        "configuration_hash": record["configuration_hash"],
        "slices": json.dumps(record["slices"]),
        "reward_sql": record["reward_sql"],
        "policy": record["policy"],
        "model_id": record.get("model_id"),
        "folder": str(training.run.folder),
        "steps": training.step,
        "seconds": training.seconds,
    }


def summary(training: Training, record: Mapping[str, Any]) -> str:
    """What the run came to, in one line."""
    figures = [f"{name} {value:.4g}" for name, value in training.latest.items() if name.startswith("probe/")]
    reason = f" ({record['reason']})" if record["reason"] else ""
    parts = [
        f"run {training.run.name}: {record['status']}{reason} after {training.step} steps",
        f"{training.tokens:,} tokens in {training.seconds:.1f} s",
        *figures,
        f"weights in {training.run.folder / 'final'}",
    ]
    return ", ".join(parts)
