"""The drift of one run: log π of its weights on the pool that it read, and every figure of MATH §9 from that.

Reads runs/NAME, the pool and its rewards, and loads the run's weights. Writes nothing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.fingerprint import loading
from data.refusal import Refusal
from data.verdict import WEIGHTED, Verdict, verdict
from trainer.config import TrainerRecipe
from trainer.drift.config import DriftSettings
from trainer.drift.runs import (
    Row,
    copied_rows,
    known_run,
    pool_only,
    recipe_of,
    seen_groups,
    steps_with,
    weights_folder,
)
from trainer.drift.sums import DriftSums
from trainer.drift.tail import k_hat
from trainer.drift.value import Value, value
from trainer.forward import GroupTokens, Policy, context_length, group_logprobs, load, pad_bt, plan
from trainer.objectives import parse_objective
from trainer.replay import Group
from trainer.sources import PoolReading, Reading, pool_source, resolve
from trainer.stream import Stream
from trainer.view import StepView


@dataclass(frozen=True)
class Measured:
    """What `python -m trainer.drift` prints."""

    recipe: TrainerRecipe
    weights: Path
    pool: str
    """samples/slice."""
    groups: int
    """Groups scored."""
    of: int
    """Groups of the pool."""
    figures: dict[str, float]
    value: Value
    verdict: Verdict
    words: list[str] | None = None
    """Flags and overrides that the run was started with; None where no command started it, or an older one."""


def measure(settings: DriftSettings) -> Measured:
    """Everything about one run. Raises Refusal where the run, its weights, its pool or its rewards are not there."""
    run, record = known_run(settings.run, settings.runs)
    recipe = recipe_of(run.name, record, settings.lake, settings.runs)
    folder, until = weights_folder(run)
    copied_steps = steps_with(run, "bc", until) if recipe.trainer.replay.bc == "best_of_n" else 0
    reading = resolve(pool_only(recipe, answers=copied_steps > 0))
    pool = reading.pool
    assert pool is not None
    policy = _policy(folder, reading.start.folder, recipe)
    groups = chosen_groups(pool, settings.groups)
    sums, token_n, sample_n = log_ratios(policy, groups, recipe, pool.temperature)
    seen_g, stratum_g = _history(reading, policy, recipe, groups, (steps_with(run, "rl", until), copied_steps))
    found = value(
        sample_n,
        np.concatenate([_rewards(group) for group in groups]),
        np.cumsum([0, *(len(group.completions) for group in groups[:-1])]),
        seen_g=seen_g,
        stratum_g=stratum_g,
        seed=recipe.seed,
    )
    counts = pool.advantages.advantages.figures
    figures = sums.figures() | {
        "zero_variance": counts["zero_variance"] / counts["groups"],
        "token_k_hat": k_hat(token_n),
        "sequence_k_hat": k_hat(sample_n),
    }
    weighted = bool(WEIGHTED & set(parse_objective(recipe.trainer.objective)))
    size = max(2, round(len(sample_n) / len(groups)))
    judged = verdict(figures, sample_weights=weighted, samples=size)
    return Measured(
        recipe,
        folder,
        pool.pool.samples.path,
        len(groups),
        counts["groups"],
        figures,
        found,
        judged,
        record.get("words"),
    )


def _policy(folder: Path, start: Path, recipe: TrainerRecipe) -> Policy:
    if (line := loading(dataclasses.replace(recipe.student, path=str(folder), gguf_file=None), folder)) is not None:
        print(line, flush=True)
    if (folder / "adapter_config.json").is_file():
        from trainer.adapter import merged

        return merged(str(folder), start=str(start), dtype=recipe.student.dtype)
    try:
        return load(str(folder), dtype=recipe.student.dtype, trust_remote_code=recipe.student.trust_remote_code)
    except ValueError as error:
        raise Refusal(f"{folder}: {error}", "python -m trainer.drift run=ANOTHER_NAME") from error


def _history(
    reading: Reading, policy: Policy, recipe: TrainerRecipe, groups: list[Group], steps: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the groups were trained on (bool), after so many steps of replay and of cloning, and their strata.

    Training draws blindly among groups that have a sample in the loss, and among those whose own sample is a target of cloning;
    whether a group is among them depends on its rewards."""
    from trainer.imitation import fitting

    assert reading.pool is not None
    ids = group_ids(reading)
    in_loss = np.logical_or.reduceat(reading.pool.in_loss, reading.pool.advantages.group_starts)
    replayed = set(ids[seen_groups(reading, recipe, steps[0])].tolist())
    replayable = set(ids[in_loss].tolist())
    targets, copied = set[Row](), set[Row]()
    if reading.answers is not None:
        table = fitting(reading.answers, context_length(policy), [])
        targets, copied = copied_rows(table, recipe, None), copied_rows(table, recipe, steps[1])
    rows = [{(tuple(group.prompt), tuple(c)) for c in group.completions} for group in groups]
    seen = [group.group_id in replayed or bool(own & copied) for group, own in zip(groups, rows, strict=True)]
    strata = [2 * (group.group_id in replayable) + bool(own & targets) for group, own in zip(groups, rows, strict=True)]
    return np.array(seen), np.array(strata)


def group_ids(reading: Reading) -> np.ndarray:
    """group_id of every group of the pool, in the slice's order."""
    from data.scalars import read_scalars

    assert reading.pool is not None
    ids = read_scalars(reading.pool.pool.samples, {}, columns=[]).column("group_id").to_numpy()
    found: np.ndarray = ids[reading.pool.advantages.group_starts]
    return found


def chosen_groups(pool: PoolReading, most: int) -> list[Group]:
    """Up to `most` whole groups in a fixed order, also what is not in the loss; an empty sample is left out."""
    from data.scalars import read_scalars

    written = read_scalars(pool.pool.samples, {}, columns=["n_tokens"])["n_tokens"].to_numpy() > 0
    whole = dataclasses.replace(pool, in_loss=written, normalised_by_step=True)  # so that a group brings its rewards
    source = pool_source(whole, pool.advantages.advantages.vector)
    return Stream(source, 0).take(min(most, source.count))


def _rewards(group: Group) -> np.ndarray:
    assert group.rewards is not None and group.rows is not None
    return np.asarray(group.rewards, np.float64)[group.rows]


@torch.no_grad()
def log_ratios(
    policy: Policy, groups: list[Group], recipe: TrainerRecipe, temperature: float
) -> tuple[DriftSums, np.ndarray, np.ndarray]:
    """Sums, log ρ of every token (n,) and log w of every sample, in the groups' order."""
    items = [GroupTokens(group.prompt, group.completions) for group in groups]
    sums, tokens, samples = DriftSums.zero(), dict[int, np.ndarray](), dict[int, np.ndarray]()
    for batch in plan(items, recipe.trainer.replay.micro_batch_tokens, policy.layout):
        for index in batch:
            logprob_n = group_logprobs(policy, [items[index]], temperature=temperature).cpu()
            view = _view(groups[index], logprob_n)
            sums = sums + DriftSums.from_view(view, recipe.trainer.clip)
            log_bt = (view.logprobs_bt - view.behaviour_bt).double()
            tokens[index] = log_bt[view.mask_bt].numpy()
            samples[index] = torch.where(view.mask_bt, log_bt, 0.0).sum(1).numpy()
    order = range(len(groups))
    return sums, np.concatenate([tokens[i] for i in order]), np.concatenate([samples[i] for i in order])


def _view(group: Group, logprob_n: torch.Tensor) -> StepView:
    lengths = [len(completion) for completion in group.completions]
    logprobs_bt, mask_bt = pad_bt(logprob_n, lengths)
    behaviour_n = torch.from_numpy(np.concatenate(group.behaviour).astype(np.float32))
    return StepView(
        logprobs_bt=logprobs_bt,
        behaviour_bt=pad_bt(behaviour_n, lengths)[0],
        old_bt=None,
        advantage_b=torch.from_numpy(np.asarray(group.advantages, np.float32).copy()),
        mask_bt=mask_bt,
        group_b=torch.zeros(len(lengths), dtype=torch.long),
        lengths_b=torch.tensor(lengths),
    )
