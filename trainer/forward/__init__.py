"""The forward path: the one way in which this project runs a language model.

Reads a model folder (or hub id) and token ids; gives log-probabilities with gradient, and samples. It knows no tables, no
configuration and no files but the model's own, so that sampling, scoring, rescoring, the probe and training are one code path.
Refuses, with a `ValueError` that names both sides, what would give a wrong number without an error.

Axis suffixes of tensors: b sample in batch, t token, v vocabulary, g group, d hidden, n flat tokens (group, sample, token order).
All log-probabilities are in nats, float32. Behaviour is the distribution that a token was really drawn from.

    model       load and save a policy, its head, its end tokens, its context length
    attention   rows, masks, positions and the shared prefix
    rows        groups as one packed row of token ids
    interface   the attention function that transformers calls
    split       attention of a packed row in flash calls, on the CPU
    flex        attention of a packed row by FlexAttention, on CUDA
    pack        groups to hidden states: each prompt once where the layout allows it
    head        hidden states to log π, a chunk of the vocabulary-wide rows at a time
    kernel      hidden states to Σ weight · log π and its gradients, in one pass
    logprobs    groups to log π, and the check of the layout
    generate    samples with their behaviour log-probabilities, of the policy alone or with a teacher mixed in
    distribution  a few ids of the whole distribution at each token: drawn, most probable, or given
"""

from __future__ import annotations

from trainer.forward.distribution import Support, drawn_support, support_at, top_support
from trainer.forward.generate import Generated, Mix, Sampling, generate
from trainer.forward.head import Head, support_logprobs, token_logprobs
from trainer.forward.kernel import kernel_head
from trainer.forward.logprobs import check_layout, flat_n, group_logprobs, pad_bt
from trainer.forward.model import Policy, checkpoint_activations, context_length, end_token_ids, head_of, load, save
from trainer.forward.pack import GroupTokens, hidden_states, plan, tokens_forwarded

__all__ = [
    "Generated",
    "GroupTokens",
    "Head",
    "Mix",
    "Policy",
    "Sampling",
    "Support",
    "check_layout",
    "checkpoint_activations",
    "context_length",
    "drawn_support",
    "end_token_ids",
    "flat_n",
    "generate",
    "group_logprobs",
    "head_of",
    "hidden_states",
    "kernel_head",
    "load",
    "pad_bt",
    "plan",
    "save",
    "support_at",
    "support_logprobs",
    "token_logprobs",
    "tokens_forwarded",
    "top_support",
]
