"""Documents in the student's tokens, without duplicates and without what is evaluated.

Reads files or hub data sets, the recipe's benchmarks and held-out `prompts`. Writes one slice of `corpus` a source. Train documents
that share 13 words with a benchmark, a held-out prompt, its references, a held-out document of any of the recipe's corpora or a
file of `clear_of` are dropped and counted by where it stands; so are empty documents and those that an earlier one, of whichever
corpus, repeats exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data.contract import CORPUS
from data.keys import digest, id64, nfc
from data.lake import Key, Shard
from data.manifest import Slice
from data.pool import RECIPES_OWN, corpus_source, find_prompts, prompts_settings
from data.refusal import Refusal
from factory.benchmarks import benchmarks
from factory.config import CorpusSource
from factory.contamination import GRAM, SHORTEST, Forbidden
from factory.context import Context, Work
from factory.sources import Rows, mapped
from factory.stages.prompts import split_of

KNOWN = ("text", "language", "source", "licence", "split")
LINES = (".txt", ".tsv")  # files of `clear_of` that are read line by line, in fields between tabs


def run(context: Context) -> list[Slice]:
    """Publish every corpus of the recipe."""
    sources = context.settings.corpus
    if not sources:
        return []
    forbidden, against = kept_out(context)
    seen: dict[int, str] = {}
    read = {name: read_documents(name, source, seen) for name, source in sources.items()}
    held_out = (d["text"] for documents, _ in read.values() for d in documents if d["split"] == "held_out")
    forbidden.add("held-out documents", held_out)
    made = []
    for name, source in sources.items():
        documents, notes = read.pop(name)
        own = own_files(name, source)
        kept = cleared(documents, [forbidden, own], notes)
        if not kept:
            raise Refusal(f"corpus.{name}: no document of {source.path} is left ({notes})", f"corpus.{name}.path=FILE")
        texts = {path: {"path": path, "texts": told} for path, told in own.digests.items()}
        made.append(_publish(context, name, source, kept, notes, against | texts))
    return made


def kept_out(context: Context) -> tuple[Forbidden, dict[str, dict[str, Any]]]:
    """What all corpora are kept clear of; and, for the key, path and digest of the benchmarks with texts of their own."""
    forbidden, against = Forbidden(), dict[str, dict[str, Any]]()
    forbidden.add("held-out prompts", _held_out_texts(context))
    for item in benchmarks(context.recipe):
        texts = item.texts()
        source = f"benchmark {item.name}"
        if texts is not None:
            forbidden.add(source, texts)
        if item.kind not in RECIPES_OWN:
            path = getattr(item.settings, "path", None)
            against[item.name] = {"path": path, "texts": forbidden.digests.get(source)}
    return forbidden, against


def own_files(name: str, source: CorpusSource) -> Forbidden:
    """The texts of the files that one corpus names in `clear_of`."""
    own = Forbidden()
    for path in source.clear_of:
        own.add(path, texts_of_file(path, f"corpus.{name}.clear_of"))
    return own


def texts_of_file(path: str, what: str) -> Iterator[str]:
    """Every text of a file: the lines' fields of .txt and .tsv, all strings in the rows of other sources."""
    if Path(path).suffix not in LINES:
        for row in Rows(CorpusSource(path=path), what):
            yield from strings(row)
        return
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{what}: {path} is no text file: {error}", f"{what}=[FILE]") from error
    for line in content.splitlines():
        yield from line.split("\t")


def strings(value: Any) -> Iterator[str]:
    """The texts in a row, at whatever depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for inner in value.values() for text in strings(inner))
    elif isinstance(value, list | tuple):
        yield from (text for inner in value for text in strings(inner))


def _held_out_texts(context: Context) -> Iterator[str]:
    prompts = context.lake.read(find_prompts(context.lake, context.recipe), ["split", "messages", "references"])
    for row in prompts.filter(pc.equal(prompts.column("split"), "held_out")).to_pylist():
        yield from (message["content"] for message in row["messages"])
        yield from row["references"] or []


def _publish(
    context: Context,
    name: str,
    source: CorpusSource,
    documents: list[dict[str, Any]],
    notes: dict[str, Any],
    against: Mapping[str, Any],
) -> Slice:
    student = context.row("student")
    size = context.settings.shard_groups
    shards = [documents[i : i + size] for i in range(0, len(documents), size)]
    contents = tuple(digest(shard) for shard in shards)
    settings = {"source": corpus_source(asdict(source)), "clear_of": prompts_settings(context.recipe)["source"]}
    if against:
        settings["against"] = dict(against)
    if notes["behind"]:
        settings["behind"] = notes["behind"]
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
    for line in told(name, documents, notes):
        context.remark(made, line)
    return made


def told(name: str, documents: list[dict[str, Any]], notes: Mapping[str, Any]) -> Iterator[str]:
    """What a reader must know of a corpus: what was left out and why, what could not be looked for, what has no licence."""
    yield (
        f"left out {notes['duplicates']:,} duplicates, {notes['contaminated']:,} documents that hold what is evaluated,"
        f" {notes['empty']:,} empty ones"
    )
    for source, count in notes["contaminated_by"].items():
        yield f"left out {count:,} documents sharing {GRAM} words with {source}"
    for source, count in notes["short"].items():
        yield f"{count:,} texts of {source} under {SHORTEST} words: left out only where a document is nothing else"
    unlicensed = sum(document["licence"] is None for document in documents)
    if unlicensed:
        yield f"no licence is known of {unlicensed:,} documents: map the column `licence`, or corpus.{name}.licence=NAME"


def read_documents(
    name: str, source: CorpusSource, seen: dict[int, str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of `corpus` without token ids, and how many were dropped, by reason.

    `seen`: ids of the documents of this and earlier corpora, with the corpus's name; added to."""
    what = f"corpus.{name}"
    raw = Rows(source, what, source.limit)
    columns = mapped(raw.names, source.columns, KNOWN, what)
    if "text" not in columns:
        raise Refusal(
            f"{what}: no column holds the text; there are: {', '.join(raw.names)}",
            f"{what}.columns={{text: {raw.names[0]}}}",
        )
    found: list[dict[str, Any]] = []
    notes: dict[str, Any] = {"duplicates": 0, "contaminated": 0, "empty": 0, "behind": set()}
    for number, row in enumerate(raw, 1):
        document = _document(row, columns, source, f"{what}: {source.path} row {number}")
        if not document["text"].strip():
            notes["empty"] += 1
        elif document["document_id"] in seen:
            notes["duplicates"] += 1
            notes["behind"].add(seen[document["document_id"]])
        else:
            seen[document["document_id"]] = name
            found.append(document)
    return found, notes | {"behind": sorted(notes["behind"] - {name})}


def cleared(documents: list[dict[str, Any]], forbidden: list[Forbidden], notes: dict[str, Any]) -> list[dict[str, Any]]:
    """The documents without those of train that hold what is forbidden; how many, and of which source, goes into the notes."""
    kept, by = list[dict[str, Any]](), Counter[str]()
    for document in documents:
        held = document["split"] == "held_out"
        sources = set() if held else {s for one in forbidden for s in one.sources_in(document["text"])}
        by.update(sources)
        if not sources:
            kept.append(document)
    notes["contaminated"] = len(documents) - len(kept)
    notes["contaminated_by"] = dict(sorted(by.items()))
    notes["short"] = dict(sorted((s, n) for one in forbidden for s, n in one.short.items()))
    return kept


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
