"""The shapes that are compared with TRL, the model they run on, and how much faster a shared prompt can be at all.

Reads nothing. Imports transformers only where a model is made. The model has the shape of SmolLM2-135M, with random weights."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from trainer.forward import Policy

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCABULARY, LAYERS = 576, 1536, 9, 3, 49_152, 30
HEAD_WEIGHTS = HIDDEN * VOCABULARY
LAYER_WEIGHTS = HIDDEN * (2 * HIDDEN + 2 * HIDDEN * KV_HEADS // HEADS) + 3 * HIDDEN * INTERMEDIATE
# torch.randint(1, 129, (8,)) under seed 1: the longest is 128
RAGGED = (38, 108, 13, 73, 128, 10, 76, 6)


@dataclass(frozen=True)
class Shape:
    """One group: a prompt and its samples' lengths in tokens. `speed`: how many times faster than the best rival was asked for."""

    prompt: int
    lengths: tuple[int, ...]
    speed: float
    budget: int = 4096
    """`micro_batch_tokens` of our step; 4096 is the trainer's default."""

    @property
    def samples(self) -> int:
        """G."""
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest sample, to which the rivals pad."""
        return max(self.lengths)

    def limit(self, layers: int) -> float:
        """Multiplications of padded rows with their own prompts ÷ those of one shared prompt without padding, attention left out.

        A sample's last token predicts nothing and need not be forwarded. Forward and backward scale alike.

        >>> round(SHAPES["512/16"].limit(30), 1), round(SHAPES["128/128"].limit(30), 2)
        (10.4, 1.64)
        """
        rows = self.samples * ((self.prompt + self.longest) * layers * LAYER_WEIGHTS + self.longest * HEAD_WEIGHTS)
        tokens = sum(self.lengths)
        shared = (self.prompt + tokens - self.samples) * layers * LAYER_WEIGHTS + tokens * HEAD_WEIGHTS
        return rows / shared


SHAPES = {
    "512/16": Shape(512, (16,) * 16, 9.5),
    "224/20": Shape(224, (20,) * 16, 6.5),
    "128/128": Shape(128, (128,) * 8, 1.6),
    # two passes of four samples: the prompt is read twice, and half of the activations are held
    "128/512": Shape(128, (512,) * 8, 1.1, budget=2200),
    "128/ragged": Shape(128, RAGGED, 3.0),
}


def describe(name: str) -> str:
    """A shape in words, for the table."""
    shape = SHAPES[name]
    lengths = f"{shape.longest}" if len(set(shape.lengths)) == 1 else f"{min(shape.lengths)}…{shape.longest}"
    return f"prompt {shape.prompt}, completions {lengths}, G = {shape.samples}"


def twice(layers: int) -> int:
    """Layers of a model with twice the weights of one with so many layers."""
    return round((2 * (layers * LAYER_WEIGHTS + HEAD_WEIGHTS) - HEAD_WEIGHTS) / LAYER_WEIGHTS)


def config(layers: int, vocabulary: int = VOCABULARY, hidden: int = HIDDEN) -> PretrainedConfig:
    """SmolLM2's shape; another hidden size keeps the proportions."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=hidden * INTERMEDIATE // HIDDEN,
        num_hidden_layers=layers, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=hidden // HEADS,
        max_position_embeddings=8192, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip


def policy(layers: int, device: str = "cpu", dtype: str = "float32", **shape: int) -> Policy:
    """A random model of this shape in the layout that `auto` finds, with a tokenizer whose words are `t0 t1 …`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from trainer.forward import load

    with tempfile.TemporaryDirectory() as folder:
        described = config(layers, **shape)
        described.save_pretrained(folder)
        size = described.vocab_size
        names = ["<begin>", "<end>", "<pad>", *(f"t{i}" for i in range(3, size))]
        words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<pad>"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        PreTrainedTokenizerFast(
            tokenizer_object=words, eos_token="<end>", pad_token="<pad>", unk_token="<pad>"
        ).save_pretrained(folder)
        return load(folder, initial="random", device=device, dtype=dtype)
