"""What a run reads, resolved by exact settings before anything is written: pool, rewards, scores, answers, corpus.

Reads manifests, scalars and small tables. Opens no teacher, and needs no teacher's folder. Refuses steps that train nothing, shards
of other slices, and what pool_reading.py, imitation.py and soft.py refuse, each with the command that repairs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data import pool as pools
from data.config import ModelSettings, sampling_settings
from data.contract import TABLES
from data.fingerprint import identity, model_folder, policy_model
from data.keys import digest
from data.lake import Lake
from data.manifest import Slice
from data.refusal import Refusal
from trainer.config import TrainerRecipe, TrainerSettings
from trainer.objectives import parse_objective
from trainer.pool_reading import PoolReading, pool_source, read_pool
from trainer.schedule import ever, weights

if TYPE_CHECKING:
    import pyarrow as pa

    from trainer.soft import SoftReading
    from trainer.stream import Source

__all__ = ["PoolReading", "Reading", "Start", "configuration", "configuration_hash", "pool_source", "resolve"]
TABLE_ORDER = list(TABLES)


@dataclass(frozen=True)
class Start:
    """The model that training starts at."""

    settings: ModelSettings
    folder: Path
    identity: dict[str, Any]

    @property
    def model_id(self) -> str:
        """models.model_id of the starting weights."""
        return str(self.identity["model_id"])


@dataclass
class Reading:
    """All that a run reads. None where a term has no weight in any step."""

    start: Start
    objective: dict[str, float]
    pool: PoolReading | None = None
    answers: pa.Table | None = None
    """prompt_token_ids and token_ids of what behaviour cloning copies."""
    soft: SoftReading | None = None
    """Answers with the teacher's distributions."""
    corpus: Source[np.ndarray] | None = None
    prompts: Slice | None = None
    """What the probe asks."""
    slices: dict[str, Slice] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def use(self, slice_: Slice, *, read_now: bool = False) -> Slice:
        """Remember that a slice is read. Refuses shards that are unreadable or not those that its manifest names.

        `read_now`: resolving reads every shard of it anyway, and that refuses the same; opening thousands twice takes seconds."""
        if slice_.path not in self.slices and not read_now:
            _refuse_foreign(slice_)
        self.slices[slice_.path] = slice_
        return slice_

    @property
    def paths(self) -> list[str]:
        """table/slice names, in the tables' order."""
        return sorted(self.slices, key=lambda path: (TABLE_ORDER.index(path.split("/")[0]), path))

    @property
    def reward_sql(self) -> str | None:
        """The SQL that the reward expression became."""
        return self.pool.advantages.sql if self.pool else None


def _refuse_foreign(slice_: Slice) -> None:
    """Footers only: the key that a shard was written under stands there."""
    from data.zip import open_shard

    for file, shard in zip(slice_.files, slice_.shards, strict=True):
        if (open_shard(file).schema_arrow.metadata or {}).get(b"grpo_kd.key") != shard.key.encode():
            raise Refusal(
                f"shard {file} is a file of another slice than {slice_.path}",
                f"python -m data verify --lake {slice_.place.uri}",
            )


def resolve(recipe: TrainerRecipe) -> Reading:
    """Find everything the run needs in the lake; refuse what is not there, naming the command that makes it."""
    settings, lake = recipe.trainer, Lake.open(recipe.lake)
    model = policy_model(recipe)
    start = Start(model, model_folder(model, recipe.runs), identity(model, recipe.runs, recipe.seed))
    reading = Reading(start, parse_objective(settings.objective))
    needed = ever(settings.losses, _horizon(settings))
    _refuse_idle(settings, needed)
    if needed["rl"]:
        reading.pool = read_pool(lake, recipe, reading, needed["kl"])
    if needed["bc"]:
        from trainer.imitation import answers

        reading.answers = answers(lake, recipe, reading)
    if needed["soft"]:
        from trainer.soft import soft_targets

        reading.soft = soft_targets(lake, recipe, reading)
    if needed["pt"]:
        reading.corpus = _corpus(lake, recipe, reading)
    if settings.probe.every is not None:
        reading.prompts = reading.use(reading.pool.pool.prompts if reading.pool else pools.find_prompts(lake, recipe))
    return reading


def _refuse_idle(settings: TrainerSettings, needed: Mapping[str, bool]) -> None:
    """Refuse a run, or one step of it, that trains nothing: it would be found out only when that step is reached."""
    if settings.steps and not any(needed.values()):
        raise Refusal(
            "every weight in losses is 0: there is nothing to train", "losses.rl=1, losses.bc=1 or losses.pt=1"
        )
    idle = [step for step in range(1, _horizon(settings) + 1) if not weights(settings.losses, step).any]
    if idle:
        raise Refusal(
            f"losses: from step {idle[0]} on rl, bc, pt and soft all have weight 0, in {len(idle)} steps",
            "give one of them a weight there: in losses, or in that phase of losses.phases",
        )


def _horizon(settings: TrainerSettings) -> int:
    """Steps whose weights say what is needed; how many `epochs` take is known only once the pool is."""
    if settings.replay.epochs is None:
        return settings.steps
    return 2 + sum(
        int(phase.get("steps", 0)) for phase in settings.losses.phases
    )  # a line from 0 is above it at its second step


def _corpus(lake: Lake, recipe: TrainerRecipe, reading: Reading) -> Source[np.ndarray]:
    from trainer.replay import corpus_source

    tokenizer = reading.start.identity["tokenizer"]
    found = pools.find_corpora(lake, recipe, tokenizer)
    return corpus_source([reading.use(slice_) for slice_ in found])


def configuration(recipe: TrainerRecipe) -> dict[str, Any]:
    """The recipe as JSON, without the places where lake and runs lie."""
    return {k: v for k, v in asdict(recipe).items() if k not in ("lake", "runs", "factory")}


def configuration_hash(recipe: TrainerRecipe, reading: Reading) -> str:
    """Hash of all that changes the result: settings, the starting weights and the slices; not names, places or checkpoints."""
    outside = ("run", "resume", "reuse", "checkpoint")
    trainer = {k: v for k, v in asdict(recipe.trainer).items() if k not in outside}
    del trainer["replay"]["micro_batch_tokens"]  # memory and speed: a run may go on where there is less of either
    compute = trainer["optimiser"].pop("compute")
    trainer["autocast"] = compute["autocast"]  # of the ways to compute a step, the one that rounds
    values: Mapping[str, Any] = {
        "trainer": trainer,
        "reward": recipe.reward if reading.reward_sql or reading.answers else None,
        "where": recipe.where,
        "seed": recipe.seed,
        "start": reading.start.model_id,
        "slices": reading.paths,
        "probe": {
            "components": recipe.components,
            "prompts": asdict(recipe.prompts),
            "sampling": sampling_settings(recipe),
        }
        if recipe.trainer.probe.every
        else None,
    }
    return digest(values)
