"""tokenizer.json with new tokens behind the old ones. Pure: reads and writes no file.

Old ids, merges, special tokens, normalisation and decoding stay as they are. Refuses models other than BPE and Unigram, and
vocabularies whose ids have holes."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from data.refusal import Refusal

if TYPE_CHECKING:
    from trainer.extension.pieces import Learned

KINDS = ("BPE", "Unigram")
MERGE_GAIN = (
    1e-4  # nats a merge of a Unigram piece is better than its parts: it wins wherever they won, and nowhere else
)


def first_new_id(spec: dict[str, Any]) -> int:
    """The id behind every old one, added tokens included. Refuses tokenizers that cannot be extended."""
    model = spec["model"]
    if model.get("type") not in KINDS or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise Refusal(
            f"the tokenizer is {model.get('type')}, with marks inside words or of a kind that has no merges",
            "give a student whose tokenizer.json is BPE or Unigram (Mistral, Llama, GPT-2, Bloom, Gemma, Qwen)",
        )
    ids = set(_ids(spec).values())
    if ids != set(range(len(ids))):
        raise Refusal(
            f"the tokenizer's {len(ids)} tokens reach up to id {max(ids)}: ids in between belong to nobody",
            "give a student whose tokenizer.json numbers its tokens without holes",
        )
    return len(ids)


def _ids(spec: dict[str, Any]) -> dict[str, int]:
    vocabulary = spec["model"]["vocab"]
    own = vocabulary if isinstance(vocabulary, dict) else {piece: i for i, (piece, _) in enumerate(vocabulary)}
    return own | {token["content"]: token["id"] for token in spec.get("added_tokens", [])}


def grown(spec: dict[str, Any], learned: Learned) -> dict[str, Any]:
    """The tokenizer with `learned` behind it; the input is left as it is.

    Added tokens beyond the model's own vocabulary are named in it too: `tokenizers` numbers them anew from its size otherwise."""
    first, made = first_new_id(spec), copy.deepcopy(spec)
    model, added = made["model"], {token["id"]: token["content"] for token in made.get("added_tokens", [])}
    if model["type"] == "Unigram":
        _grow_unigram(model["vocab"], learned, added, first)
        return made
    model["vocab"] |= {content: id_ for id_, content in added.items()}
    model["vocab"] |= {token: first + i for i, token in enumerate(learned.parts)}
    as_text = bool(model["merges"]) and isinstance(model["merges"][0], str)
    model["merges"] += [" ".join(pair) if as_text else list(pair) for pair in learned.merges]
    return made


def _grow_unigram(vocabulary: list[Any], learned: Learned, added: dict[int, str], first: int) -> None:
    """Pieces scored as their parts together, and a little better; characters that were unknown as the rarest piece."""
    rarest = min(score for _, score in vocabulary)
    scores = dict(vocabulary)
    vocabulary += [[added[id_], rarest] for id_ in range(len(vocabulary), first)]
    scores |= dict.fromkeys(learned.characters, rarest)
    for left, right in learned.merges:
        scores.setdefault(left + right, scores[left] + scores[right] + MERGE_GAIN)
    vocabulary += [[token, scores[token]] for token in learned.parts]


def tokens_per_byte(tokenizer: Any, texts: list[str]) -> float:
    """Tokens of the texts over their UTF-8 bytes, special tokens left out."""
    count = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    return count / sum(len(text.encode()) for text in texts)


def dumped(spec: dict[str, Any]) -> str:
    """The text of tokenizer.json."""
    return json.dumps(spec, ensure_ascii=False, indent=2) + "\n"
