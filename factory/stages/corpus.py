"""Documents in the student's tokens, without duplicates and without what is evaluated.

Reads files or hub data sets, and held-out `prompts`. Writes one slice of `corpus` a source. Train documents that share a
13-gram with a held-out prompt, its references or a held-out document are dropped and counted; so are exact duplicates and empty
documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data.contract import CORPUS
from data.keys import digest, id64, nfc
from data.lake import Key, Shard
from data.manifest import Slice
from data.pool import find_prompts, prompts_settings
from data.refusal import Refusal
from factory.config import CorpusSource
from factory.context import Context, Work
from factory.sources import Rows, mapped
from factory.stages.prompts import split_of

GRAM = 13  # words; Brown et al. 2020 (arXiv 2005.14165, appendix C) use 8 to 13 by data set
SHORTEST = 8  # a held-out text below GRAM words counts as one gram of its own length, down to this one
KNOWN = ("text", "language", "source", "licence", "split")
WORD = re.compile(r"\w+")

Gram = tuple[str, ...]


def run(context: Context) -> list[Slice]:
    """Publish every corpus of the recipe."""
    if not context.settings.corpus:
        return []
    held_out = grams(_held_out_texts(context))
    return [_publish(context, name, source, held_out) for name, source in context.settings.corpus.items()]


def _held_out_texts(context: Context) -> Iterator[str]:
    prompts = context.lake.read(find_prompts(context.lake, context.recipe), ["split", "messages", "references"])
    for row in prompts.filter(pc.equal(prompts.column("split"), "held_out")).to_pylist():
        yield from (message["content"] for message in row["messages"])
        yield from row["references"] or []


def _publish(context: Context, name: str, source: CorpusSource, held_out: set[Gram]) -> Slice:
    student = context.row("student")
    documents, notes = read_documents(name, source, held_out)
    size = context.settings.shard_groups
    shards = [documents[i : i + size] for i in range(0, len(documents), size)]
    contents = tuple(digest(shard) for shard in shards)
    settings = {"source": asdict(source), "clear_of": prompts_settings(context.recipe)["source"]}
    key = Key(settings, (), {"tokenizer": student["tokenizer"]}, contents)

    def compute(shard: Shard, work: Work) -> pa.Table:
        tokens, rows = context.tokens("student"), []
        for document in shards[shard.index]:
            ids = [*tokens.document(document["text"])[0], *tokens.end[:1]]
            rows.append({**document, "token_ids": ids, "bytes": len(document["text"].encode())})
            work.done(1, 0, len(ids))
        return pa.Table.from_pylist(rows, schema=CORPUS.schema)

    made = context.make("corpus", "corpus", key, name, compute, total=len(documents), unit="documents", notes=notes)
    if context.lake.slices("corpus", label=name)[-1] != made:
        made = context.lake.renew(made)
    context.remark(
        made,
        f"left out {notes['duplicates']:,} duplicates, {notes['contaminated']:,} documents sharing {GRAM} words with held-out"
        f" text, {notes['empty']:,} empty ones",
    )
    return made


def read_documents(name: str, source: CorpusSource, held_out: set[Gram]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows of `corpus` without token ids, and how many were dropped, by reason."""
    what = f"corpus.{name}"
    raw = Rows(source, what, source.limit)
    columns = mapped(raw.names, source.columns, KNOWN, what)
    if "text" not in columns:
        raise Refusal(
            f"{what}: no column holds the text; there are: {', '.join(raw.names)}",
            f"{what}.columns={{text: {raw.names[0]}}}",
        )
    found: dict[int, dict[str, Any]] = {}
    notes = {"duplicates": 0, "contaminated": 0, "empty": 0}
    for number, row in enumerate(raw, 1):
        document = _document(row, columns, source, f"{what}: {source.path} row {number}")
        if not document["text"].strip():
            notes["empty"] += 1
        elif document["document_id"] in found:
            notes["duplicates"] += 1
        else:
            found[document["document_id"]] = document
    against = held_out | grams(d["text"] for d in found.values() if d["split"] == "held_out")
    kept = [d for d in found.values() if d["split"] == "held_out" or not overlaps(d["text"], against)]
    notes["contaminated"] = len(found) - len(kept)
    if not kept:
        raise Refusal(f"{what}: no document of {source.path} is left ({notes})", f"{what}.path=FILE")
    return kept, notes


def _document(row: Mapping[str, Any], columns: Mapping[str, str], source: CorpusSource, where: str) -> dict[str, Any]:
    text = row.get(columns["text"])
    if not isinstance(text, str):
        raise Refusal(
            f"{where}: the text is {type(text).__name__}", "correct that row, or map `text` to another column"
        )
    text = nfc(text)
    id_ = id64("document", text)
    plain = {n: row.get(columns[n]) for n in ("language", "source", "licence") if n in columns}
    given = {n: None if v is None else str(v) for n, v in plain.items()}
    return {
        "document_id": id_,
        "text": text,
        "language": given.get("language") or source.language,
        "source": given.get("source") or source.path,
        "licence": given.get("licence") or source.licence,
        "split": split_of(row.get(columns.get("split", "")), source.held_out, id_, where),
    }


def words(text: str) -> Gram:
    """Words as they are compared: NFC, case-folded, without punctuation."""
    return tuple(WORD.findall(nfc(text).casefold()))


def grams(texts: Iterable[str]) -> set[Gram]:
    """Every run of 13 words of each text; a text of 8 to 12 words is one run.

    >>> len(grams(["a b c d e f g h i j k l m n", "a b c"]))
    2
    """
    found: set[Gram] = set()
    for text in texts:
        sequence = words(text)
        length = min(GRAM, len(sequence))
        if length >= SHORTEST:
            found |= {sequence[i : i + length] for i in range(len(sequence) - length + 1)}
    return found


def overlaps(text: str, against: set[Gram]) -> bool:
    """Whether a text holds any of the runs of words."""
    sequence = words(text)
    lengths = {len(gram) for gram in against}
    return any(sequence[i : i + n] in against for n in lengths for i in range(len(sequence) - n + 1))
