"""Every table of the lake as a literal: what a row is, what each column holds, in which unit.

Reads and writes nothing. `data/README.md`, the views and the checks at publish are made from these literals, so a column is
described here and nowhere else. Derived tables are immutable and content-addressed; journal tables only grow (`journals.py`)."""

from __future__ import annotations

import pyarrow as pa

from data.columns import MESSAGES, NATS, SAMPLE_KEYS, TEXTS, TOKENS, Column, Table, key
from data.journals import COSTS, LEDGER, METRICS, PAIRS, RATINGS, RUNS

VERSION = 1
"""Raised when a column changes its meaning. It stands in every manifest and outside every key: a new column orphans nothing."""

PROMPT_ID = key("prompt_id", pa.uint64(), "hash of the NFC messages")
GROUP_ID = key(
    "group_id", pa.uint64(), "hash of prompt, policy, sampling settings and pool seed; shown as 16 hex digits"
)
SAMPLE_INDEX = key("sample_index", pa.uint8(), "0 to G−1 within the group")
CANDIDATE = key("candidate", pa.uint8(), "0 to N−1 within the prompt")

PROMPTS = Table(
    "prompts",
    "prompt",
    (
        PROMPT_ID,
        Column("messages", MESSAGES, "what the student is asked", required=True),
        Column("teacher_messages", MESSAGES, "what the teacher is shown instead; null: the same messages"),
        Column("references", TEXTS, "known right answers; null where none is known"),
        Column("answer_pattern", pa.string(), "regular expression whose first group is the answer span"),
        Column(
            "split", pa.string(), "train or held_out; no stage samples a held-out prompt for training", required=True
        ),
        Column("language", pa.string(), "language the answer should be in, ISO 639"),
        Column("topic", pa.string(), "the source's own label"),
        Column("source", pa.string(), "where the prompt comes from"),
        Column("licence", pa.string(), "licence of the text"),
        Column("extra", pa.string(), "the source's other columns as a JSON object, handed to a user's own reward"),
    ),
    keys=("prompt_id",),
)

MODELS = Table(
    "models",
    "model state",
    (
        key("model_id", pa.string(), "hash of everything below that changes log-probabilities"),
        Column("name", pa.string(), "hub id, folder name, or run:NAME", required=True),
        Column("revision", pa.string(), "hub revision"),
        Column(
            "weights", pa.string(), "sha256 over the sorted (tensor name, dtype, shape, bytes); null: behind an API"
        ),
        Column("tokenizer", pa.string(), "sha256 of the tokenizer; null: behind an API"),
        Column("chat_template", pa.string(), "sha256 of the chat template; null: behind an API"),
        Column(
            "end_tokens",
            pa.string(),
            "ids that its configuration says end a text, in rising order; null: behind an API",
        ),
        Column("dtype", pa.string(), "dtype of the forward pass; null: behind an API"),
        Column("head_dtype", pa.string(), "dtype of the log-sum-exp; null: behind an API"),
        Column("quantisation", pa.string(), "null: none"),
        Column("adapter", pa.string(), "fingerprint of a LoRA adapter; null: none"),
        Column("attention", pa.string(), "attention backend"),
        Column("parent_run", pa.string(), "the run that made these weights"),
    ),
    keys=("model_id",),
)

GROUPS = Table(
    "groups",
    "prompt × policy × sampling settings",
    (
        GROUP_ID,
        PROMPT_ID,
        Column("policy", pa.string(), "models.model_id of the policy that was sampled", required=True),
        Column("prompt_token_ids", TOKENS, "the prompt as the policy read it, chat template applied", required=True),
        Column("temperature", pa.float32(), "softmax temperature"),
        Column("top_p", pa.float32(), "nucleus mass; 1 is off"),
        Column("top_k", pa.int32(), "largest logits kept; 0 is off"),
        Column("max_tokens", pa.int32(), "longest sample", unit="tokens"),
        Column("stop_ids", TOKENS, "token ids that end a sample"),
        Column("repetition_penalty", pa.float32(), "1 is off"),
        Column("alpha", pa.float32(), "share of the teacher in token-by-token mixing; 0: none"),
        Column("logprobs_mode", pa.string(), "processed (behaviour), rescored, or none"),
        Column("support", pa.string(), "full, or truncated where top_p or top_k cut it"),
        Column("engine", pa.string(), "hf, vllm, api or imported"),
        Column("engine_version", pa.string(), "version of the engine's library"),
    ),
    keys=("group_id",),
)

SAMPLES = Table(
    "samples",
    "student answer",
    (
        GROUP_ID,
        SAMPLE_INDEX,
        Column("token_ids", TOKENS, "ids drawn, the end token included; never re-encoded from text", required=True),
        Column("n_tokens", pa.int32(), "length of token_ids", unit="tokens", required=True),
        Column("text", pa.string(), "decoded without special tokens", required=True),
        Column("behaviour_logprobs", NATS, "log μ: of the distribution each token was drawn from", unit="nats"),
        Column("finish_reason", pa.string(), "stop, length, or null where an import does not know"),
        Column("stop_token", pa.int32(), "the end token drawn; null when cut by length"),
        Column("origin", pa.string(), "student, mixed, teacher or imported", required=True),
        Column("round", pa.int16(), "0 for the initial student's pool"),
        Column("seed", pa.uint64(), "the sample's own seed"),
    ),
    keys=SAMPLE_KEYS,
    tokens=True,
)

SCORES = Table(
    "scores",
    "sample × scorer",
    (
        GROUP_ID,
        SAMPLE_INDEX,
        Column("scorer", pa.string(), "models.model_id of the scorer", required=True),
        Column(
            "logprobs",
            NATS,
            "log p(token | scorer's prompt, prefix), one per entry of samples.token_ids; byte_spans: a run's, even over its bytes",
            unit="nats",
            gaps=True,
        ),
        Column("total", pa.float64(), "the scorer's own sum over the sample, end token included", unit="nats"),
        Column("alignment", pa.string(), "same_tokenizer, or byte_spans where the segmentations differ"),
        Column("n_scorer_tokens", pa.int32(), "the sample's length in the scorer's tokens", unit="tokens"),
        Column("unaligned_share", pa.float32(), "share of tokens whose entry of logprobs is null; null: not measured"),
    ),
    keys=SAMPLE_KEYS,
    tokens=True,
)

ANSWERS = Table(
    "answers",
    "teacher answer",
    (
        PROMPT_ID,
        CANDIDATE,
        Column("text", pa.string(), "the answer, without special tokens; null: refused, or cut by a filter"),
        Column("teacher", pa.string(), "models.model_id of the teacher; null: imported text"),
        Column("token_ids", TOKENS, "the teacher's own ids; null where the engine gives none"),
        Column("logprobs", NATS, "log p of the teacher's ids under the distribution they were drawn from", unit="nats"),
        Column("language", pa.string(), "language the answer was asked for in"),
        Column(
            "derived_from",
            pa.string(),
            "lineage: PROMPT/CANDIDATE of the answer it was made from; null: a teacher's own words",
        ),
        Column("method", pa.string(), "direct, translate, rephrase, best_of_n or imported", required=True),
        Column("translator_id", pa.string(), "models.model_id of the translator; null: not translated"),
        Column(
            "check_score",
            pa.float32(),
            "the check of a rephrased answer, by the recipe's rephrase.check; null: none, or no verdict",
        ),
        Column("tokens_billed", pa.int64(), "tokens paid for", unit="tokens"),
        Column("price", pa.float64(), "what the answer cost", unit="USD"),
        Column("finish_reason", pa.string(), "stop, length, refusal or content_filter; null where nobody says"),
    ),
    keys=("prompt_id", "candidate"),
    tokens=True,
)

ANSWER_TOKENS = Table(
    "answer_tokens",
    "teacher answer × student tokenizer",
    (
        PROMPT_ID,
        CANDIDATE,
        Column("prompt_token_ids", TOKENS, "the prompt in the student's template", required=True),
        Column("token_ids", TOKENS, "the answer in the student's ids, end token included", required=True),
    ),
    keys=("prompt_id", "candidate"),
    tokens=True,
)

_SOFT = (
    Column("sizes", TOKENS, "how many ids each token of the text has, in token order", required=True),
    Column(
        "ids", TOKENS, "token ids of the targets, flat: the first sizes[0] belong to the first token", required=True
    ),
    Column("counts", TOKENS, "draws of each id, flat as ids; null for top_k and student_m"),
    Column("logprobs", NATS, "the scorer's log p of each id at temperature 1, flat as ids", unit="nats", required=True),
    Column("kind", pa.string(), "sampled, top_k (the scorer's), or student_m (the student's own top k)", required=True),
)
SOFT_TARGETS = Table(
    "soft_targets", "sample × scorer × kind", (GROUP_ID, SAMPLE_INDEX, *_SOFT), keys=SAMPLE_KEYS, tokens=True
)
ANSWER_SOFT_TARGETS = Table(
    "answer_soft_targets",
    "teacher answer × student tokenizer × scorer × kind",
    (PROMPT_ID, CANDIDATE, *_SOFT),
    keys=("prompt_id", "candidate"),
    tokens=True,
)

_REWARD = (
    Column("value", pa.float64(), "the component's number; null: not scored, never 0; NaN is refused"),
    Column("valid", pa.bool_(), "whether the sample enters the group's statistics", required=True),
    Column("values", NATS, "one number per token, where the component gives them"),
    Column("detail", pa.string(), "why a value is missing, or what was matched"),
)
REWARDS = Table("rewards", "sample (one slice a component)", (GROUP_ID, SAMPLE_INDEX, *_REWARD), keys=SAMPLE_KEYS)
ANSWER_REWARDS = Table(
    "answer_rewards",
    "teacher answer (one slice a component)",
    (PROMPT_ID, CANDIDATE, *_REWARD),
    keys=("prompt_id", "candidate"),
)

SELECTIONS = Table(
    "selections",
    "prompt × candidate (samples and teacher answers)",
    (
        PROMPT_ID,
        Column("source", pa.string(), "sample or answer", required=True),
        Column("group_id", pa.uint64(), "the sample's group; null for an answer"),
        Column("candidate", pa.uint8(), "sample_index, or the answer's candidate", required=True),
        Column("score", pa.float64(), "the reward expression's value; null: not scored"),
        Column("passed", pa.bool_(), "whether the filter kept it; filters come before ranking", required=True),
        Column("rank", pa.int32(), "1 is best among those that passed; null: did not pass"),
        Column("quantile", pa.float32(), "share of the prompt's passing candidates that score no higher"),
        Column("chosen", pa.bool_(), "frozen best-of-N", required=True),
        Column("prompt_token_ids", TOKENS, "the prompt in the student's template; null unless chosen"),
        Column("token_ids", TOKENS, "the candidate in the student's ids; null unless chosen"),
    ),
    keys=("prompt_id", "source", "candidate"),
    tokens=True,
)

CORPUS = Table(
    "corpus",
    "document",
    (
        key("document_id", pa.uint64(), "hash of the NFC text"),
        Column("text", pa.string(), "NFC", required=True),
        Column("token_ids", TOKENS, "in the student's ids, end token included", required=True),
        Column("bytes", pa.int32(), "length in UTF-8", unit="bytes", required=True),
        Column("language", pa.string(), "ISO 639"),
        Column("source", pa.string(), "where the document comes from"),
        Column("licence", pa.string(), "licence of the text"),
        Column("split", pa.string(), "train or held_out", required=True),
    ),
    keys=("document_id",),
    tokens=True,
)

EVALUATIONS = Table(
    "evaluations",
    "policy × benchmark × item",
    (
        Column("policy", pa.string(), "student, teacher, or the run's name", required=True),
        Column("model_id", pa.string(), "models.model_id of the policy", required=True),
        Column("benchmark", pa.string(), "name of the benchmark", required=True),
        Column(
            "item", pa.string(), "prompt_id or document_id as 16 hex digits, or the benchmark's own id", required=True
        ),
        Column("prediction", pa.string(), "what the policy said; null for likelihood benchmarks"),
        Column("gold", TEXTS, "accepted answers"),
        Column("metrics", pa.map_(pa.string(), pa.float64()), "name → value, for this item", required=True),
        Column("iteration", pa.int16(), "which of several measurements of the item; null: it was measured once"),
    ),
    keys=("policy", "benchmark", "item", "iteration"),
)

INTERVALS = Table(
    "intervals",
    "policy × benchmark × metric, and pair of policies × benchmark × metric",
    (
        Column("policy", pa.string(), "the policy measured", required=True),
        Column("benchmark", pa.string(), "name of the benchmark", required=True),
        Column("metric", pa.string(), "as the leaderboard names it", required=True),
        Column("against", pa.string(), "null: the policy's own figure; else it minus this policy's, over common items"),
        Column("value", pa.float64(), "the figure or the difference; null: the set has none"),
        Column(
            "n",
            pa.int64(),
            "items that have a value, of both where two are compared; drawn with all their rows",
            required=True,
        ),
        Column("low", pa.float64(), "lower end of the 95 % interval; null: under two items, or nothing varies"),
        Column("high", pa.float64(), "upper end of the 95 % interval; null: under two items, or nothing varies"),
        Column("p", pa.float64(), "two-sided: twice the share of draws on the other side of 0; null for a figure"),
    ),
    keys=("policy", "metric", "against"),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        PROMPTS, MODELS, GROUPS, SAMPLES, SCORES, ANSWERS, ANSWER_TOKENS, SOFT_TARGETS, ANSWER_SOFT_TARGETS, REWARDS,
        ANSWER_REWARDS, SELECTIONS, CORPUS, EVALUATIONS, INTERVALS, RUNS, METRICS, COSTS, LEDGER, PAIRS, RATINGS,
    )
}  # fmt: skip
