"""`python -m trainer.average`: one model from the weights of several, as a run that training, sampling and evaluation take.

Reads safetensors of runs and folders, one tensor at a time; an adapter is merged first. Writes runs/NAME/final and a row of `runs`.
Refuses other tokenizers, other tensors or shapes, and a start that is not known."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.average_config import AROUND_START, COMMAND, AverageSettings
from trainer.keyed import Keyed
from trainer.parents import Parent, copy_beside, names_of, opened, read, refuse_different

if TYPE_CHECKING:
    from data.config import ModelSettings
    from trainer.journal import Run


def average(settings: AverageSettings) -> None:
    """Write the average, or find it made. The body of `python -m trainer.average`."""
    from data.fingerprint import weights_fingerprint
    from data.keys import digest
    from trainer.journal import claim_made, held, refuse_other

    run = claim_made(settings.run, settings.runs)
    with ExitStack() as stack:
        parents = [stack.enter_context(opened(name, settings.runs)) for name in settings.parents]
        start_name = _start_name(settings, parents) if settings.kind in AROUND_START else None
        start = stack.enter_context(opened(start_name, settings.runs)) if start_name else None
        refuse_different([*parents, *([start] if start else [])])
        fingerprints = [weights_fingerprint(p.folder) for p in [*parents, *([start] if start else [])]]
        hash_ = digest([settings.kind, settings.t, settings.weights, fingerprints])
        if run.record is not None:
            refuse_other(run, hash_)
            print(f"found run {run.name}: the same average")
            return
        with held(run):
            _write(settings, parents, start, run, hash_)


def _start_name(settings: AverageSettings, parents: Sequence[Parent]) -> str:
    """What the parents were trained from. Refuses parents that do not say so, or say different things."""
    from data.refusal import Refusal

    if settings.start != "auto":
        return settings.start
    again = f"python -m {COMMAND} … start=FOLDER_OR_RUN"
    for parent in parents:
        if "configuration" not in parent.record:
            raise Refusal(f"{parent.name} is no run that says what it was trained from", again)
    origins = {str(parent.record["policy"]): parent for parent in parents}
    if len(origins) > 1:
        names = " and ".join(parent.name for parent in origins.values())
        raise Refusal(f"{names} were trained from different models", again)
    given = parents[0].record["configuration"]
    if given["policy"] != "student":
        return str(given["policy"])
    if given["student"]["initial"] == "random":
        raise Refusal(f"{parents[0].name} was trained from random weights, which no folder holds", again)
    return str(given["student"]["path"])


def _write(settings: AverageSettings, parents: Sequence[Parent], start: Parent | None, run: Run, hash_: str) -> None:
    """The folder, the row, the record, in this order: a run whose record is missing is none."""
    from data.fingerprint import identity
    from data.lake import Lake
    from trainer import checkpoint
    from trainer.journal import publish

    with checkpoint.appearing(run.folder / "final") as temporary:
        copy_beside(parents[0].folder, temporary)
        _write_tensors(settings, parents, start, temporary)
        (temporary / "README.md").write_text(_card(settings, start), encoding="utf-8")
    student = _student(parents[0])
    origin = start.name if start else student.path
    final = dataclasses.replace(student, path=f"run:{run.name}", revision=None, initial="pretrained", gguf_file=None)
    begun = dataclasses.replace(student, path=origin, initial="pretrained" if start else student.initial)
    shown = dataclasses.asdict(settings) | {"start": start.name if start else None}
    known = parents[0].record.get("policy") if start is None or settings.start == "auto" else None
    record: dict[str, Any] = {
        "configuration": {"average": shown, "student": dataclasses.asdict(begun), "policy": "student"},
        "configuration_hash": hash_,
        "recipe": parents[0].record.get("recipe"),
        "slices": sorted({path for parent in parents for path in parent.record.get("slices", [])}),
        "reward_sql": None,
        "policy": known or (identity(begun, settings.runs)["model_id"] if start else None),
        "status": "finished",
        "reason": None,
        "steps": 0,
        "seconds": 0.0,
        "model_id": identity(final, settings.runs)["model_id"],
    }
    as_text = {"configuration": json.dumps(record["configuration"], sort_keys=True, ensure_ascii=False)}
    publish(
        Lake.open(settings.lake),
        run,
        record | as_text | {"slices": json.dumps(record["slices"]), "folder": str(run.folder)},
    )
    run.write_record(record)
    print(f"run {run.name}: {settings.kind} of {', '.join(settings.parents)}, weights in {run.folder / 'final'}")


def _student(parent: Parent) -> ModelSettings:
    """How the first parent is read: its dtype and template are those of the average."""
    from data.config import ModelSettings

    given = parent.record.get("configuration", {}).get("student")
    if given:
        return ModelSettings(**given)
    dtype = str(read(parent, next(iter(parent.files))).dtype).removeprefix("torch.")
    return ModelSettings(path=parent.name, dtype=dtype)


def _write_tensors(settings: AverageSettings, parents: Sequence[Parent], start: Parent | None, folder: Path) -> None:
    """File by file as the first parent has them, in its dtypes; what is no float is the first parent's."""
    from safetensors.torch import save_file

    from trainer.combine import combined

    weights = settings.weights or [1.0] * len(parents)
    for path in sorted(set(parents[0].files.values())):
        tensors = {}
        for name in names_of(path):
            own = read(parents[0], name)
            if own.is_floating_point():
                models = [own, *(read(parent, name) for parent in parents[1:])]
                origin = read(start, name) if start else None
                own = combined(settings.kind, models, origin, settings.t, weights).to(own.dtype)
            tensors[name] = own.contiguous()
        save_file(tensors, folder / path.name, metadata={"format": "pt"})


def _card(settings: AverageSettings, start: Parent | None) -> str:
    """The model card: what went in."""
    words = json.dumps(dataclasses.asdict(settings), indent=1, ensure_ascii=False, sort_keys=True)
    around = f", around `{start.name}`" if start else ""
    lineage = "\n".join(f"- `{name}`" for name in settings.parents)
    return f"""# {settings.run}

Averaged by `python -m {COMMAND}`: {settings.kind} with t = {settings.t:g}{around}. Nothing was trained.

## Models that went in

{lineage}

## Settings

```json
{words}
```
"""


KEYED = Keyed(
    COMMAND,
    AverageSettings,
    average,
    "One model from the weights of several: SLERP, linear, soup, towards the start (liti), or an EMA of rounds (ema_anchor).",
    (
        "python -m trainer.average kind=slerp a=run:seed1 b=run:seed2 t=0.5 run=merged",
        "python -m trainer.average kind=liti a=run:merged start=run:demo-student t=0.8 run=calm",
        "python -m trainer.average kind=soup models=[run:one,run:two,run:three] run=soup",
    ),
)

if __name__ == "__main__":
    sys.exit(KEYED.main(sys.argv[1:]))
