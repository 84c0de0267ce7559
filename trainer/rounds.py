"""`python -m trainer.rounds`: factory and trainer in turn, each round's pool drawn from the last round's policy.

Starts `python -m factory` and `python -m trainer` as processes: found slices and finished runs cost nothing, so a killed row of
rounds goes on by the same command. Writes, beside what those write, why no further round was begun (`runs`). Exit code: that of a
child that failed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.command import INTERRUPTED, Command, config_groups, interrupted
from data.config import Recipe
from data.refusal import Refusal, nearest
from data.settings import rows
from data.typed import folder_flag
from trainer.config import TrainerRecipe, TrainerSettings
from trainer.keyed import Keyed
from trainer.rounds_config import COMMAND, RoundsSettings

POOL_STAGES = ("samples", "scores", "soft_targets", "rewards", "selections")  # what depends on the policy
NEEDED = frozenset({"samples", "scores", "rewards"})
CHOSEN_HERE = {"policy": "each round starts at the last one's run", "resume": "finished rounds are found anyway"}
ROW = ("recipe", "status", "configuration_hash", "reward_sql", "policy", "model_id", "steps", "seconds")
SECTIONS = ("factory", "trainer")
GRACE = 10.0  # seconds that a child has after a second Ctrl-C
FACTORY_ALONE = frozenset({"factory", "engine", "endpoint", "executor"})


@dataclass(frozen=True)
class Words:
    """The command line, divided among those who read it."""

    own: list[str]
    flags: list[str]
    """--config-dir and its folder."""
    shared: list[str]
    factory: list[str]
    trainer: list[str]


def divided(argv: Sequence[str]) -> Words:
    """Words by reader: what neither this command nor the trainer knows is the factory's, which refuses what it does not know.

    Refuses keys that rounds set themselves."""
    own, roots, trainer = (
        {f.name for f in dataclasses.fields(cls)} for cls in (RoundsSettings, Recipe, TrainerSettings)
    )
    shared = (roots | config_groups()) - FACTORY_ALONE
    found, rest = Words([], [], [], [], []), iter(argv)
    for word in rest:
        key = word.partition("=")[0]
        first = re.split(r"[.@]", key)[0]
        if flag := folder_flag(word, rest):
            found.flags.extend(flag)
        elif key in own:
            found.own.append(word)
        elif key in CHOSEN_HERE:
            raise Refusal(f"{key} is not given here: {CHOSEN_HERE[key]}", f"python -m {COMMAND} --help")
        elif word.startswith("-"):
            raise Refusal(f"no flag {word} here: rounds are no sweep", f"python -m {COMMAND} --help")
        elif first == "trainer" or first in trainer:
            found.trainer.append(word)
        elif first in shared:
            found.shared.append(word)
        else:
            found.factory.append(word)
    return found


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    if {"-h", "--help"} & set(argv):
        shared = ["Settings of the recipe and of both commands are passed on:", *rows(TrainerRecipe, "", SECTIONS)]
        print(KEYED.help() + "\n\n" + "\n".join(shared))
        return 0
    try:
        words = divided([word for word in argv if word != "--debug"])
        return rounds(KEYED.parsed(words.own), composed(words), words)
    except Refusal as refusal:
        if "--debug" in argv:
            raise
        print(refusal, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted(COMMAND, argv), file=sys.stderr)
        return INTERRUPTED


def composed(words: Words) -> TrainerRecipe:
    """The recipe as `python -m trainer` composes it."""
    found: list[TrainerRecipe] = []
    Command("trainer", TrainerRecipe, found.append, "", ()).run([*words.flags, *words.shared, *words.trainer])
    return found[0]


def rounds(settings: RoundsSettings, recipe: TrainerRecipe, words: Words) -> int:
    """All rounds, until the metric no longer improves or a child fails."""
    metric = metric_of(settings, recipe)
    base, values = settings.run or recipe.name, list[float]()
    for number in range(1, settings.rounds + 1):
        for child in children(base, number, recipe, words):
            if code := called(child):
                return code
        if metric is None:
            continue
        name = f"{base}-round{number}"
        values.append(last_value(recipe, name, metric))
        reason = verdict(values, metric, settings.patience)
        note(recipe, name, reason)
        print(f"round {number}: {metric} {values[-1]:.4g}", flush=True)
        if reason is not None and number < settings.rounds:
            print(f"no further round: {reason}", flush=True)
            break
    return 0


def children(base: str, number: int, recipe: TrainerRecipe, words: Words) -> list[list[str]]:
    """The round's two commands, behind `python -m`."""
    shared, factory = [*words.flags, *words.shared], list(words.factory)
    if number > 1:
        shared.append(f"policy=run:{base}-round{number - 1}")
        factory = [word for word in factory if not word.startswith(("stages=", "factory.stages="))]
        factory.append(f"stages=[{','.join(stages_of(recipe))}]")
    trainer = [*words.trainer, "reuse=true", f"run={base}-round{number}"]
    return [["factory", *shared, *factory], ["trainer", *shared, *trainer]]


def metric_of(settings: RoundsSettings, recipe: TrainerRecipe) -> str | None:
    """The metric that decides. Refuses one that no probe measures."""
    probe = recipe.trainer.probe
    if probe.every is None:
        if settings.metric is not None:
            raise Refusal(
                f"metric={settings.metric}: recipe {recipe.name} has no probe", f"python -m {COMMAND} … probe.every=50"
            )
        return None
    if settings.metric is not None:
        return settings.metric
    best = recipe.trainer.checkpoint.best
    return best or next((f"probe/{name}" for name in probe.components), None)


def stages_of(recipe: TrainerRecipe) -> list[str]:
    """The stages of a later round: what hangs on the policy. Prompts, answers and corpus are there already."""
    section: Any = recipe.factory or {}
    asked = section.get("stages") or ()
    return [stage for stage in POOL_STAGES if stage in NEEDED or stage in asked]


def called(words: Sequence[str]) -> int:
    """`python -m words` to its end, its output passed through."""
    shown = " ".join(f"'{word}'" if set(word) & set("[]{} ") else word for word in words)
    print(f"$ python -m {shown}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", *words])
    try:
        return process.wait()
    except KeyboardInterrupt:
        # Ctrl-C reached the child too: it still writes what it has paid for, and must not be killed at that.
        try:
            process.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            process.terminate()
        raise


def last_value(recipe: TrainerRecipe, run: str, metric: str) -> float:
    """The last value that the run's probe gave. Refuses a metric that it has none of, with the nearest."""
    from trainer.journal import Run, read_metrics

    lines = read_metrics(Run(run, Path(recipe.runs) / run))
    found = [float(line[metric]) for line in lines if metric in line]
    if not found:
        known = sorted({name for line in lines for name in line if name.startswith("probe")})
        hint = nearest(metric, known) if known else "it has no probe"
        raise Refusal(f"run {run} has no value of {metric}: {hint}", f"python -m {COMMAND} --help")
    return found[-1]


def verdict(values: Sequence[float], metric: str, patience: int) -> str | None:
    """Why no further round is worth it, or None: the best value is `patience` rounds old."""
    best = max(range(len(values)), key=lambda i: values[i])  # the first of equals
    if len(values) - 1 - best < patience:
        return None
    return f"{metric} no better than round {best + 1} ({values[-1]:.4g} against {values[best]:.4g})"


def note(recipe: TrainerRecipe, name: str, reason: str | None) -> None:
    """Write why the row of rounds ended into the run's record and its row of `runs`, behind the run's own reason."""
    from data.lake import Lake
    from trainer.journal import Run, publish

    run = Run(name, Path(recipe.runs) / name)
    record = run.record or {}
    own = (record.get("reason") or "").partition("rounds: ")[0].rstrip("; ") or None
    ours = None if reason is None else f"rounds: {reason}"
    whole = "; ".join(part for part in (own, ours) if part) or None
    if record.get("reason") == whole:
        return
    run.write_record(record | {"reason": whole})
    row = {key: record.get(key) for key in ROW} | {"reason": whole, "folder": str(run.folder)}
    row["configuration"] = json.dumps(record["configuration"], ensure_ascii=False, sort_keys=True)
    row["slices"] = json.dumps(record["slices"])
    publish(Lake.open(recipe.lake), run, row)


KEYED = Keyed(
    COMMAND,
    RoundsSettings,
    lambda settings: None,
    "Factory and trainer in turn: sample from the last policy, score, train; stops when the probe stops improving.",
    (
        f"python -m {COMMAND} recipe=demo rounds=3",
        f"python -m {COMMAND} recipe=demo rounds=5 metric=probe/exact patience=2 steps=100",
    ),
)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
