"""What a run reads, resolved by exact settings before anything is written: pool, rewards, scores, answers, corpus.

Reads manifests, scalars and small tables. Opens no teacher, and needs no teacher's folder. Refuses a pool of another policy,
tokenizer or chat template, scores of other samples, a missing or all-zero μ, each with the command that repairs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data import pool as pools
from data.config import ModelSettings
from data.contract import TABLES
from data.fingerprint import identity, model_folder, policy_model
from data.keys import digest
from data.lake import Lake
from data.manifest import Slice
from data.refusal import Refusal
from trainer.config import TrainerRecipe, TrainerSettings
from trainer.objectives import parse_objective
from trainer.schedule import ever

if TYPE_CHECKING:
    import pyarrow as pa

    from data.pool_advantages import PoolAdvantages
    from trainer.replay import Group
    from trainer.stream import Source

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


@dataclass(frozen=True)
class PoolReading:
    """The pool with everything that training reads beside it."""

    pool: pools.Pool
    advantages: PoolAdvantages
    in_loss: np.ndarray
    """Bool by ordinal: samples that count, of groups that are kept."""
    chosen: np.ndarray | None
    """Bool by ordinal: samples that pass `where`, for raft; None: the best of each group."""
    rescored: Slice | None
    temperature: float
    max_tokens: int
    rescored_behaviour: bool
    normalised_by_step: bool
    """Whether advantages depend on what else is in the step (`mean_batch_std`)."""


@dataclass
class Reading:
    """All that a run reads. None where a term has no weight in any step."""

    start: Start
    objective: dict[str, float]
    pool: PoolReading | None = None
    answers: pa.Table | None = None
    """prompt_token_ids and token_ids of what behaviour cloning copies."""
    corpus: Source[np.ndarray] | None = None
    prompts: Slice | None = None
    """What the probe asks."""
    slices: dict[str, Slice] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def use(self, slice_: Slice) -> Slice:
        """Remember that a slice is read. Refuses shards that are unreadable or not those that its manifest names."""
        if slice_.path not in self.slices:
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
                f"python -m data verify --lake {slice_.root}",
            )


def resolve(recipe: TrainerRecipe) -> Reading:
    """Find everything the run needs in the lake; refuse what is not there, naming the command that makes it."""
    settings, lake = recipe.trainer, Lake.open(recipe.lake)
    model = policy_model(recipe)
    start = Start(model, model_folder(model, recipe.runs), identity(model, recipe.runs, recipe.seed))
    reading = Reading(start, parse_objective(settings.objective))
    needed = ever(settings.losses, _horizon(settings))
    if settings.steps and not any(needed.values()):
        raise Refusal(
            "every weight in losses is 0: there is nothing to train", "losses.rl=1, losses.bc=1 or losses.pt=1"
        )
    if needed["rl"]:
        reading.pool = _pool(lake, recipe, reading, needed["kl"])
    if needed["bc"]:
        from trainer.imitation import answers

        reading.answers = answers(lake, recipe, reading)
    if needed["pt"]:
        reading.corpus = _corpus(lake, recipe, reading)
    if settings.probe.every is not None:
        reading.prompts = reading.use(reading.pool.pool.prompts if reading.pool else pools.find_prompts(lake, recipe))
    return reading


def _horizon(settings: TrainerSettings) -> int:
    """Steps whose weights say what is needed; how many `epochs` take is known only once the pool is."""
    if settings.replay.epochs is None:
        return settings.steps
    return 2 + sum(
        int(phase.get("steps", 0)) for phase in settings.losses.phases
    )  # a line from 0 is above it at its second step


def _pool(lake: Lake, recipe: TrainerRecipe, reading: Reading, leash: bool) -> PoolReading:
    from data.pool_advantages import pool_advantages
    from trainer.replay import refuse_behaviour

    if not recipe.reward:
        raise Refusal("the recipe has no reward: losses.rl is above 0", "'reward=NAME_OF_A_COMPONENT', or losses.rl=0")
    pool = pools.find_pool(lake, recipe, reading.start.model_id)
    for slice_ in (pool.prompts, pool.groups, pool.samples):
        reading.use(slice_)
    refuse_behaviour(pool.samples)
    replay = recipe.trainer.replay
    where = recipe.where if "raft" in reading.objective else None
    found = pool_advantages(
        pool.samples,
        find_components(
            lake, recipe, pool.samples, component_names(lake, recipe, pool.samples, [recipe.reward, where])
        ),
        recipe.reward,
        where=where,
        method=replay.advantage,
        min_spread=replay.min_spread,
        zero_variance=replay.zero_variance,
        on_truncated=replay.truncated,
        penalty=replay.penalty,
    )
    for path in found.slices:
        reading.use(lake.slice(path))
    in_loss = _in_loss(found, pool, recipe)
    if where and not (found.passed & in_loss).any():
        raise Refusal(
            f"where={where!r}: no sample of {pool.samples.path} passes it, and raft imitates those that do",
            f"python -m data inspect {where!r} --lake {recipe.lake}",
        )
    counts = found.advantages.figures
    reading.notes += [
        f"pool {pool.samples.path}: {counts['groups_kept']} of {counts['groups']} groups kept ({counts['zero_variance']} without "
        f"spread, {counts['too_few']} with fewer than two valid samples), {int(in_loss.sum())} samples in the loss",
        f"reward as SQL: {' '.join(found.sql.split())}",
    ]
    temperature, max_tokens, rescored_behaviour = _sampling(lake, pool, reading)
    imported = pool.samples.settings.get("import")
    drawn_at = float(imported["temperature"]) if imported else recipe.sampling.temperature
    rescored = lake.find("scores", pools.scores_key(pool, pool.policy, drawn_at))
    if rescored is not None:
        reading.use(rescored)
    elif leash and not rescored_behaviour:
        raise Refusal(
            f"{pool.samples.path} has no scores by the policy itself, which the KL is measured from",
            pools.command(recipe, "scores") + ", or losses.kl=0",
        )
    return PoolReading(
        pool,
        found,
        in_loss,
        found.passed & in_loss if where else None,
        rescored,
        temperature,
        max_tokens,
        rescored_behaviour,
        normalised_by_step=replay.advantage == "mean_batch_std",
    )


def _in_loss(found: PoolAdvantages, pool: pools.Pool, recipe: TrainerRecipe) -> np.ndarray:
    """Which samples count. Refuses a pool that none of its groups can teach anything."""
    advantages, figures = found.advantages, found.advantages.figures
    from data.scalars import read_scalars

    kept = np.repeat(advantages.group_kept, np.diff(found.group_starts, append=len(advantages.in_loss)))
    written = read_scalars(pool.samples, {}, columns=["n_tokens"])["n_tokens"].to_numpy() > 0
    in_loss = advantages.in_loss & kept & written  # an imported sample may be empty: nothing of it can be predicted
    if not in_loss.any():
        raise Refusal(
            f"reward {recipe.reward!r} leaves no group of {pool.samples.path} to learn from: of {figures['groups']} groups "
            f"{figures['zero_variance']} have no spread, {figures['too_few']} fewer than two valid samples",
            f"python -m data inspect {recipe.reward!r} --lake {recipe.lake}",
        )
    return in_loss


def find_components(lake: Lake, recipe: TrainerRecipe, base: Slice, names: Iterable[str]) -> dict[str, Slice]:
    """Slices of the named components for exactly these samples or answers. Imported rewards, which no recipe describes, answer
    to their label, and teacher answers have none of them."""
    imported = imported_rewards(lake, base)
    wanted = [name for name in sorted(names) if name in recipe.components or name in imported]
    return {
        name: pools.find_rewards(lake, recipe, name, base) if name in recipe.components else imported[name]
        for name in wanted
    }


def imported_rewards(lake: Lake, base: Slice) -> dict[str, Slice]:
    """Reward columns that came with an imported pool, by label."""
    found = lake.slices("rewards") if base.table == "samples" else []
    return {s.label: s for s in found if s.parents[:1] == (base.path,) and "import" in s.settings}


def component_names(lake: Lake, recipe: TrainerRecipe, samples: Slice, expressions: Iterable[str | None]) -> set[str]:
    """Components that the expressions name. Refuses unknown names, with the nearest."""
    from data.expression import compile_expression

    known = set(recipe.components) | set(imported_rewards(lake, samples))
    return {name for text in expressions if text for name in compile_expression(text, known).names} & known


def _sampling(lake: Lake, pool: pools.Pool, reading: Reading) -> tuple[float, int, bool]:
    """Temperature and longest sample of the pool, and whether μ was rescored; says what makes the weights less exact."""
    columns = ["temperature", "max_tokens", "logprobs_mode", "support"]
    rows = lake.read(pool.groups, columns)
    values = {name: set(rows.column(name).unique().to_pylist()) for name in columns}
    if len(values["temperature"]) > 1:
        raise Refusal(
            f"{pool.groups.path} mixes temperatures {sorted(map(str, values['temperature']))}",
            "train from one pool at a time",
        )
    if "none" in values["logprobs_mode"]:
        raise Refusal(
            f"{pool.groups.path} has no behaviour log-probabilities",
            "import it again without them: they are rescored then",
        )
    rescored = "rescored" in values["logprobs_mode"]
    if rescored:
        reading.notes.append(
            f"warning: μ of {pool.samples.path} was rescored by the policy, not recorded when sampling: ratios are approximate"
        )
    if "truncated" in values["support"]:
        reading.notes.append(
            f"warning: {pool.samples.path} was sampled with truncated support (top_p or top_k): no weight brings it back"
        )
    (temperature,) = values["temperature"]
    longest = [value for value in values["max_tokens"] if value is not None]
    return float(temperature or 1.0), int(max(longest, default=1)), rescored


def _corpus(lake: Lake, recipe: TrainerRecipe, reading: Reading) -> Source[np.ndarray]:
    from trainer.replay import corpus_source

    tokenizer = reading.start.identity["tokenizer"]
    found = pools.find_corpora(lake, recipe, tokenizer)
    return corpus_source([reading.use(slice_) for slice_ in found])


def pool_source(reading: PoolReading, vector: np.ndarray) -> Source[Group]:
    """The pool as a source of groups; `vector` is the advantages' memory-mapped file."""
    from trainer.replay import Vectors
    from trainer.replay import pool_source as source

    rewards = reading.advantages.values if reading.normalised_by_step else None
    vectors = Vectors(reading.advantages.group_starts, reading.in_loss, vector, reading.chosen, rewards)
    return source(reading.pool.samples, reading.pool.groups, reading.rescored, vectors)


def configuration(recipe: TrainerRecipe) -> dict[str, Any]:
    """The recipe as JSON, without the places where lake and runs lie."""
    return {k: v for k, v in asdict(recipe).items() if k not in ("lake", "runs", "factory")}


def configuration_hash(recipe: TrainerRecipe, reading: Reading) -> str:
    """Hash of all that changes the result: settings, the starting weights and the slices; not names, places or checkpoints."""
    outside = ("run", "resume", "reuse", "checkpoint")
    trainer = {k: v for k, v in asdict(recipe.trainer).items() if k not in outside}
    values: Mapping[str, Any] = {
        "trainer": trainer,
        "reward": recipe.reward if reading.pool or reading.answers else None,
        "where": recipe.where,
        "seed": recipe.seed,
        "start": reading.start.model_id,
        "slices": reading.paths,
        "probe": {
            "components": recipe.components,
            "prompts": asdict(recipe.prompts),
            "sampling": asdict(recipe.sampling),
        }
        if recipe.trainer.probe.every
        else None,
    }
    return digest(values)
