"""The journal tables, as literals: what happened, row after row; they only grow.

Reads and writes nothing. The derived tables, and the dictionary of all, stand in `contract.py`."""

from __future__ import annotations

import pyarrow as pa

from data.columns import NATS, TOKENS, Column, Table

RUNS = Table(
    "runs",
    "training run",
    (
        Column("run", pa.string(), "name; its folder is runs/NAME", required=True),
        Column("recipe", pa.string(), "recipe it was started from"),
        Column(
            "status", pa.string(), "running (as of its last checkpoint), finished, matched, or stopped", required=True
        ),
        Column("reason", pa.string(), "the stop rule that ended it; null: all steps done"),
        Column("configuration", pa.string(), "the whole configuration as JSON", required=True),
        Column("configuration_hash", pa.string(), "what reuse: true looks for", required=True),
        Column("slices", pa.string(), "table/slice names read, as JSON", required=True),
        Column("reward_sql", pa.string(), "the SQL that the reward expression became"),
        Column("policy", pa.string(), "models.model_id it started from"),
        Column("model_id", pa.string(), "models.model_id of the final weights"),
        Column("folder", pa.string(), "where the final weights lie"),
        Column("steps", pa.int32(), "optimiser steps done"),
        Column("seconds", pa.float64(), "wall time over all starts", unit="s"),
        Column("created_at", pa.timestamp("us", tz="UTC"), "when the row was written", required=True),
    ),
    journal=True,
)

METRICS = Table(
    "metrics",
    "run × step × name",
    (
        Column("run", pa.string(), "runs.run", required=True),
        Column("step", pa.int32(), "optimiser step the value belongs to", required=True),
        Column("name", pa.string(), "e.g. drift/sequence_ess, probe/exact", required=True),
        Column("value", pa.float64(), "null: not measured in this step"),
    ),
    journal=True,
)

COSTS = Table(
    "costs",
    "stage × what it did in one call",
    (
        Column("stage", pa.string(), "the factory's stage, or training", required=True),
        Column("recipe", pa.string(), "recipe it ran for"),
        Column("produced", pa.string(), "table/slice, or run", required=True),
        Column("model", pa.string(), "model that worked; null: none did"),
        Column("items", pa.int64(), "rows made"),
        Column("tokens_in", pa.int64(), "tokens read by the model", unit="tokens"),
        Column("tokens_out", pa.int64(), "tokens written or scored", unit="tokens"),
        Column("seconds", pa.float64(), "wall time", unit="s", required=True),
        Column("device", pa.string(), "cpu, or the GPU's name"),
        Column("money", pa.float64(), "API price; null: not billed", unit="USD"),
        Column("created_at", pa.timestamp("us", tz="UTC"), "when the row was written", required=True),
    ),
    journal=True,
)

LEDGER = Table(
    "ledger",
    "answer paid for over an API",
    (
        Column(
            "key",
            pa.string(),
            "sha256 of model, conversation, sampling and draw; the server is not in it",
            required=True,
        ),
        Column("model", pa.string(), "model that was asked", required=True),
        Column("served_by", pa.string(), "the name it answered under, e.g. a dated snapshot; null: a filter answered"),
        Column("stage", pa.string(), "the factory's stage that asked", required=True),
        Column("recipe", pa.string(), "recipe whose budget paid", required=True),
        Column("text", pa.string(), "the answer; null: refused, or cut by a filter"),
        Column("finish_reason", pa.string(), "stop, length, refusal, content_filter, or what the server says"),
        Column("token_ids", TOKENS, "the model's own ids; null where the server gives none"),
        Column("logprobs", NATS, "log p of the answer's tokens, as the server gives them", unit="nats"),
        Column("prompt_tokens", pa.int64(), "tokens billed for the conversation; null: not told", unit="tokens"),
        Column("answer_tokens", pa.int64(), "tokens billed for the answer; null: not told", unit="tokens"),
        Column("price", pa.float64(), "what it cost by the recipe's prices; null: not known", unit="USD"),
        Column("created_at", pa.timestamp("us", tz="UTC"), "when it came", required=True),
    ),
    journal=True,
    tokens=True,
)

PAIRS = Table(
    "pairs",
    "pair of answers on a page for raters",
    (
        Column("page", pa.string(), "the page's id; it stands in the page and in its CSV", required=True),
        Column("pair", pa.int32(), "number on the page, from 1", required=True),
        Column("benchmark", pa.string(), "evaluations.benchmark", required=True),
        Column("item", pa.string(), "evaluations.item", required=True),
        Column("first", pa.string(), "policy whose answer is shown first; the page does not say", required=True),
        Column("second", pa.string(), "policy whose answer is shown second", required=True),
        Column("first_model_id", pa.string(), "models.model_id of the first", required=True),
        Column("second_model_id", pa.string(), "models.model_id of the second", required=True),
        Column("first_slice", pa.string(), "slice of evaluations that the first answer is from", required=True),
        Column("second_slice", pa.string(), "slice of evaluations that the second answer is from", required=True),
        Column("repeats", pa.int32(), "pair shown here again with its sides changed; null: its first showing"),
        Column("question", pa.string(), "what raters are asked", required=True),
        Column("items", pa.int64(), "items that both policies answered", required=True),
        Column("identical", pa.int64(), "of these: both said the same, so there is nothing to judge", required=True),
        Column("created_at", pa.timestamp("us", tz="UTC"), "when the page was first made", required=True),
    ),
    journal=True,
)

RATINGS = Table(
    "ratings",
    "human judgement",
    (
        Column("benchmark", pa.string(), "what was judged", required=True),
        Column("item", pa.string(), "item of the benchmark", required=True),
        Column("policy_a", pa.string(), "shown first or second, blinded", required=True),
        Column("policy_b", pa.string(), "the other", required=True),
        Column("verdict", pa.string(), "a, b or tie", required=True),
        Column("rater", pa.string(), "who judged"),
        Column("page", pa.string(), "pairs.page; null: judged elsewhere"),
        Column("pair", pa.int32(), "pairs.pair; null: judged elsewhere"),
        Column("created_at", pa.timestamp("us", tz="UTC"), "when", required=True),
    ),
    journal=True,
)
