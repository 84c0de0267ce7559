"""What the stored pool says decides the weights: μ shifted by a known amount, answers that belong to other prompts."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

SHIFT = -0.5  # nats, on tokens 0, 2, 4, … of every sample
DISCRETE = (
    "agreement + 0.5*language"  # equal rewards are equal exactly, so that groups without spread can be told by hand
)


def slice_path(place: Any, table: str) -> str:
    """table/name of the demo's slice of a table."""
    from data.lake import Lake

    return Lake.open(place.lake).slices(table, label="demo")[-1].path


def shift_behaviour(place: Any) -> None:
    """Publish the samples again with μ shifted on every other token."""
    import pyarrow as pa

    from data.contract import SAMPLES
    from data.lake import Lake

    lake, path = Lake.open(place.lake), slice_path(place, "samples")
    samples, tables = lake.slice(path), []
    for index in range(len(samples.shards)):
        rows = lake.read_shard(samples, index).to_pylist()
        for row in rows:
            row["behaviour_logprobs"] = [
                value + SHIFT * (t % 2 == 0) for t, value in enumerate(row["behaviour_logprobs"])
            ]
        tables.append(pa.Table.from_pylist(rows, schema=SAMPLES.schema))
    place.rewrite(path, tables)


def by_hand(place: Any, shift: float) -> tuple[int, float, float]:
    """Groups that teach something, and ESS/n over sequences and over tokens, from the tables as they were published.

    ρ = π/μ with π the policy's own scores and μ the samples' log-probabilities minus the shift; w = Π ρ of a sample."""
    from data.lake import Lake

    rows = Lake.open(place.lake).sql(
        f"""SELECT group_id, finish_reason, r, behaviour_logprobs AS mu, logprobs AS pi
        FROM (SELECT group_id, sample_index, {DISCRETE} AS r FROM reward_table)
        JOIN samples USING (group_id, sample_index) JOIN scores USING (group_id, sample_index)
        WHERE scores.label = 'demo-policy'"""
    )
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        groups.setdefault(row["group_id"], []).append(row)
    kept = [rows for rows in groups.values() if len({row["r"] for row in rows}) > 1]
    logs = [
        np.float64(row["pi"]) - np.float64(row["mu"]) - shift * (np.arange(len(row["mu"])) % 2 == 0)
        for rows in kept
        for row in rows
        if row["finish_reason"] != "length"
    ]
    return len(kept), ess(np.array([log.sum() for log in logs])), ess(np.concatenate(logs))


def ess(log_weights: np.ndarray) -> float:
    """(Σw)² / (n·Σw²)."""
    weights = np.exp(log_weights)
    return float(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))


def test_a_shifted_mu_shows_in_the_logged_ess_and_in_weighted_runs_alone(mine: Any, rl_only: tuple[str, ...]) -> None:
    count, plain_sequence, plain_token = by_hand(mine, 0.0)
    _, sequence, token = by_hand(mine, SHIFT)
    assert plain_sequence > 0.999 and sequence < 0.9 and token < 0.97, "the shift is large enough to be seen"

    def train(kind: str) -> None:
        words = (f"run={kind}-${{trainer.objective}}", "steps=2", f"replay.prompts={count}", f"reward={DISCRETE}")
        said = mine.trainer("-m", "recipe=demo", "objective=seq_tis,naive", *words, *rl_only)
        assert said.count(f" {count} of ") == 1, "the groups kept are those counted by hand; a sweep says it once"

    train("plain")
    shift_behaviour(mine)
    assert mine.data("verify").endswith("no faults\n")
    train("shifted")
    assert mine.final("plain-naive").read_bytes() == mine.final("shifted-naive").read_bytes()
    assert mine.final("plain-seq_tis").read_bytes() != mine.final("shifted-seq_tis").read_bytes()
    for run, wanted in (("plain", (plain_sequence, plain_token)), ("shifted", (sequence, token))):
        first = mine.metrics(f"{run}-seq_tis")[0]  # the whole pool, under the start policy
        assert (first["drift/sequence_ess"], first["drift/token_ess"]) == pytest.approx(wanted, abs=1e-3)


def permute_answers(place: Any) -> None:
    """Give every prompt another prompt's answer, as text and as tokens."""
    import pyarrow as pa

    from data.lake import Lake

    lake = Lake.open(place.lake)
    slices = {table: lake.slice(slice_path(place, table)) for table in ("answers", "answer_tokens")}
    order = np.random.default_rng(0).permutation(slices["answers"].rows)
    for slice_ in slices.values():
        rows = lake.read(slice_)
        stay = [name for name in ("prompt_id", "candidate", "prompt_token_ids") if name in rows.column_names]
        moved = rows.take(pa.array(order))
        mixed = pa.table({name: (rows if name in stay else moved).column(name) for name in rows.column_names})
        bounds = np.cumsum([0, *(shard.rows for shard in slice_.shards)])
        place.rewrite(slice_.path, [mixed.slice(a, b - a) for a, b in itertools.pairwise(bounds)])


def test_answers_of_other_prompts_teach_nothing(mine: Any) -> None:
    runs = ("own", "permuted")
    for run in runs:
        if run == "permuted":
            permute_answers(mine)
            assert mine.data("verify").endswith("no faults\n")
        words = ("steps=80", "losses.rl=0", "losses.kl=0", "replay.bc=teacher", "probe.every=null")
        mine.trainer("recipe=demo", f"run={run}", *words)
    mine.factory("recipe=demo", "stages=[evaluate]", f"policies=[student,{','.join(f'run:{run}' for run in runs)}]")
    board = mine.sql("SELECT policy, value FROM leaderboard WHERE benchmark = 'held_out' AND metric = 'exact'")
    exact = {row["policy"]: row["value"] for row in board}
    assert exact["permuted"] <= exact["student"] + 0.05
    assert exact["own"] > exact["student"] + 0.1, "the prompts' own answers do teach"
    pairs = mine.sql("SELECT * FROM differences WHERE policy = 'own' AND benchmark = 'held_out' AND metric = 'exact'")
    low = {row["against"]: row["low"] for row in pairs}
    assert low["student"] > 0 and low["permuted"] > 0, "and more than chance would"
