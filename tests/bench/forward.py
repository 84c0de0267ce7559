"""Tokens forwarded and wall of a shared prefix against plain rows (transformers with `logits_to_keep`), forward and backward."""

from __future__ import annotations

import tempfile

import torch
from figures import Figure, interleaved

PROMPT, COMPLETION, SAMPLES, VOCABULARY, LAYERS, HIDDEN = 512, 16, 16, 32_000, 4, 256


def measure() -> list[Figure]:
    """The two figures of prompt 512, completion 16, G = 16."""
    from trainer.forward import GroupTokens, group_logprobs, tokens_forwarded

    policy = _policy()
    source = torch.Generator().manual_seed(0)
    draw = lambda n: torch.randint(4, VOCABULARY, (n,), generator=source).tolist()  # noqa: E731
    group = GroupTokens(draw(PROMPT), [draw(COMPLETION) for _ in range(SAMPLES)])
    rows = torch.tensor([list(group.prompt) + list(c) for c in group.completions])
    losses: dict[str, float] = {}

    def shared() -> None:
        policy.model.zero_grad()
        loss = -group_logprobs(policy, [group]).sum()
        loss.backward()
        losses["shared"] = loss.item()

    def plain() -> None:
        policy.model.zero_grad()
        logits = policy.model(rows, attention_mask=torch.ones_like(rows), logits_to_keep=COMPLETION + 1).logits[:, :-1]
        chosen = logits.float().log_softmax(-1).gather(2, rows[:, PROMPT:, None])
        loss = -chosen.sum()
        loss.backward()
        losses["plain"] = loss.item()

    times = interleaved({"shared": shared, "plain": plain})
    if abs(losses["shared"] - losses["plain"]) > 1e-4 * abs(losses["plain"]):
        raise RuntimeError(f"the two layouts disagree: {losses}")
    tokens = tokens_forwarded([group], policy.layout) / tokens_forwarded([group], "plain")
    shape = f"prompt {PROMPT}, completion {COMPLETION}, G = {SAMPLES}"
    cpu = times["shared"][1] / times["plain"][1]
    beside = f"{times['shared'][0]:.2f} s against {times['plain'][0]:.2f} s; CPU seconds {cpu:.3f}"
    return [
        Figure(f"tokens forwarded, {policy.layout} ÷ plain ({shape})", tokens, 1 / 8, "×"),
        Figure(
            f"wall of forward and backward, {policy.layout} ÷ plain ({LAYERS} layers, vocabulary 32k)",
            times["shared"][0] / times["plain"][0],
            1 / 6,
            "×",
            beside=beside,
        ),
    ]


def _policy():
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    from trainer.forward import load

    with tempfile.TemporaryDirectory() as folder:
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=4 * HIDDEN, num_hidden_layers=LAYERS,
            num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=1024,
        ).save_pretrained(folder)  # fmt: skip
        words = models.WordLevel({"<unk>": 0, "<end>": 1, "orð": 2}, unk_token="<unk>")
        PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(words), eos_token="<end>", unk_token="<unk>"
        ).save_pretrained(folder)
        return load(folder, initial="random")
