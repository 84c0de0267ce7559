"""New pieces for a tokenizer, learned by going on where its own training stopped.

The corpus is cut into words as the tokenizer cuts it, each word into the tokenizer's own tokens, and byte-pair merging (Sennrich et
al. 2016, arXiv 1508.07909) goes on from there: the most frequent neighbours become a piece, again and again. So every piece can be
reached behind the old merges, and is made of known tokens (continued BPE training, arXiv 2512.03989). Reads and writes no file.
Refuses a corpus that gives no piece."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data.refusal import Refusal

FIRST = 0x10000  # an old token is written as one character from here on: no space and no surrogate lies behind it
LINE = 4096  # repeated words a line that the trainer is given
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# SentencePiece trains within scripts, digits apart (its own default); a tokenizer that kept no such rule is cut by it here
CLASSES = re.compile(r"▁*(?:[^\W\d_]+|\d|[^\w▁]+|_+)|▁+")


@dataclass(frozen=True)
class Learned:
    """What stands behind the old vocabulary, in the order of the new ids."""

    characters: dict[str, list[int]]
    """Characters that were bytes or unknown → the ids they were."""
    merges: list[tuple[str, str]]
    """Neighbours that become one, in order; some become a token that was there already."""
    parts: dict[str, list[int]]
    """Every new token, characters first → the old ids that it stands for."""


def learn(spec: dict[str, Any], texts: Iterable[str], tokens: int, min_count: int) -> Learned:
    """At most `tokens` new tokens from `texts`, each seen `min_count` times. spec: the content of tokenizer.json."""
    from tokenizers import Tokenizer

    from trainer.extension.vocabulary import grown

    core = Tokenizer.from_str(json.dumps(spec))
    words = _words(core, spec, texts)
    characters = _characters(core, words, tokens, min_count)
    wider = Tokenizer.from_str(json.dumps(grown(spec, Learned(characters, [], characters))))
    pairs = _merged(wider, spec, words, tokens, min_count)
    learned = _numbered(wider, _known_merges(spec), characters, pairs, tokens)
    if not learned.parts:
        raise Refusal(
            f"{sum(words.values()):,} words give no piece that is seen {min_count} times",
            "more documents, or a smaller min_count=",
        )
    return learned


def _words(core: Any, spec: dict[str, Any], texts: Iterable[str]) -> Counter[str]:
    """The corpus as the model sees it: normalised, cut before spaces."""
    found: Counter[str] = Counter()
    by_bytes = '"ByteLevel"' in json.dumps([spec.get("pre_tokenizer"), spec.get("normalizer")])
    for text in texts:
        text = core.normalizer.normalize_str(text) if core.normalizer else text
        cut = [part for part, _ in core.pre_tokenizer.pre_tokenize_str(text)] if core.pre_tokenizer else [text]
        for part in cut:
            found.update([part] if by_bytes else CLASSES.findall(part))
    return found


def _characters(core: Any, words: Counter[str], tokens: int, min_count: int) -> dict[str, list[int]]:
    """Frequent characters that have no token of their own, with the bytes (or the unknown token) that they were."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    missing = [c for c, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n >= min_count]
    found = {c: [token.id for token in core.model.tokenize(c)] for c in missing if core.token_to_id(c) is None}
    return {c: ids for c, ids in list(found.items())[:tokens] if ids}


def _merged(core: Any, spec: dict[str, Any], words: Counter[str], tokens: int, min_count: int) -> list[Any]:
    """Pairs of strings in which every character is an old token, in the order in which they were merged."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    apart = _apart(core, spec)
    written = {word: _written(core, word, apart) for word in words}
    alphabet = {character for text in written.values() for character in text} - {" "}
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # more than asked for: some pairs make a token that is there already, and take no new id
    size = len(alphabet) + tokens + tokens // 4 + 256
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=min_count, show_progress=False)
    inner.train_from_iterator(_repeated(words, written), trainer)
    return list(json.loads(inner.to_str())["model"]["merges"])


def _apart(core: Any, spec: dict[str, Any]) -> set[int]:
    """Tokens that join no piece: bytes, whose decoder knows them alone, the unknown one, and added ones."""
    fallback = spec["model"].get("byte_fallback")
    bytes_ = {id_ for token, id_ in core.get_vocab().items() if fallback and BYTE.fullmatch(token)}
    unknown = spec["model"].get("unk_token"), spec["model"].get("unk_id")
    special = {id_ for u in unknown if (id_ := core.token_to_id(u) if isinstance(u, str) else u) is not None}
    return bytes_ | special | {token["id"] for token in spec.get("added_tokens", [])}


def _written(core: Any, word: str, apart: set[int]) -> str:
    """The word in old tokens, one character each; a space where a token joins nothing."""
    ids = (token.id for token in core.model.tokenize(word))
    return "".join(" " if id_ in apart else chr(FIRST + id_) for id_ in ids)


def _repeated(words: Counter[str], written: dict[str, str]) -> Iterator[str]:
    for word, count in words.items():
        if len(written[word]) > 1:
            for begin in range(0, count, LINE):
                yield (written[word] + " ") * min(LINE, count - begin)


def _known_merges(spec: dict[str, Any]) -> set[tuple[str, str]]:
    """Pairs that the tokenizer merges already: named again behind the others they would lose their rank."""
    merges = spec["model"].get("merges") or []
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in merges)
    return {(first, second) for first, second in pairs}


def _numbered(
    core: Any, known: set[tuple[str, str]], characters: dict[str, list[int]], pairs: Sequence[Any], tokens: int
) -> Learned:
    """The pairs as texts of tokens, cut where enough new ones are found."""
    parts, merges = dict(characters), list[tuple[str, str]]()
    base = {core.token_to_id(character): ids for character, ids in characters.items()}
    for left, right in pairs:
        if len(parts) == tokens:
            break
        pair = _text(core, left), _text(core, right)
        if pair in known:
            continue
        known.add(pair)
        merges.append(pair)
        if core.token_to_id("".join(pair)) is None:
            ids = (ord(character) - FIRST for character in left + right)
            parts.setdefault("".join(pair), [old for id_ in ids for old in base.get(id_, [id_])])
    return Learned(characters, merges, parts)


def _text(core: Any, characters: str) -> str:
    return "".join(core.id_to_token(ord(character) - FIRST) for character in characters)
