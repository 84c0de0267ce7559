"""The model card of a run: base model, recipe, slices, how it was trained, what its probe said, the licences of its texts.

Reads the run's metrics and the licence columns of the prompts and documents that were trained on. Writes nothing; final.py puts the
text beside the weights, with the front matter that model hubs read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.lake import Lake
from trainer.adapter import adapted
from trainer.journal import read_metrics
from trainer.state import Training

HUB = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name
TEXTS = ("prompts", "corpus")  # tables whose rows say under which licence their text stands


def card(training: Training, record: Mapping[str, Any]) -> str:
    """The model card: where the weights come from, so that anyone can ask the lake."""
    slices = "\n".join(f"- `{path}`" for path in record["slices"]) or "- none"
    sql = f"\n## Reward, as SQL\n\n```sql\n{record['reward_sql']}\n```\n" if record["reward_sql"] else ""
    settings = json.dumps(record["configuration"], indent=1, ensure_ascii=False, sort_keys=True)
    reason = f", {record['reason']}" if record["reason"] else ""
    cost = f"{training.tokens:,} tokens, {training.seconds:.1f} seconds on {training.policy.device.type}"
    return f"""{front_matter(training)}# {training.run.name}

Trained by `python -m trainer recipe={record["recipe"]}` from `{training.reading.start.settings.path}`
(model id `{record["policy"]}`): {record["status"]}{reason}. {training.step} steps, {cost}. No teacher was loaded.

## How it was trained

{_how(training)}

## Slices of the lake that it was trained from

{slices}

Licences of their prompts and documents: {", ".join(licences(training)) or "not said"}.
{sql}
## Last probe

{_last_probe(training)}

## Last step

{_table(training.latest)}

## Configuration

```json
{settings}
```
"""


def front_matter(training: Training) -> str:
    """YAML between dashes; the base model only where it is a hub's, since a folder's name means nothing there."""
    import yaml

    base, adapter = training.reading.start.settings.path, adapter_alone(training)
    values: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["grpo-kd"],
    }
    if HUB.fullmatch(base) and not Path(base).exists():
        values |= {"base_model": base, "base_model_relation": "adapter" if adapter else "finetune"}
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---\n\n"


def adapter_alone(training: Training) -> bool:
    """Whether the final folder holds an adapter without the weights that it belongs to."""
    return adapted(training.policy.model) and not training.recipe.trainer.optimiser.lora.merge


def licences(training: Training) -> list[str]:
    """What prompts and documents of the run's slices say of their licence."""
    lake, found = Lake.open(training.recipe.lake), set[str]()
    for slice_ in training.reading.slices.values():
        if slice_.table in TEXTS:
            values = lake.read(slice_, ["licence"]).column("licence").unique().to_pylist()
            found.update(str(value) for value in values if value)
    return sorted(found)


def _how(training: Training) -> str:
    """Objective, weights and optimiser in a list."""
    settings, reading = training.recipe.trainer, training.reading
    weights = ", ".join(f"{name} {getattr(settings.losses, name)}" for name in ("rl", "bc", "pt", "kl", "soft"))
    objective = " + ".join(f"{weight:g} · {name}" for name, weight in reading.objective.items())
    lines = {
        "objective": objective if reading.pool else "none: no samples were replayed",
        "weights of the losses": weights + (", in phases" if settings.losses.phases else ""),
        "reward": f"`{training.recipe.reward}`" if training.recipe.reward else "none",
        "where": f"`{training.recipe.where}`" if training.recipe.where else "all candidates",
        "optimiser": f"{settings.optimiser.name}, learning rate {settings.optimiser.lr:g}, {settings.optimiser.schedule}",
        "trained": "adapters (LoRA)" if adapted(training.policy.model) else "all weights",
    }
    return "\n".join(f"- {name}: {value}" for name, value in lines.items())


def _last_probe(training: Training) -> str:
    """The newest figures of each probe metric, and their step."""
    lines = [line for line in read_metrics(training.run) if any(name.startswith("probe") for name in line)]
    if not lines:
        return "None was made."
    figures = {name: value for name, value in lines[-1].items() if name.startswith("probe")}
    asked = "prompts of the split " + training.recipe.trainer.probe.split
    return f"At step {lines[-1]['step']}, on {asked}.\n\n{_table(figures)}"


def _table(figures: Mapping[str, float]) -> str:
    rows = "\n".join(f"| {name} | {value:.6g} |" for name, value in sorted(figures.items()))
    return f"| metric | value |\n|---|---|\n{rows}"
