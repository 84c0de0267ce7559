"""What a reward model (transformers, sequence classification) says of prompt and sample; of several, the average.

Range: the head's logit, any number; compare within a prompt, where its offset falls out. Cost: one forward pass a sample and model
(one for all where weights are averaged), the models in memory. Cannot see: what its training data did not reward; it likes length
and flattery, and a policy finds its holes. Averages are harder to fool: `weights` is WARM (arXiv 2401.12187, §3: the mean of the
weights of models of one architecture, fine-tuned from one start, which nothing here can check), `scores` the ordinary ensemble. The
chat goes through the model's own template, thinking included; one longer than the model's context is missing, not cut."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data.refusal import Refusal
from factory.rewards import Batch, Reward
from factory.rewards._files import ModelPath, model_id

VERSION = 1
NEEDS = frozenset({"prompts"})
RANGE = (float("-inf"), float("inf"))
Chat = list[dict[str, str]]


@dataclass(frozen=True)
class Settings:
    """The models, and how they are asked."""

    models: tuple[ModelPath, ...] = ()
    """Needed: folders or hub ids of sequence-classification models."""
    average: Literal["weights", "scores"] = "weights"
    """What is averaged where there are several: their weights (WARM), or what each of them says."""
    label: int | None = None
    """Which logit counts, of a head with more than one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """dtype of weights and activations."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    batch_tokens: int = 16384
    """Token positions in one forward pass, padding included."""

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("reward_model needs `models`, folders or hub ids")
        for path in self.models:
            if not Path(path).is_dir() and (path.startswith((".", "/", "~")) or path.count("/") != 1):
                raise ValueError(f"there is no model folder {path}")


def score(batch: Batch, settings: Settings) -> list[Reward]:
    """One reward a sample; missing where the chat is longer than a model's context."""
    chats = [
        [*prompt, {"role": "assistant", "content": text}]
        for prompt, text in zip(batch.prompts, batch.texts, strict=True)
    ]
    ids = tuple(model_id(path) for path in settings.models)  # a folder may be written anew
    judges = _judges(settings.models, ids, settings.average == "weights", settings.dtype, settings.device)
    said = [judge.logits(chats, settings.label, settings.batch_tokens) for judge in judges]
    return [_mean(values) for values in zip(*said, strict=True)]


def _mean(values: tuple[float | None, ...]) -> Reward:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Reward.missing("longer than the reward model's context")
    return Reward(sum(known) / len(known))


class Judge:
    """One loaded model with its tokenizer."""

    def __init__(self, path: str, model: Any, tokenizer: Any):
        self.path, self.model, self.tokenizer = path, model, tokenizer
        self.config = model.config.get_text_config()
        positions = getattr(self.config, "max_position_embeddings", None)
        self.limit = min(filter(None, (positions, tokenizer.model_max_length)))

    def logits(self, chats: list[Chat], label: int | None, batch_tokens: int) -> list[float | None]:
        """The logit of each chat; None for one that is too long."""
        heads = self.model.config.num_labels
        if heads > 1 if label is None else not 0 <= label < heads:
            raise Refusal(f"{self.path} has {heads} logits, label is {label}", f"label: 0 … {heads - 1} in the recipe")
        ids = [self.ids(chat) for chat in chats]
        found: list[float | None] = [None] * len(ids)
        for group in batches([i for i in range(len(ids)) if len(ids[i]) <= self.limit], ids, batch_tokens):
            for i, logits in zip(group, self._forward([ids[i] for i in group]), strict=True):
                found[i] = logits[label or 0]
        return found

    def ids(self, chat: Chat) -> list[int]:
        """The chat's token ids by the model's own template. Raises Refusal where it has none, or not for such a chat."""
        import jinja2

        try:
            return list(self.tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False))
        except (ValueError, jinja2.TemplateError) as error:
            raise Refusal(
                f"reward model {self.path} cannot read a chat: {str(error).splitlines()[0][:200]}",
                "give a model whose tokenizer has a chat template for these roles",
            ) from error

    def _forward(self, rows: list[list[int]]) -> list[list[float]]:
        import torch

        used, longest = {token for row in rows for token in row}, max(map(len, rows))
        own = self.tokenizer.pad_token_id
        # Decoders find the last token by the padding's id: one that a text holds (often the end token) would move it.
        padding = own if own is not None and own not in used else next(i for i in range(len(used) + 1) if i not in used)
        self.config.pad_token_id = padding
        ids = torch.tensor([row + [padding] * (longest - len(row)) for row in rows], device=self.model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.model.device)
        with torch.inference_mode():
            logits: list[list[float]] = self.model(input_ids=ids, attention_mask=mask).logits.float().tolist()
        return logits


def batches(chosen: list[int], ids: list[list[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of rows, by length, so many that longest × rows stays within `batch_tokens`; at least one.

    >>> list(batches([0, 1, 2], [[7] * 4, [7], [7] * 2], 4))
    [[1, 2], [0]]
    """
    group: list[int] = []
    for i in sorted(chosen, key=lambda i: len(ids[i])):
        if group and len(ids[i]) * (len(group) + 1) > batch_tokens:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


@functools.lru_cache(maxsize=2)
def _judges(paths: tuple[str, ...], _ids: tuple[str, ...], weights: bool, dtype: str, device: str) -> list[Judge]:
    import torch

    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if not weights:
        return [Judge(path, load(path, dtype).to(place), tokenizer(path)) for path in paths]
    return [Judge(" + ".join(paths), averaged(paths, dtype).to(place), tokenizer(paths[0]))]


def averaged(paths: tuple[str, ...], dtype: str) -> Any:
    """The first model with the mean of all models' weights, taken in float32. Refuses other architectures or tokenizers."""
    from data.config import ModelSettings
    from data.fingerprint import chat_template, tokenizer_fingerprint

    first = load(paths[0], dtype)
    texts = [(tokenizer_fingerprint(_folder(p)), chat_template(ModelSettings(path=p), _folder(p))) for p in paths]
    total = {name: tensor.float() for name, tensor in first.state_dict().items() if tensor.is_floating_point()}
    for path, text in zip(paths[1:], texts[1:], strict=True):
        other = {name: t for name, t in load(path, dtype).state_dict().items() if t.is_floating_point()}
        same = other.keys() == total.keys() and all(t.shape == total[name].shape for name, t in other.items())
        if not same or text != texts[0]:
            what = "another tokenizer or chat template" if same else "other weights"
            raise Refusal(f"{path} has {what} than {paths[0]}: no average of the two is a model", "average: scores")
        for name, tensor in other.items():
            total[name] += tensor.float()
    first.load_state_dict({name: (tensor / len(paths)).to(first.dtype) for name, tensor in total.items()}, strict=False)
    return first


def load(path: str, dtype: str) -> Any:
    """A model in evaluation mode. Refuses a folder without the head's weights: those would be drawn at random."""
    import torch
    from transformers import AutoModelForSequenceClassification

    try:
        model, told = AutoModelForSequenceClassification.from_pretrained(
            _folder(path), dtype=getattr(torch, dtype), output_loading_info=True
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise Refusal(f"{path} is no sequence-classification model: {reason}", "correct `models`") from error
    if told["missing_keys"]:
        raise Refusal(
            f"{path} lacks {', '.join(sorted(told['missing_keys'])[:3])}: its reward would be random",
            "give a model that was trained with its reward head",
        )
    return model.eval()


def tokenizer(path: str) -> Any:
    """The tokenizer beside a model's weights."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(_folder(path))


def _folder(path: str) -> Path:
    from data.config import ModelSettings
    from data.fingerprint import model_folder

    return model_folder(ModelSettings(path=path), "runs")
